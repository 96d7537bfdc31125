"""Does the loader keep up with the model? `pytest tests/benchmarks/test_loader.py` prints tokens per second of each.

A cohort of slides in TRIDENT's format in a temporary folder, which the page cache holds: what is measured is opening,
reading, checking, padding and moving between processes, not a disk. The model trains on the GPU if there is one. Nothing
gates on seconds.
"""

import os
import statistics
import time

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import DataLoader

from healnet import HEALNet
from healnet.data import Cohort, CohortDataset, LengthBuckets, collate
from healnet.encoders import PatchEncoder
from healnet.survival import SurvivalTarget, cox_nll

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
PATIENTS = 64 if CUDA else 12
DIM = 1024
BATCH = 4
WORKERS = [0, 1, 4, 8] if (os.cpu_count() or 1) >= 8 else [0, 1]
PLAIN = "| what | plain, ms | loader, ms | ratio |\n|---|---|---|---|"
TITLE = "| what | seconds an epoch | thousand tokens a second | padding |\n|---|---|---|---|"


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("features")
    generator = np.random.default_rng(0)
    files = {}
    for number, length in enumerate(generator.integers(1500, 6000, PATIENTS)):
        path = folder / f"slide-{number}.h5"
        side = int(np.ceil(np.sqrt(length)))
        with h5py.File(path, "w") as file:
            file["features"] = generator.standard_normal((length, DIM), dtype=np.float32)
            file["coords"] = np.stack(np.divmod(np.arange(length), side), axis=1) * 512
            file["coords"].attrs["patch_size_level0"] = 512
        files[f"p{number}"] = path
    target = SurvivalTarget(generator.exponential(30, PATIENTS), np.arange(PATIENTS) % 2 == 0)
    age = pd.DataFrame({"age": generator.normal(size=PATIENTS)}, index=list(files))
    return Cohort({"age": age, "slide": files}, target, files).select(["slide"])


def loader(cohort, workers, buckets=True, max_patches=None):
    dataset = CohortDataset(cohort, max_patches=max_patches)
    order = (
        {"batch_sampler": LengthBuckets(dataset.lengths(), BATCH)}
        if buckets
        else {"batch_size": BATCH, "shuffle": True}
    )
    keep = {"persistent_workers": True, "prefetch_factor": 2} if workers else {}
    return DataLoader(dataset, collate_fn=collate, num_workers=workers, pin_memory=CUDA, **order, **keep)


def epoch(batches, step=None):
    """Seconds, real tokens and padded tokens of one pass."""
    start, real, padded = time.perf_counter(), 0, 0
    for batch in batches:
        mask = batch.inputs["slide"].mask
        if step is not None:
            step(batch)
        else:
            real, padded = real + int(mask.sum()), padded + mask.numel()
    if CUDA:
        torch.cuda.synchronize()
    return time.perf_counter() - start, real, padded


def trainer():
    torch.manual_seed(0)
    model = HEALNet({"slide": PatchEncoder(DIM)}, out_dim=1).to(DEVICE)
    optimizer = torch.optim.AdamW(model.parameters())

    def step(batch):
        batch = batch.to(DEVICE, non_blocking=True)
        optimizer.zero_grad(set_to_none=True)
        cox_nll(model(batch.inputs), batch.time, batch.event).backward()
        optimizer.step()

    return step


def test_the_model_does_not_wait(cohort, report):
    def row(what, seconds, padding=""):
        report(TITLE, f"| {what} | {seconds:.2f} | {tokens / seconds / 1e3:.0f} | {padding} |")
        return tokens / seconds

    tokens = int(CohortDataset(cohort).lengths().sum())
    alone = {}
    for buckets in (True, False):
        for workers in WORKERS:
            batches = loader(cohort, workers, buckets)
            epoch(batches)  # the first starts the workers
            seconds, real, padded = epoch(batches)
            assert real == tokens
            what = f"loader alone, {workers} workers{'' if buckets else ', no buckets'}"
            alone[workers] = max(row(what, seconds, f"{padded / real - 1:.0%}"), alone.get(workers, 0))
    step = trainer()
    held = [batch.to(DEVICE) for batch in loader(cohort, 0)]
    epoch(held, step)
    model = row(f"model alone, forward and backward on {DEVICE}", epoch(held, step)[0])
    del held
    ratios = []
    for workers in WORKERS:
        batches = loader(cohort, workers)
        epoch(batches, step)
        row(f"both, {workers} workers", epoch(batches, step)[0])
        ratios.append(f"{alone[workers] / model:.1f} with {workers} workers")
    report(TITLE, f"\nTokens of the loader alone over those of the model alone: {', '.join(ratios)}.")


def write_bags(folder, lengths, chunks):
    generator = np.random.default_rng(0)
    for number, length in enumerate(lengths):
        with h5py.File(folder / f"p{number}.h5", "w") as file:
            values = generator.standard_normal((length, DIM), dtype=np.float32)
            file.create_dataset("features", data=values, chunks=chunks)
            coords = np.arange(2 * length).reshape(length, 2)
            file.create_dataset("coords", data=coords, chunks=chunks and (1, 2))
            file["coords"].attrs["patch_size_level0"] = 512
    return {f"p{number}": folder / f"p{number}.h5" for number in range(len(lengths))}


def plain_batch(paths, max_patches):
    """By hand: the whole bag, some rows of it, no check, torch's own padding."""
    generator, bags, places = np.random.default_rng(0), [], []
    for path in paths:
        with h5py.File(path) as file:
            features, coords = file["features"][:], file["coords"][:]
        if max_patches is not None:
            rows = np.sort(generator.choice(len(features), max_patches, replace=False))
            features, coords = features[rows], coords[rows]
        bags.append(torch.from_numpy(features))
        places.append(torch.from_numpy(coords).float())
    pad = torch.nn.utils.rnn.pad_sequence
    lengths = torch.tensor([len(bag) for bag in bags])
    padded = pad(bags, batch_first=True)
    return padded, pad(places, batch_first=True), torch.arange(padded.shape[1]) < lengths[:, None]


@pytest.mark.parametrize("chunks", [None, (1, DIM)])
@pytest.mark.parametrize("max_patches", [None, 512])
def test_beside_reading_by_hand(tmp_path, report, chunks, max_patches):
    files = write_bags(tmp_path, (5800, 3000, 4200, 1500), chunks)
    target = SurvivalTarget([1.0, 2.0, 3.0, 4.0], [True, False, True, False])
    dataset = CohortDataset(Cohort({"slide": files}, target, list(files)), max_patches=max_patches, seed=0)
    by_hand, ours = [], []
    for _ in range(7):  # in turn, in processor time: others may use the machine
        start = time.process_time()
        features, _, _ = plain_batch(files.values(), max_patches)
        middle = time.process_time()
        batch = dataset.batch()
        by_hand.append(middle - start)
        ours.append(time.process_time() - middle)
        assert batch.inputs["slide"].features.shape == features.shape
    if max_patches is None:
        assert torch.equal(batch.inputs["slide"].features, features)
    first, second = 1e3 * statistics.median(by_hand), 1e3 * statistics.median(ours)
    layout = "contiguous" if chunks is None else "chunks of one row, as of CLAM and TRIDENT"
    what = f"| four bags, {max_patches or 'all'} patches, {layout}"
    report(PLAIN, f"{what} | {first:.0f} | {second:.0f} | {second / first:.2f} |")
