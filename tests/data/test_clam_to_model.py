"""A folder in CLAM's layout through reader, cohort, loader and model."""

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import DataLoader

from healnet import HEALNet
from healnet.data import Cohort, CohortDataset, LengthBuckets, collate
from healnet.encoders import OmicEncoder, PatchEncoder
from healnet.slides import read_patches
from healnet.survival import SurvivalTarget, cox_nll

DIM = 11
SLIDES = {
    "TCGA-2V-A95S-01Z-00-DX1.9DFA": 148,
    "TCGA-2Y-A9GS-01Z-00-DX1.8F5E": 1050,
    "TCGA-2Y-A9H1-01Z-00-DX1.1B2C": 889,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """CLAM's output folder: `patches` with its attributes, `h5_files` without any, a slide's `pt_files`."""
    root = tmp_path_factory.mktemp("clam")
    for kind in ("patches", "h5_files", "pt_files"):
        (root / kind).mkdir()
    for number, (slide, n) in enumerate(SLIDES.items()):
        rng = np.random.default_rng(number)
        cells = rng.permutation(90 * 90)[:n]
        coords = np.stack((cells % 90, cells // 90), axis=1).astype(np.int64) * 512 + [1024, 2048]
        with h5py.File(root / "patches" / f"{slide}.h5", "w") as file:
            file["coords"] = coords
            # As CLAM writes them: the size at patch_level, whose pixels are `downsample` of level 0.
            file["coords"].attrs.update(
                patch_size=256,
                patch_level=1,
                downsample=np.array([2.0, 2.0]),
                downsampled_level_dim=np.array([25_000, 24_000]),
                level_dim=np.array([25_000, 24_000]),
                name=slide,
                save_path="/somewhere/else/patches",
            )
        features = rng.normal(size=(n, DIM)).astype(np.float32)
        torch.save(torch.from_numpy(features), root / "pt_files" / f"{slide}.pt")
        if number:  # the first has CLAM's pt file only, whose geometry is in the patches file
            with h5py.File(root / "h5_files" / f"{slide}.h5", "w") as file:
                file["features"], file["coords"] = features, coords.astype(np.int32)
    return root


@pytest.fixture(scope="module")
def cohort(folder):
    """Three TCGA patients with a slide each and one without; the two of 2Y are one patient with two slides here."""
    patients = ["TCGA-2V", "TCGA-2Y", "TCGA-ZZ"]
    age = pd.DataFrame({"age": [0.3, -0.5, 0.2]}, index=patients)
    target = SurvivalTarget([10.0, 20.0, 5.0], [True, False, True])
    whole = Cohort({"clinical": age}, target, patients)
    return whole.with_patches(folder, patient_of=lambda slide: slide[:7])


def test_nobody_is_lost_and_nothing_is_mixed_up(cohort, folder):
    assert repr(cohort) == "Cohort(3 patients, 2 events, clinical 3x1, slide 2x11)"
    files = cohort.files()
    assert files["patches"].tolist() == [148, 1050, 889]
    assert files["footprint"].tolist() == [512.0] * 3
    assert files["patient"].tolist() == ["TCGA-2V", "TCGA-2Y", "TCGA-2Y"]
    assert cohort.missing()["slide"].tolist() == [False, False, True]
    bag = CohortDataset(cohort)[1].inputs["slide"]
    start = 0
    for number, slide in enumerate(files["slide"][1:]):
        opened = read_patches(folder / "h5_files" / f"{slide}.h5")
        with h5py.File(folder / "patches" / f"{slide}.h5") as file:
            real = torch.from_numpy(file["coords"][:])
        part = slice(start, start + len(real))
        assert torch.equal(bag.coords[part, :2], real.float())
        assert torch.equal(bag.coords[part, 2], torch.full((len(real),), float(number)))
        assert torch.equal(bag.features[part], opened.load()[0])
        start += len(real)
    assert start == len(bag.features)


@pytest.mark.filterwarnings("ignore:Cox's loss of this batch is constant")  # of batches of two
@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.posix)])
def test_it_trains(cohort, workers):
    dataset = CohortDataset(cohort, max_patches=70)
    torch.manual_seed(0)
    model = HEALNet(
        {"clinical": OmicEncoder(1, tokens="vector"), "slide": PatchEncoder(DIM)},
        out_dim=1,
        depth=1,
        num_latents=4,
        latent_dim=8,
        num_heads=2,
        head_dim=4,
    )
    loader = DataLoader(
        dataset,
        batch_sampler=LengthBuckets(dataset.lengths(), 2, seed=1),
        collate_fn=collate,
        num_workers=workers,
        multiprocessing_context="fork" if workers else None,
    )
    seen = []
    for batch in loader:
        assert batch.inputs["slide"].features.shape[1] in (0, 70)
        out = model(batch.inputs).squeeze(-1)
        loss = cox_nll(out, batch.time, batch.event)
        loss.backward()
        seen += batch.patients
    assert sorted(seen) == sorted(cohort.patients)
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients
    assert all(g.isfinite().all() for g in gradients)


def test_a_patient_in_a_batch_gets_what_they_get_alone(cohort):
    torch.manual_seed(0)
    sizes = {"out_dim": 2, "depth": 1, "num_latents": 4, "latent_dim": 8, "num_heads": 2, "head_dim": 4}
    encoders = {"clinical": OmicEncoder(1, tokens="vector"), "slide": PatchEncoder(DIM)}
    model = HEALNet(encoders, **sizes).double().eval()
    dataset = CohortDataset(cohort, torch.float64, max_patches=60)
    items = [dataset[0], dataset[2], dataset[1]]
    with torch.no_grad():
        together = model(collate(items).inputs)
        alone = torch.cat([model(collate([item]).inputs) for item in items])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-10)
