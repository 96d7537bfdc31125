"""Feature files of every tool give the same bag; hostile ones give an error that names the file, and nothing else."""

import io
import os
import pickle
import re
import struct
import zipfile
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from healnet import HEALNet, PatchBag, Stream
from healnet.data import Cohort, CohortDataset, collate
from healnet.encoders import PatchEncoder
from healnet.slides.features.trident_clam_reader import read_patches
from healnet.survival import SurvivalTarget, cox_nll

CLAM_PATCHES = Path(__file__).parents[2] / "data" / "real" / "clam_patches"
N, D = 13, 5
FEATURES = np.arange(N * D, dtype=np.float32).reshape(N, D) / 7
COORDS = np.stack((np.arange(N) * 512, np.arange(N) * 1024 + 3), axis=1)


def write_h5(path, datasets=None, **attributes):
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, values in (datasets or {"features": FEATURES, "coords": COORDS}).items():
            file[name] = values
        for key, value in attributes.items():
            name, _, attribute = key.partition("__")
            file[name].attrs[attribute] = value
    return path


def clam_patches(path, coords=COORDS, **attributes):
    geometry = {"patch_size": 256, "patch_level": 1, "downsample": (4.0, 4.0), "name": path.stem} | attributes
    return write_h5(path, {"coords": coords}, **{f"coords__{key}": value for key, value in geometry.items()})


# Formats that must be read


def test_clam_h5_takes_its_geometry_from_the_patches_file_beside(tmp_path):
    clam_patches(tmp_path / "patches" / "a.h5")
    path = write_h5(tmp_path / "h5_files" / "a.h5", {"features": FEATURES, "coords": COORDS.astype(np.int32)})
    bag = read_patches(path)
    assert (bag.slide, bag.encoder, bag.num_patches, bag.dim, bag.footprint) == ("a", None, N, D, 1024.0)
    features, coords = bag.load()
    assert torch.equal(features, torch.from_numpy(FEATURES))
    assert coords.dtype == torch.int64
    assert np.array_equal(coords, COORDS)


def test_clam_h5_alone_has_no_footprint_unless_it_is_given(tmp_path):
    path = write_h5(tmp_path / "h5_files" / "a.h5")
    assert read_patches(path).footprint is None
    assert read_patches(path, footprint=512).footprint == 512.0


def test_clam_patches_from_another_folder(tmp_path):
    path = write_h5(tmp_path / "uni" / "h5_files" / "a.h5")
    file = clam_patches(tmp_path / "level1" / "a.h5")
    assert read_patches(path, patches=file).footprint == 1024.0
    assert read_patches(path, patches=file.parent).footprint == 1024.0


def test_clam_pt_takes_coordinates_from_the_patches_file(tmp_path):
    (tmp_path / "pt_files").mkdir()
    path = tmp_path / "pt_files" / "a.pt"
    torch.save(torch.from_numpy(FEATURES), path)
    assert read_patches(path).coords is None
    assert read_patches(path).load()[1] is None
    clam_patches(tmp_path / "patches" / "a.h5")
    bag = read_patches(path)
    assert np.array_equal(bag.coords, COORDS)
    assert bag.footprint == 1024.0
    features, coords = bag.load([4, 2])
    assert np.array_equal(features, FEATURES[[4, 2]])
    assert np.array_equal(coords, COORDS[[4, 2]])


@pytest.mark.parametrize("shape", [(N, D), (1, N, D)])
def test_trident_h5(tmp_path, shape):
    path = write_h5(
        tmp_path / "features_uni_v1" / "a.h5",
        {"features": FEATURES.astype(np.float16).reshape(shape), "coords": COORDS},
        features__name="a",
        features__encoder="None",
        coords__patch_size=256,
        coords__patch_size_level0=511,
        coords__name="a",
    )
    bag = read_patches(path)
    assert (bag.encoder, bag.footprint, bag.num_patches, bag.dim) == ("uni_v1", 511.0, N, D)
    assert bag.features.dtype == "float16"
    assert bag.features.read(slice(2, 4)).dtype == np.float16
    features, _ = bag.load(slice(2, 4))
    assert features.dtype == torch.float32
    assert np.array_equal(features, FEATURES[2:4].astype(np.float16))
    assert bag.load(dtype=None)[0].dtype == torch.float16


def test_trident_attribute_names_the_encoder_and_old_files_the_magnifications(tmp_path):
    magnifications = {"coords__level0_magnification": 40, "coords__target_magnification": 20}
    path = write_h5(tmp_path / "a.h5", features__encoder="conch", coords__patch_size=256, **magnifications)
    assert (read_patches(path).encoder, read_patches(path).footprint) == ("conch", 512.0)


@pytest.mark.parametrize("shape", [(0,), (0, D), (1, 0, D)])
def test_an_empty_slide_is_a_bag_without_patches(tmp_path, shape):
    path = write_h5(
        tmp_path / "a.h5", {"features": np.empty(shape, np.float32), "coords": np.empty((0, 2), np.int64)}
    )
    bag = read_patches(path)
    assert (bag.num_patches, bag.dim) == (0, shape[-1])
    features, coords = bag.load()
    assert features.shape == (0, shape[-1])
    assert coords.shape == (0, 2)


@pytest.mark.parametrize("array", [FEATURES, np.asfortranarray(FEATURES.astype(">f8"))])
@pytest.mark.parametrize("zipped", [True, False])
def test_trident_pickled_numpy(tmp_path, zipped, array):
    path = tmp_path / "features_uni" / "a.pt"
    path.parent.mkdir()
    torch.save(array, path, _use_new_zipfile_serialization=zipped)
    bag = read_patches(path)
    assert (bag.encoder, bag.num_patches, bag.dim) == ("uni", N, D)
    assert np.array_equal(bag.load([3, 1])[0], FEATURES[[3, 1]])


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_tensors_of_every_float_type_in_both_of_torchs_formats(tmp_path, zipped, dtype):
    path = tmp_path / "a.pt"
    tensor = torch.from_numpy(FEATURES)[None].to(dtype).requires_grad_()
    torch.save(tensor, path, _use_new_zipfile_serialization=zipped)
    features, coords = read_patches(path).load(slice(3, 6))
    assert torch.equal(features, tensor[0, 3:6].float())
    kept = torch.float32 if dtype == torch.bfloat16 else dtype  # NumPy has no bfloat16
    assert read_patches(path).load(dtype=None)[0].dtype == kept
    assert coords is None


def test_a_bag_is_streamed_from_its_file(tmp_path):
    features = torch.randn(11, 5)
    coords = np.random.default_rng(0).integers(0, 9999, (11, 2))
    write_h5(tmp_path / "s.h5", {"features": features.numpy().astype(np.float16), "coords": coords})
    file = read_patches(tmp_path / "s.h5")
    torch.manual_seed(0)
    model = HEALNet({"slide": PatchEncoder(5)}).eval()
    whole, places = file.load()
    bag = PatchBag(whole[None], places[None], torch.ones(1, 11, dtype=torch.bool))
    streamed = model({"slide": Stream([file.pieces(rows=4)])})
    assert torch.allclose(streamed, model({"slide": bag}), rtol=0, atol=1e-6)


def test_numbers_of_the_other_byte_order(tmp_path):
    path = write_h5(tmp_path / "a.h5", {"features": FEATURES.astype(">f8"), "coords": COORDS.astype(">i4")})
    features, coords = read_patches(path).load([3, 1])
    assert np.array_equal(features, FEATURES[[3, 1]])
    assert np.array_equal(coords, COORDS[[3, 1]])
    assert read_patches(path).load(dtype=None)[0].dtype == torch.float64


def test_hdf5_is_recognized_by_content_even_behind_a_block_of_the_users_own(tmp_path):
    path = tmp_path / "a.pt"
    with h5py.File(path, "w", userblock_size=1024) as file:
        file["features"] = FEATURES
    assert np.array_equal(read_patches(path).features.read(), FEATURES)


def test_a_renamed_file_is_read_when_the_user_says_whose_it_is(tmp_path):
    path = write_h5(tmp_path / "b.h5", coords__name="a")
    assert read_patches(path, slide="a").slide == "a"
    assert read_patches(write_h5(tmp_path / "a.h5", coords__name="a.svs")).slide == "a"


def test_a_bag_is_a_plain_value_that_workers_can_share(tmp_path):
    paths = [write_h5(tmp_path / f"{i}.h5", {"features": FEATURES + i}) for i in range(4)]
    bags = [pickle.loads(pickle.dumps(read_patches(path))) for path in paths]
    assert bags[2] == read_patches(paths[2])
    loader = DataLoader(bags, batch_size=None, num_workers=2, collate_fn=lambda bag: bag.load()[0])
    for i, features in enumerate(loader):
        assert np.array_equal(features, FEATURES + i)


def check_clam_coordinates(source, tmp_path):
    with h5py.File(source) as file:
        coords = file["coords"][:]
    length = len(coords)
    features = np.random.default_rng(length).normal(size=(length, 16)).astype(np.float32)
    path = write_h5(
        tmp_path / "h5_files" / source.name, {"features": features, "coords": coords.astype(np.int32)}
    )
    bag = read_patches(path, patches=source.parent)
    assert (bag.slide, bag.footprint, bag.num_patches) == (source.stem, 512.0, length)
    assert np.array_equal(bag.coords, coords)
    rows = np.random.default_rng(1).permutation(length)[:1000]
    some, where = bag.load(rows)
    assert np.array_equal(some, features[rows])
    assert np.array_equal(where, coords[rows])


@pytest.mark.parametrize(("slide", "length"), [("A95S", 97), ("A9GS", 211), ("A9GT", 151)])
def test_real_clam_coordinates(tmp_path, slide, length):
    (source,) = CLAM_PATCHES.glob(f"*-{slide}-*.h5")
    assert len(h5py.File(source)["coords"]) == length
    check_clam_coordinates(source, tmp_path)


@pytest.mark.whole_files
def test_whole_files_of_clam_coordinates(whole_files, tmp_path):
    sources = sorted((whole_files / "slides" / "clam_patches").glob("*.h5"))
    assert sources
    for source in sources:
        check_clam_coordinates(source, tmp_path)


def test_real_clam_coordinates_through_reader_cohort_loader_and_model(tmp_path):
    files = {}
    for i, source in enumerate(sorted(CLAM_PATCHES.iterdir())):
        with h5py.File(source) as file:
            coords = file["coords"][:]
        features = np.random.default_rng(i).normal(size=(len(coords), 16)).astype(np.float16)
        write_h5(
            tmp_path / "h5_files" / source.name, {"features": features, "coords": coords.astype(np.int32)}
        )
        files[f"patient-{i}"] = read_patches(tmp_path / "h5_files" / source.name, patches=CLAM_PATCHES)
    target = SurvivalTarget([3.0, 1.0, 2.0], [True, True, False])
    cohort = Cohort({"slide": files}, target, list(files))
    loader = DataLoader(CohortDataset(cohort), batch_size=3, num_workers=2, collate_fn=collate)
    torch.manual_seed(0)
    model = HEALNet(
        {"slide": PatchEncoder(16)}, out_dim=1, num_latents=4, latent_dim=8, num_heads=2, head_dim=8
    )
    (batch,) = loader
    bag = batch.inputs["slide"]
    assert bag.mask.sum(1).tolist() == [97, 211, 151]
    assert [int(bag.coords[i, 7, 0]) for i in range(3)] == [int(file.coords[7, 0]) for file in files.values()]
    log_hazard, trace = model.trace(batch.inputs)
    cox_nll(log_hazard, batch.time, batch.event).backward()
    assert torch.isfinite(log_hazard).all()
    assert sum(p.grad.abs().sum() for p in model.parameters() if p.grad is not None) > 0
    # A patient alone, without the padding of a bag twice as long, gets the same.
    torch.testing.assert_close(
        model(collate([CohortDataset(cohort)[0]]).inputs), log_hazard[:1], rtol=1e-4, atol=1e-5
    )
    assert trace["slide"][:, 0, 97:].abs().max() == 0


# Hostile files. Each writer gets a folder and the marker that its code, if executed, would create; it returns the file.


class Bomb:
    """Unpickled carelessly, it runs a shell command."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


class NestedBomb(Bomb):
    """Asks for an array, and for something else with it."""

    def __reduce__(self):
        return np.array, (Bomb(self.marker),)


def pt(folder, value, **options):
    torch.save(value, folder / "a.pt", **options)
    return folder / "a.pt"


def raw(folder, data, name="a.h5"):
    (folder / name).write_bytes(data)
    return folder / name


def h5(folder, **datasets):
    return write_h5(folder / "a.h5", datasets)


def whole_h5(folder):
    return write_h5(folder / "whole" / "a.h5", {"features": np.ones((4000, D), np.float32)}).read_bytes()


def whole_pt():
    buffer = io.BytesIO()
    torch.save(torch.ones(4000, D), buffer)
    return buffer.getvalue()


def zipped_pickle(folder, data, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(folder / "a.pt", "w", compression) as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/version", "3\n")
    return folder / "a.pt"


def numpy_archive(folder):
    np.savez(folder / "a.npz", FEATURES)
    return folder / "a.npz"


def unwritten(folder, **layout):
    with h5py.File(folder / "a.h5", "w") as file:
        file.create_dataset("features", (10**9, 1024), np.float32, **layout)
    return folder / "a.h5"


def half_written(folder):
    with h5py.File(folder / "a.h5", "w") as file:
        file.create_dataset("features", (N, D), np.float32, chunks=(1, D))[:3] = 1
    return folder / "a.h5"


def linked(folder):
    write_h5(folder / "other.h5")
    with h5py.File(folder / "a.h5", "w") as file:
        file["features"] = h5py.ExternalLink("other.h5", "/features")
    return folder / "a.h5"


def linked_through_another(folder):
    """A soft link looks as if it stayed within the file."""
    write_h5(folder / "other.h5")
    with h5py.File(folder / "a.h5", "w") as file:
        file["elsewhere"] = h5py.ExternalLink("other.h5", "/")
        file["features"] = h5py.SoftLink("/elsewhere/features")
    return folder / "a.h5"


def packed(folder, chunks):
    """512 MB of zeros as one compressed chunk of 0.5 MB, in a dataset of chunks of this shape."""
    pack = zlib.compressobj(1)
    data = b"".join(pack.compress(bytes(1 << 20)) for _ in range(512)) + pack.flush()
    with h5py.File(folder / "a.h5", "w") as file:
        shape = (min(N, chunks[0]), D)
        options = {"chunks": chunks, "maxshape": (None, D), "compression": "gzip"}
        features = file.create_dataset("features", shape, np.float32, **options)
        features.id.write_direct_chunk((0, 0), data)
    return folder / "a.h5"


def pipe(folder):
    os.mkfifo(folder / "a.h5")
    return folder / "a.h5"


def far_away(folder, x, name="a.h5", **attributes):
    coords = COORDS.astype(np.int64)
    coords[3, 0] = x
    return write_h5(folder / name, {"features": FEATURES, "coords": coords}, **attributes)


def external(folder):
    (folder / "secret").write_bytes(bytes(4 * N * D))
    with h5py.File(folder / "a.h5", "w") as file:
        file.create_dataset("features", (N, D), np.float32, external=[(folder / "secret", 0, 4 * N * D)])
    return folder / "a.h5"


def virtual(folder):
    layout = h5py.VirtualLayout((N, D), np.float32)
    layout[:] = h5py.VirtualSource(write_h5(folder / "other.h5"), "features", (N, D))
    with h5py.File(folder / "a.h5", "w") as file:
        file.create_virtual_dataset("features", layout)
    return folder / "a.h5"


def flipped(folder):
    """Checksummed chunks with a flipped byte: the structure is sound, the values are not."""
    with h5py.File(folder / "a.h5", "w") as file:
        file.create_dataset("features", data=FEATURES, chunks=(N, D), fletcher32=True)
        offset = file["features"].id.get_chunk_info(0).byte_offset
    data = bytearray((folder / "a.h5").read_bytes())
    data[offset + 9] ^= 0xFF
    return raw(folder, bytes(data))


def with_value(value, dtype=np.float32):
    features = FEATURES.astype(dtype)
    features[7, 2] = value
    return features


def beside(folder, coords, **attributes):
    clam_patches(folder / "patches" / "a.h5", coords, **attributes)
    return write_h5(folder / "h5_files" / "a.h5")


def claiming(folder):
    """An array that claims 255 rows where its bytes are 13."""
    torch.save(FEATURES, folder / "a.pt")
    with zipfile.ZipFile(folder / "a.pt") as archive:
        data = archive.read("a/data.pkl")
    assert data.count(b"K\x0dK\x05") == 1
    return zipped_pickle(folder, data.replace(b"K\x0dK\x05", b"K\xffK\x05"))


HOSTILE = {
    "empty file": (lambda d, m: raw(d, b""), r"got an empty file"),
    "folder": (lambda d, m: (d / "a.h5").mkdir() or d / "a.h5", r"got a folder"),
    "text named .h5": (lambda d, m: raw(d, b"slide,features\n"), r"starts with b'slide,fe'"),
    "gzip named .pt": (lambda d, m: raw(d, b"\x1f\x8b\x08\0\0\0\0\0", "a.pt"), r"starts with b'\\x1f\\x8b"),
    "truncated h5": (lambda d, m: raw(d, whole_h5(d)[:9000]), r"damaged HDF5 file .*truncated"),
    "h5 signature alone": (lambda d, m: raw(d, b"\x89HDF\r\n\x1a\n"), r"damaged HDF5 file"),
    "h5 of zeros": (lambda d, m: raw(d, b"\x89HDF\r\n\x1a\n" + bytes(5000)), r"damaged HDF5 file"),
    "chunk with a flipped byte": (
        lambda d, m: flipped(d),
        r"expected readable values of `features`, got a damaged",
    ),
    "no features": (lambda d, m: h5(d, feats=FEATURES), r"expected a dataset `features`, got \['feats'\]"),
    "coordinates alone": (
        lambda d, m: h5(d, coords=COORDS),
        r"got coordinates alone, as a patches file has them",
    ),
    "features is a group": (lambda d, m: h5(d, **{"features/x": FEATURES}), r"expected a dataset `features`"),
    "integer features": (lambda d, m: h5(d, features=COORDS), r"to be floating-point, got int64"),
    "text features": (lambda d, m: h5(d, features=np.array([[b"a"]])), r"to be floating-point, got \|S1"),
    "80-bit features": (
        lambda d, m: h5(d, features=FEATURES.astype(np.longdouble)),
        r"to be floating-point, got float128",
    ),
    "complex features": (lambda d, m: h5(d, features=FEATURES + 1j), r"to be floating-point, got complex64"),
    "empty dataspace": (lambda d, m: h5(d, features=h5py.Empty("f4")), r"got float32 of shape None"),
    "embedding with NaN": (lambda d, m: h5(d, features=with_value(np.nan)[7]), r"got nan in row 0 \(1 such"),
    "scalar features": (
        lambda d, m: h5(d, features=np.float32(1)),
        r"of shape \(n, d\), \(1, n, d\) or \(d,\), got \(\)",
    ),
    "4-D features": (
        lambda d, m: h5(d, features=FEATURES[None, None]),
        r"\(1, n, d\) or \(d,\), got \(1, 1, 13, 5\)",
    ),
    "two slides in one": (lambda d, m: h5(d, features=np.stack([FEATURES] * 2)), r"got \(2, 13, 5\)"),
    "rows without width": (lambda d, m: h5(d, features=FEATURES[:, :0]), r"got \(13, 0\)"),
    "coords of another length": (
        lambda d, m: h5(d, features=FEATURES, coords=COORDS[:-1]),
        r"for every patch, got 13 features and 12 coords",
    ),
    "coords of floats": (
        lambda d, m: h5(d, features=FEATURES, coords=COORDS / 2),
        r"`coords` to be integer, got float64",
    ),
    "coords of three": (
        lambda d, m: h5(d, features=FEATURES, coords=COORDS[:, [0, 1, 1]]),
        r"\(n, 2\), got \(13, 3\)",
    ),
    "negative coords": (
        lambda d, m: h5(d, features=FEATURES, coords=COORDS - 1),
        r"coordinates from 0 to 16777216, got \[-1, 2\]",
    ),
    "NaN": (
        lambda d, m: h5(d, features=with_value(np.nan)),
        r"expected finite features, got nan in row 7 \(1 such",
    ),
    "infinity in float16": (
        lambda d, m: h5(d, features=with_value(-np.inf, np.float16)),
        r"got -inf in row 7",
    ),
    "too large for float32": (
        lambda d, m: h5(d, features=with_value(1e300, float)),
        r"float64 overflow torch.float32",
    ),
    "NaN in a tensor": (lambda d, m: pt(d, torch.from_numpy(with_value(np.nan))), r"got nan in row 7"),
    "never written, contiguous": (
        lambda d, m: unwritten(d),
        r"claims shape \(1000000000, 1024\), but not all",
    ),
    "never written, chunked": (
        lambda d, m: unwritten(d, chunks=(10**6, 1024)),
        r"claims shape \(1000000000, 1024\)",
    ),
    "half written": (
        lambda d, m: half_written(d),
        r"claims shape \(13, 5\), but not all of it was ever written",
    ),
    "link to another file": (
        lambda d, m: linked(d),
        r"`features` is a link to another place, which is not followed",
    ),
    "link through a link to another file": (
        lambda d, m: linked_through_another(d),
        r"`features` is a link to another place, which is not followed",
    ),
    "a pipe, that nothing is written into": (lambda d, m: pipe(d), r"; got a folder, pipe or device"),
    "coordinates beyond any slide": (
        lambda d, m: far_away(d, (1 << 24) + 1),
        r"a\.h5: expected level-0 coordinates from 0 to 16777216, got \[16777217, ",
    ),
    "coordinates that float32 and the grid would overflow on": (
        lambda d, m: far_away(d, 1 << 62),
        r"a\.h5: expected level-0 coordinates from 0 to 16777216, got \[4611686018427387904, ",
    ),
    "coordinates below zero": (lambda d, m: far_away(d, -1), r"coordinates from 0 to 16777216, got \[-1, "),
    "patch size beyond any slide": (
        lambda d, m: write_h5(d / "a.h5", coords__patch_size_level0=1e30),
        r"a patch size from 0 to 16777216 level-0 pixels, got 1e\+30",
    ),
    "a chunk of 512 MB": (
        lambda d, m: packed(d, ((1 << 29) // (4 * D) + 1, D)),
        r"expected chunks of `features` up to 268435456 bytes, got 536870920",
    ),
    "a chunk that unpacks to more than its values": (
        lambda d, m: packed(d, (N, D)),
        r"expected at most 260 bytes of `features` in its chunks, got \d+ to unpack",
    ),
    "values in another file": (lambda d, m: external(d), r"lie in another file, which is not followed"),
    "virtual dataset": (lambda d, m: virtual(d), r"lie in another file, which is not followed"),
    "another slide's name": (
        lambda d, m: write_h5(d / "a.h5", coords__name="b"),
        r"slide 'a', got those of 'b' by the",
    ),
    "names that differ inside": (
        lambda d, m: write_h5(d / "a.h5", coords__name="a", features__name="b"),
        r"got those of 'b' by the attribute `name`",
    ),
    "name that is not UTF-8": (
        lambda d, m: write_h5(d / "a.h5", coords__name=np.bytes_(b"caf\xe9")),
        r"attribute `name` to be text in UTF-8, got ",
    ),
    "patch size of text": (
        lambda d, m: write_h5(d / "a.h5", coords__patch_size="big"),
        r"`patch_size` to be numbers, got text of shape ",
    ),
    "patch size of zero": (
        lambda d, m: write_h5(d / "a.h5", coords__patch_size_level0=0),
        r"a patch size from 0 to 16777216 level-0 pixels, got 0",
    ),
    "patches of another length beside": (
        lambda d, m: beside(d, COORDS[1:]),
        r"the 13 patches of .*, got 12 coordinates",
    ),
    "other patches beside": (
        lambda d, m: beside(d, COORDS + 1),
        r"expected the coordinates of .*, got others",
    ),
    "another slide's patches beside": (
        lambda d, m: beside(d, COORDS, name="b"),
        r"slide 'a', got those of 'b'",
    ),
    "two downsamples beside": (
        lambda d, m: beside(d, COORDS, downsample=(4.0, 2.0)),
        r"one downsample for x and y",
    ),
    "damaged patches beside": (
        lambda d, m: raw(beside(d, COORDS).parents[1] / "patches", b"coords") and d / "h5_files" / "a.h5",
        r"expected a patches file with `coords`, got a damaged HDF5 file",
    ),
    "truncated pt": (lambda d, m: raw(d, whole_pt()[:4000], "a.pt"), r"a\.pt"),
    "zip without a pickle": (
        lambda d, m: numpy_archive(d),
        r"got file in archive is not in a subdirectory: arr_0\.npy",
    ),
    "pt of integers": (
        lambda d, m: pt(d, torch.ones(3, 2, dtype=torch.long)),
        r"expected floating-point features of 16, 32 or 64 bits, got torch.int64",
    ),
    "pt of a dict": (
        lambda d, m: pt(d, {"w": torch.ones(2, 2)}),
        r"expected one tensor or NumPy array, got a dict with \['w'\]",
    ),
    "sparse pt": (
        lambda d, m: pt(d, torch.eye(3).to_sparse()),
        r"expected a dense tensor with its values, got torch.sparse_coo",
    ),
    "one stored value as terabytes": (
        lambda d, m: pt(d, torch.ones(1, 1).expand(10**9, 1024)),
        r"in the file, got 4 bytes",
    ),
    "TorchScript": (
        lambda d, m: zipped_pickle(d, b"\x80\x02c__torch__\nLinear\n)\x81."),
        r"asks for __torch__.Linear",
    ),
    "array of objects": (
        lambda d, m: pt(d, np.array([[None]])),
        r"Can only build .* got <class 'numpy\.dtypes\.ObjectDType'>",
    ),
    "array larger than its bytes": (
        lambda d, m: claiming(d),
        r"got buffer size does not match array size",
    ),
    "code in a pickle": (
        lambda d, m: raw(d, pickle.dumps(Bomb(m), protocol=2), "a.pt"),
        r"asks for posix.system, where only NumPy",
    ),
    "code in a pt": (lambda d, m: pt(d, Bomb(m)), r"asks for posix.system, where only NumPy"),
    "code in a legacy pt": (
        lambda d, m: pt(d, Bomb(m), _use_new_zipfile_serialization=False),
        r"asks for posix.system",
    ),
    "code within an array": (lambda d, m: pt(d, NestedBomb(m)), r"asks for numpy.array, where only NumPy"),
    "code in an array of objects": (
        lambda d, m: pt(d, np.array([Bomb(m)])),
        r"ObjectDType",
    ),
    "code in a pickle named .h5": (
        lambda d, m: raw(d, pickle.dumps(Bomb(m), protocol=2)),
        r"asks for posix.system",
    ),
    "code in a compressed archive": (
        lambda d, m: zipped_pickle(d, pickle.dumps(Bomb(m)), zipfile.ZIP_DEFLATED),
        r"a\.pt",
    ),
    "memo place of four thousand million": (
        lambda d, m: raw(d, b"\x80\x02Nr\xff\xff\xff\xff.", "a.pt"),
        r"got Invalid magic number",
    ),
    "pickle that never ends": (lambda d, m: raw(d, b"\x80\x04" + b"N" * 20_000, "a.pt"), r"a\.pt"),
    "string longer than the file": (
        lambda d, m: raw(d, b"\x80\x04\x8d" + struct.pack("<Q", 1 << 60), "a.pt"),
        r"a\.pt",
    ),
}


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=pytest.mark.posix if "pipe" in case else ()) for case in HOSTILE]
)
def test_a_hostile_file_gives_an_error_that_names_it_and_executes_nothing(tmp_path, case):
    write, expected = HOSTILE[case]
    marker = tmp_path / "executed"
    path = write(tmp_path, marker)
    with pytest.raises(ValueError, match=expected) as caught:
        read_patches(path).load()
    assert re.match(rf".*{path.name}: ", str(caught.value))
    assert not marker.exists()


@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning"
)  # of pickletools, about backslashes in damaged names
@settings(max_examples=120, deadline=None)
@given(
    kind=st.sampled_from(["tensor", "legacy", "array"]),
    bytes_=st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), min_size=1, max_size=20),
    cut=st.one_of(st.none(), st.integers(0, 1 << 20)),
)
def test_any_damage_to_a_pt_gives_a_bag_or_an_error_that_names_the_file(tmp_path_factory, kind, bytes_, cut):
    folder = tmp_path_factory.mktemp("damaged")
    path = folder / "a.pt"
    value = FEATURES if kind == "array" else torch.from_numpy(FEATURES)
    torch.save(value, path, _use_new_zipfile_serialization=kind != "legacy")
    data = bytearray(path.read_bytes())
    for position, byte in bytes_:
        data[position % len(data)] = byte
    path.write_bytes(data if cut is None else data[: cut % len(data)])
    try:
        read_patches(path).load()
    except ValueError as error:
        message = str(error)
    else:
        message = f"{path}: "
    assert message.startswith(f"{path}: ")


def test_an_h5_cut_anywhere_gives_an_error_that_names_it(tmp_path):
    path = write_h5(tmp_path / "a.h5", coords__patch_size=256, coords__name="a")
    data = path.read_bytes()
    for length in range(1, len(data), 97):
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match=rf"^{path}: "):
            read_patches(path)


def test_the_bomb_would_go_off_if_unpickled(tmp_path):
    pickle.loads(pickle.dumps(Bomb(tmp_path / "executed")))
    assert (tmp_path / "executed").exists()


def test_whole_messages(tmp_path):
    path = tmp_path / "a.h5"
    expected = (
        "expected a feature file of CLAM or TRIDENT: HDF5 with `features` (n, d) and `coords` (n, 2), "
        "or a PyTorch file of one (n, d) tensor"
    )
    with pytest.raises(FileNotFoundError, match=f"^{re.escape(f'{path}: no such file; {expected}')}$"):
        read_patches(path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=f"^{re.escape(f'{path}: {expected}; got an empty file')}$"):
        read_patches(path)
    write_h5(path, {"features": FEATURES, "coords": COORDS[:4]})
    text = f"{path}: expected a coordinate for every patch, got 13 features and 4 coords"
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        read_patches(path)


def test_a_file_name_that_is_not_utf8(tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9.h5")
    write_h5(tmp_path / "a.h5").rename(path)
    with pytest.raises(
        ValueError, match=r"caf\\xe9\.h5: expected a file name in UTF-8, which names the slide$"
    ):
        read_patches(path)


@pytest.mark.parametrize("shape", [(D,), (1, D), (1, 1, D)])
@pytest.mark.parametrize("suffix", ["h5", "pt", "array.pt"])
def test_an_embedding_of_a_slide_is_one_row_without_coordinates(tmp_path, shape, suffix):
    """TRIDENT keeps the coordinates of all patches beside the one vector, and the patches' own file two folders away."""
    clam_patches(tmp_path / "patches" / "a.h5")
    path = tmp_path / "slide_features_titan" / f"a.{suffix.removeprefix('array.')}"
    vector = FEATURES[0].reshape(shape)
    if suffix == "h5":
        write_h5(path, {"features": vector, "coords": COORDS}, coords__patch_size_level0=512)
    else:
        path.parent.mkdir()
        torch.save(vector if suffix == "array.pt" else torch.from_numpy(vector), path)
    bag = read_patches(path)
    assert (bag.num_patches, bag.dim, bag.encoder, bag.positions) == (1, D, "titan", None)
    for rows in (None, slice(0, 1), [0], np.array([True])):
        features, coords = bag.load(rows)
        assert coords is None
        assert torch.equal(features, torch.from_numpy(FEATURES[:1]))
    assert bag.load(slice(0, 0))[0].shape == (0, D)


def test_one_vector_in_any_folder_is_an_embedding(tmp_path):
    bag = read_patches(write_h5(tmp_path / "a.h5", {"features": FEATURES[2], "coords": COORDS}))
    assert torch.equal(bag.load()[0], torch.from_numpy(FEATURES[2:3]))


def test_a_footprint_that_contradicts_the_files(tmp_path):
    path = write_h5(tmp_path / "a.h5", coords__patch_size_level0=512)
    with pytest.raises(ValueError, match=r"a\.h5: got a footprint of 256, but its files say 512\.0$"):
        read_patches(path, footprint=256)
    for impossible in (0, -1.0, 1e30, float("nan")):
        with pytest.raises(ValueError, match=rf"got a footprint of {re.escape(str(impossible))}, but its"):
            read_patches(write_h5(tmp_path / "b.h5"), footprint=impossible)
    with pytest.raises(
        FileNotFoundError, match=r"expected a patches file, or a folder with a\.h5 or a_patches\.h5$"
    ):
        read_patches(path, patches=tmp_path / "nowhere")


def test_a_file_replaced_after_opening_is_noticed(tmp_path):
    for name, write in (("a.h5", lambda p, n: write_h5(p, {"features": FEATURES[:n]})), ("a.pt", None)):
        path = tmp_path / name
        write = write or (lambda p, n: torch.save(torch.from_numpy(FEATURES[:n].copy()), p))
        write(path, N)
        bag = read_patches(path)
        write(path, 4)
        with pytest.raises(
            ValueError,
            match=r"expected 13 rows of 5 values, got .*; the file has changed since it was opened",
        ):
            bag.load()


@pytest.mark.parametrize("shape", [(1, 2), (2,)])
def test_one_patch_whose_axis_was_squeezed_away_keeps_its_coordinates(tmp_path, shape):
    path = write_h5(
        tmp_path / "a.h5",
        {"features": np.arange(4, dtype="f4"), "coords": np.array([512, 1024]).reshape(shape)},
    )
    bag = read_patches(path)
    features, coords = bag.load()
    assert (features.tolist(), coords.tolist()) == ([[0, 1, 2, 3]], [[512, 1024]])


def test_other_datasets_than_features_are_named(tmp_path):
    path = write_h5(tmp_path / "a.h5", {"feats": np.ones((3, 4), "f4"), "coords": np.zeros((3, 2), "f4")})
    got = (
        "the datasets `coords` and `feats`, as STAMP writes them, in microns; write `features`, and `coords` in level-0 "
        "pixels"
    )
    with pytest.raises(ValueError, match=f"; got {re.escape(got)}$"):
        read_patches(path)
    path = write_h5(
        tmp_path / "b.h5", {"embeddings": np.ones((3, 4), "f4"), "coords": np.zeros((3, 2), "f4")}
    )
    with pytest.raises(ValueError, match=r"; got the datasets `coords` and `embeddings`$"):
        read_patches(path)
    path = write_h5(tmp_path / "c.h5", {"coords": np.zeros((3, 2), "f4")})
    with pytest.raises(ValueError, match=r"; got coordinates alone, as a patches file has them$"):
        read_patches(path)
