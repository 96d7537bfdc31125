"""Batches in the loops that people have: PyTorch's own, accelerate's and Lightning's."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import DataLoader

from healnet import HEALNet
from healnet.data import Batch, Cohort, CohortDataset
from healnet.encoders import OmicEncoder
from healnet.survival import cox_nll
from healnet.survival.target import SurvivalTarget

PATIENTS = [f"patient {i}" for i in range(12)]


def cohort(target=True):
    rng = np.random.default_rng(0)
    rna = pd.DataFrame(rng.normal(size=(12, 5)), index=PATIENTS, columns=list("abcde")).drop(
        index=PATIENTS[3]
    )
    age = pd.DataFrame({"age": np.arange(12.0)}, index=PATIENTS)
    outcome = SurvivalTarget(np.arange(12.0), np.arange(12) % 2 == 0) if target else None
    return Cohort({"age": age, "rna": rna}, outcome, PATIENTS, labels={"grade": list("abc") * 4})


def model():
    encoders = {"age": OmicEncoder(1), "rna": OmicEncoder(5)}
    return HEALNet(encoders, out_dim=1, num_latents=2, latent_dim=8, num_heads=1, head_dim=4)


@pytest.mark.parametrize("target", [True, False])
@pytest.mark.parametrize("workers", [0, 1])
def test_default_collation_with_and_without_outcomes(target, workers):
    whole = cohort(target)
    batches = list(DataLoader(CohortDataset(whole), batch_size=5, num_workers=workers))
    assert [type(batch) for batch in batches] == [Batch] * 3
    assert [patient for batch in batches for patient in batch.patients] == PATIENTS
    assert torch.cat([batch.labels["grade"] for batch in batches]).tolist() == [0, 1, 2] * 4
    assert [list(batch.outcomes) for batch in batches] == [["time", "event"] if target else []] * 3


def test_accelerate_concatenates_and_dispatches():
    import accelerate
    from accelerate.utils import concatenate, find_batch_size, slice_tensors

    whole = cohort()
    parts = list(DataLoader(CohortDataset(whole), batch_size=5))
    joined = concatenate(parts)
    assert type(joined) is Batch
    assert find_batch_size(joined) == 12
    assert joined.patients == PATIENTS
    assert joined.time.tolist() == list(range(12))
    assert slice_tensors(joined, slice(2, 4)).patients == PATIENTS[2:4]
    config = accelerate.DataLoaderConfiguration(dispatch_batches=True)
    accelerator = accelerate.Accelerator(cpu=True, dataloader_config=config)
    net, loader = accelerator.prepare(model(), DataLoader(CohortDataset(whole), batch_size=5))
    seen = []
    for batch in loader:
        assert type(batch) is Batch
        accelerator.backward(cox_nll(net(batch.inputs), batch.time, batch.event))
        seen += batch.patients
    assert seen == PATIENTS


def gather(ids):
    from accelerate import Accelerator, DataLoaderConfiguration

    accelerator = Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(dispatch_batches=True))
    loader = accelerator.prepare(DataLoader(CohortDataset(cohort()), batch_size=3))
    seen = [accelerator.gather(batch.ids) for batch in loader]
    if accelerator.is_main_process:
        torch.save(torch.cat(seen), ids)


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning"
)  # fork in a process with threads, accelerate's own way
def test_accelerate_hands_batches_to_two_processes(tmp_path, monkeypatch):
    import accelerate

    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # unset, accelerate warns that it chooses a number
    accelerate.debug_launcher(gather, (tmp_path / "ids.pt",), num_processes=2)
    assert Batch.of({}, [])._replace(ids=torch.load(tmp_path / "ids.pt")).patients == PATIENTS


@pytest.mark.slow
def test_lightning_trains_on_a_cohort(tmp_path):
    import lightning.pytorch as lightning

    class Survival(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = model()
            self.seen = []

        def training_step(self, batch):
            assert type(batch) is Batch
            self.seen += batch.patients
            return cox_nll(self.model(batch.inputs), batch.time, batch.event)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    module = Survival()
    before = module.model.latents.detach().clone()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its advice on workers and logging
        trainer = lightning.Trainer(
            accelerator="cpu",
            max_epochs=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=tmp_path,
        )
        trainer.fit(module, DataLoader(CohortDataset(cohort()), batch_size=4))
    assert module.seen == PATIENTS
    assert not torch.equal(module.model.latents, before)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # of torch's own compiler
def test_compiled_with_dynamic_shapes_it_takes_any_number_of_patients():
    data, net = CohortDataset(cohort()), model().eval()
    compiled = torch.compile(net, dynamic=True, fullgraph=True)
    with torch.no_grad():
        for rows in ([0, 1, 2, 3, 4], [5, 6, 7], range(12)):
            inputs = data.batch(np.array(rows)).inputs
            torch.testing.assert_close(compiled(inputs), net(inputs), rtol=1e-4, atol=1e-5)
