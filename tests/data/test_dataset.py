import pickle
import warnings
from functools import partial
from typing import NamedTuple

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import DataLoader

from healnet.data import Batch, Cohort, CohortDataset, collate
from healnet.encoders import GridEncoder
from healnet.inputs import Masked, PatchBag
from healnet.survival.target import SurvivalTarget

PATIENTS = [f"p{i}" for i in range(11)]
TARGET = SurvivalTarget(np.arange(11) + 0.1, np.arange(11) % 3 == 0)


def tables():
    generator = np.random.default_rng(0)
    rna = pd.DataFrame(generator.normal(size=(11, 5)), index=PATIENTS, columns=list("abcde"))
    rna.iloc[2, 1] = np.nan
    return {
        "rna": rna.drop(index=["p4", "p7"]),
        "clinical": pd.DataFrame({"age": np.arange(11.0), "sex": 1.0}, index=PATIENTS),
    }


def cohort():
    return Cohort(tables(), TARGET, PATIENTS)


def write_bag(path, features, coords=None):
    with h5py.File(path, "w") as file:
        file["features"] = np.asarray(features, dtype=np.float32)
        if coords is not None:
            file["coords"] = np.asarray(coords, dtype=np.int64)
            file["coords"].attrs["patch_size_level0"] = 256
    return path


def test_gaps_are_zeros_behind_a_mask():
    dataset = CohortDataset(cohort())
    assert len(dataset) == 11
    missing_cell, absent = dataset[2], dataset[4]
    assert missing_cell.inputs["rna"].mask.tolist() == [True, False, True, True, True]
    assert missing_cell.inputs["rna"].values[1] == 0
    assert missing_cell.inputs["rna"].values[0].item() == pytest.approx(tables()["rna"].loc["p2", "a"])
    assert not absent.inputs["rna"].mask.any()
    assert not absent.inputs["rna"].values.any()
    assert (absent.time.item(), absent.event.item(), absent.patients) == (4.1, False, ["p4"])


def test_it_is_a_sequence():
    dataset = CohortDataset(cohort())
    assert dataset[-1].patients == ["p10"]
    for wrong in (11, -12):
        with pytest.raises(IndexError, match=f"^patient {wrong} of a cohort of 11$"):
            dataset[wrong]
    assert [item.patients for item in dataset] == [[patient] for patient in PATIENTS]


def test_a_batch_is_of_positions_or_of_a_mask():
    dataset = CohortDataset(cohort())
    for chosen in ([4, 1], np.array([4, 1]), torch.tensor([4, 1]), [-7, -10]):
        assert dataset.batch(chosen).patients == ["p4", "p1"]
    assert dataset.batch(np.arange(11) % 5 == 1).patients == ["p1", "p6"]
    assert dataset.batch().patients == PATIENTS


def test_times_keep_the_precision_that_bin_edges_need():
    assert CohortDataset(cohort()).batch().time.tolist() == TARGET.time.tolist()


def test_the_type_of_values_is_the_users():
    assert CohortDataset(cohort(), torch.float64).batch().inputs["rna"].values.dtype == torch.float64
    assert CohortDataset(cohort()).batch().inputs["rna"].values.dtype == torch.float32


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("collate_fn", [None, collate])
def test_a_plain_loader_works_with_its_defaults(workers, collate_fn):
    whole = cohort()
    loader = DataLoader(
        CohortDataset(whole), batch_size=4, shuffle=True, num_workers=workers, collate_fn=collate_fn
    )
    seen = []
    for batch in loader:
        assert isinstance(batch, Batch)
        assert isinstance(batch.inputs["rna"], Masked)
        assert batch.event.dtype == torch.bool
        assert batch.time.dtype == torch.float64
        for row, patient in enumerate(batch.patients):
            expected = whole.table("rna").loc[patient].to_numpy()
            assert batch.inputs["rna"].mask[row].tolist() == (~np.isnan(expected)).tolist()
            np.testing.assert_allclose(batch.inputs["rna"].values[row], np.nan_to_num(expected), rtol=1e-6)
            assert batch.time[row] == whole.target.time[whole.locate([patient])[0]]
            seen.append(patient)
    assert sorted(seen) == sorted(PATIENTS)


def test_default_collation_and_ours_agree_on_tables():
    items = [CohortDataset(cohort())[i] for i in (2, 4, 9)]
    ours, theirs = collate(items), torch.utils.data.default_collate(items)
    assert type(theirs) is Batch
    for name in ours.inputs:
        assert type(theirs.inputs[name]) is Masked
        assert all(map(torch.equal, ours.inputs[name], theirs.inputs[name]))
    assert torch.equal(ours.time, theirs.time)
    assert torch.equal(ours.event, theirs.event)
    assert ours.patients == theirs.patients == ["p2", "p4", "p9"]


def test_batches_can_be_pinned():
    with warnings.catch_warnings():
        # Without an accelerator torch warns that pinning does nothing, and that is all it may say.
        warnings.filterwarnings("ignore", "'pin_memory' argument is set as true", UserWarning)
        loader = DataLoader(CohortDataset(cohort()), batch_size=4, pin_memory=True, num_workers=2)
        batches = list(loader)
    assert [type(batch) for batch in batches] == [Batch] * 3
    assert all(isinstance(batch.inputs["rna"], Masked) for batch in batches)


def test_slides_of_a_patient_become_one_bag(tmp_path):
    one = write_bag(tmp_path / "one.h5", np.ones((3, 2)), [[0, 0], [256, 0], [512, 0]])
    two = write_bag(tmp_path / "two.h5", np.full((2, 2), 2.0), [[0, 256], [256, 256]])
    empty = write_bag(tmp_path / "empty.h5", np.empty((0, 2)), np.empty((0, 2)))
    files = {"p0": [one, two], "p1": [empty]}
    whole = Cohort({**tables(), "slide": files}, TARGET, PATIENTS)
    dataset = CohortDataset(whole)
    bag = dataset[0].inputs["slide"]
    assert isinstance(bag, PatchBag)
    assert bag.features[:, 0].tolist() == [1, 1, 1, 2, 2]
    assert bag.coords.tolist() == [[0, 0, 0], [256, 0, 0], [512, 0, 0], [0, 256, 1], [256, 256, 1]]
    assert dataset[1].inputs["slide"].features.shape == dataset[5].inputs["slide"].features.shape == (0, 2)
    assert dataset.lengths().tolist() == [5] + [0] * 10
    batch = dataset.batch([5, 0])
    assert batch.inputs["slide"].mask.tolist() == [[False] * 5, [True] * 5]
    # A batch in which nobody has a slide is a batch all the same.
    assert dataset.batch([1, 2]).inputs["slide"].features.shape == (2, 0, 2)


def test_it_holds_no_features(tmp_path):
    """A thousand slides train in the memory of a few batches, and cost a loader's workers nothing to receive."""
    files = {p: write_bag(tmp_path / f"{p}.h5", np.zeros((2000, 64)), np.zeros((2000, 2))) for p in PATIENTS}
    dataset = CohortDataset(Cohort({"slide": files}, TARGET, PATIENTS))
    assert dataset.batch().inputs["slide"].features.nbytes == 11 * 2000 * 64 * 4
    assert len(pickle.dumps(dataset)) < 2_000 * len(PATIENTS)


def test_training_may_take_a_random_part_of_the_patches(tmp_path):
    one = write_bag(tmp_path / "one.h5", np.arange(30.0).reshape(30, 1), np.zeros((30, 2)))
    two = write_bag(tmp_path / "two.h5", np.arange(30.0, 40).reshape(10, 1), np.zeros((10, 2)))
    few = write_bag(tmp_path / "few.h5", np.arange(5.0).reshape(5, 1), np.zeros((5, 2)))
    whole = Cohort({**tables(), "slide": {"p0": [one, two], "p1": [few]}}, TARGET, PATIENTS)
    dataset = CohortDataset(whole, max_patches=12, seed=0)
    assert dataset.lengths()[:3].tolist() == [12, 5, 0]
    draws = [dataset[0].inputs["slide"] for _ in range(100)]
    for bag in draws:
        values = bag.features[:, 0]
        assert len(values.unique()) == 12
        assert torch.equal(bag.coords[:, 2] == 1, values >= 30)
    counts = torch.cat([bag.features[:, 0] for bag in draws]).long().bincount(minlength=40)
    # Each of the 40 is drawn with probability 12 / 40, whichever slide it is on.
    assert counts.float().mean() == pytest.approx(30)
    assert 10 <= counts.min()
    assert counts.max() <= 55
    assert len(dataset[1].inputs["slide"].features) == 5
    # The draws depend on seed, epoch and patient alone: not on torch's generator, nor on who else is in the cohort.
    part = CohortDataset(whole[[1, 0]], max_patches=12, seed=0)
    assert torch.equal(part[1].inputs["slide"].features, draws[0].features)
    dataset.set_epoch(3)
    assert torch.equal(dataset[0].inputs["slide"].features, draws[3].features)
    other = CohortDataset(whole, max_patches=12, seed=1)
    assert not torch.equal(other[0].inputs["slide"].features, draws[0].features)


def test_patches_follow_torchs_seed_by_default(tmp_path):
    path = write_bag(tmp_path / "one.h5", np.arange(90.0).reshape(90, 1), np.zeros((90, 2)))
    whole = Cohort({"slide": {"p0": path}})

    def drawn(seed):
        torch.manual_seed(seed)
        return CohortDataset(whole, max_patches=9)[0].inputs["slide"].features.ravel().tolist()

    assert drawn(0) == drawn(0)
    assert drawn(0) != drawn(1)
    torch.manual_seed(0)
    CohortDataset(whole)
    after = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(torch.rand(1), after)


def served(whole, workers, persistent=False):
    """The patches that each patient gets in three epochs, with torch's generator moved by other draws between them."""
    torch.manual_seed(workers)
    loader = DataLoader(
        CohortDataset(whole, max_patches=4, seed=0),
        batch_size=3,
        shuffle=True,
        collate_fn=collate,
        num_workers=workers,
        persistent_workers=persistent,
    )
    epochs = []
    for _ in range(3):
        drawn = {}
        for batch in loader:
            rows = batch.inputs["slide"].features.squeeze(-1).tolist()
            drawn |= dict(zip(batch.patients, rows, strict=True))
            torch.rand(2)
        epochs.append(drawn)
    return epochs


@pytest.mark.slow
def test_patches_do_not_depend_on_the_number_of_workers(tmp_path):
    files = {
        p: write_bag(tmp_path / f"{p}.h5", np.arange(50.0).reshape(50, 1), np.zeros((50, 2)))
        for p in PATIENTS
    }
    whole = Cohort({"slide": files}, TARGET, PATIENTS)
    expected = served(whole, 0)
    assert len({tuple(epoch["p3"]) for epoch in expected}) == 3
    assert len({tuple(patches) for patches in expected[0].values()}) == 11
    assert served(whole, 1) == served(whole, 2) == served(whole, 2, persistent=True) == expected


def test_files_without_coordinates_have_zeros(tmp_path):
    torch.save(torch.ones(4, 3), tmp_path / "a.pt")
    whole = Cohort({**tables(), "slide": {"p0": tmp_path / "a.pt"}}, TARGET, PATIENTS)
    assert CohortDataset(whole)[0].inputs["slide"].coords.tolist() == [[0, 0, 0]] * 4


def test_a_file_that_turns_bad_is_named(tmp_path):
    path = write_bag(tmp_path / "one.h5", np.ones((3, 2)), np.zeros((3, 2)))
    dataset = CohortDataset(Cohort({**tables(), "slide": {"p0": path}}, TARGET, PATIENTS))
    write_bag(path, [[1, 2], [3, np.nan], [5, 6]], np.zeros((3, 2)))
    with pytest.raises(ValueError, match=r"one\.h5: expected finite features, got nan in row 1"):
        dataset[0]


def test_volumes_of_one_shape_go_through_default_collation():
    volumes = {"p0": np.ones((2, 3, 1)), "p3": torch.full((2, 3, 1), 2.0)}
    dataset = CohortDataset(Cohort({**tables(), "ct": volumes}, TARGET, PATIENTS))
    batch = next(iter(DataLoader(dataset, batch_size=5)))
    assert batch.inputs["ct"].mask.tolist() == [True, False, False, True, False]
    assert batch.inputs["ct"].values.sum(dim=(1, 2, 3)).tolist() == [6, 0, 0, 12, 0]


def test_volumes_of_different_shapes_are_padded_by_ours():
    volumes = {"p0": np.ones((2, 3, 1)), "p3": np.ones((4, 2, 1))}
    dataset = CohortDataset(Cohort({**tables(), "ct": volumes}, TARGET, PATIENTS))
    batch = dataset.batch([0, 1, 3])
    assert batch.inputs["ct"].values.shape == (3, 4, 3, 1)
    assert batch.inputs["ct"].mask.sum(dim=(1, 2)).tolist() == [6, 0, 8]


def load(path):
    return np.load(path, mmap_mode="r")  # an array that cannot be written


def test_values_may_be_read_when_they_are_needed(tmp_path):
    np.save(tmp_path / "a.npy", np.full((2, 2), 3.0))
    np.save(tmp_path / "b.npy", np.full((1, 2), 4.0))
    lazy = {"p0": partial(load, tmp_path / "a.npy"), "p2": partial(load, tmp_path / "b.npy")}
    dataset = CohortDataset(Cohort({**tables(), "sensor": lazy}, TARGET, PATIENTS))
    again = pickle.loads(pickle.dumps(dataset))
    batch = again.batch([0, 1, 2])
    assert batch.inputs["sensor"].mask.tolist() == [[True, True], [False, False], [True, False]]
    assert batch.inputs["sensor"].values[2].tolist() == [[4.0, 4.0], [0.0, 0.0]]


class Visits(NamedTuple):
    values: torch.Tensor
    times: torch.Tensor
    mask: torch.Tensor


def test_named_tuples_stay_what_they_are():
    visits = Visits(torch.ones(2, 3), torch.arange(2), torch.tensor([True, True]))
    dataset = CohortDataset(Cohort({**tables(), "visits": {"p1": visits}}, TARGET, PATIENTS))
    batch = dataset.batch([0, 1])
    assert isinstance(batch.inputs["visits"], Visits)
    assert batch.inputs["visits"].mask.tolist() == [[False, False], [True, True]]
    assert batch.inputs["visits"].values.shape == (2, 2, 3)


def test_a_part_in_which_nobody_has_a_modality_keeps_its_shape(tmp_path):
    slides = {"p0": write_bag(tmp_path / "one.h5", np.ones((3, 2)), np.zeros((3, 2)))}
    visits = Visits(torch.ones(2, 3), torch.arange(2), torch.tensor([True, True]))
    rest = {"slide": slides, "ct": {"p0": np.ones((2, 5, 1))}, "visits": {"p0": visits}}
    batch = CohortDataset(Cohort({**tables(), **rest}, TARGET, PATIENTS)[[1, 2]]).batch()
    assert batch.inputs["slide"].features.shape == (2, 0, 2)
    assert batch.inputs["ct"].values.shape == (2, 2, 5, 1)
    assert batch.inputs["ct"].mask.tolist() == [False, False]
    assert batch.inputs["visits"].values.shape == (2, 0, 3)


def test_max_patches_is_a_number_of_patches():
    with pytest.raises(ValueError, match=r"^expected max_patches >= 1 or None, got 0$"):
        CohortDataset(cohort(), max_patches=0)


@pytest.mark.parametrize("lazy", [False, True])
def test_volumes_with_their_channels_first_are_padded_by_ours(lazy):
    volumes = {"p0": np.full((2, 3, 5), 1.0), "p3": np.full((2, 4, 2), 3.0)}
    source = {p: (lambda volume=volume: volume) if lazy else volume for p, volume in volumes.items()}
    whole = Cohort({**tables(), "ct": source}, TARGET, PATIENTS, channels_first=["ct"])
    batch = CohortDataset(whole).batch([0, 1, 3])
    ct = batch.inputs["ct"]
    assert ct.values.shape == (3, 2, 4, 5)
    assert ct.mask.shape == (3, 4, 5)
    assert ct.mask.sum(dim=(1, 2)).tolist() == [15, 0, 8]
    assert torch.equal(ct.values[0].sum(dim=0) == 2, ct.mask[0])
    assert torch.equal(ct.values[2].sum(dim=0) == 6, ct.mask[2])
    # A patient gets from the model's encoder in company what they get alone.
    encoder = GridEncoder(channels=2, ndim=2, channels_first=True)
    alone = encoder(torch.tensor(volumes["p3"], dtype=torch.float32)[None])
    together = encoder(ct)
    assert torch.equal(together.values[2][together.mask[2]], alone.values[0])
    # Nobody in the batch has it: no token for anybody.
    assert not encoder(CohortDataset(whole).batch([1, 2]).inputs["ct"]).mask.any()
    more = cohort().with_modality("ct", source, channels_first=True)
    assert torch.equal(CohortDataset(more).batch([0, 3]).inputs["ct"].values, ct.values[[0, 2]])


def test_masked_volumes_with_their_channels_first_keep_their_masks():
    real = torch.ones(3, 4, dtype=torch.bool)
    real[0, 0] = False
    scans = {
        "p0": Masked(torch.ones(2, 3, 4), real),
        "p1": Masked(torch.ones(2, 5, 1), torch.ones(5, 1).bool()),
    }
    whole = Cohort({**tables(), "ct": scans}, TARGET, PATIENTS, channels_first=["ct"])
    ct = CohortDataset(whole).batch([0, 1, 2]).inputs["ct"]
    assert ct.values.shape == (3, 2, 5, 4)
    assert torch.equal(ct.mask[0, :3], real)
    assert ct.mask.sum(dim=(1, 2)).tolist() == [11, 5, 0]


def test_it_says_what_it_serves():
    whole = cohort()
    assert repr(CohortDataset(whole)) == f"CohortDataset({whole!r})"
    assert repr(CohortDataset(whole, max_patches=5)) == f"CohortDataset({whole!r}, max_patches=5)"
