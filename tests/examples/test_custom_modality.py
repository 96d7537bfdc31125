"""The example of an encoder and a fusion layer of one's own, run as a user would."""

import csv
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from healnet.fusion import HybridFusionLayer
from healnet.testing import LawBrokenError, check_fusion_layer

EXAMPLE = Path(__file__).parents[2] / "examples" / "custom_modality.py"


@pytest.mark.slow
def test_quick_run(tmp_path):
    result = subprocess.run(
        [sys.executable, str(EXAMPLE), "--quick", "--output", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert result.returncode == 0, result.stderr
    assert "the encoder and the fusion layer keep the laws" in result.stdout
    with (tmp_path / "custom_modality.csv").open() as file:
        scores = [float(row["c_index"]) for row in csv.DictReader(file)]
    assert len(scores) == 2
    assert min(scores) > 0.6  # five folds gave 0.854 (0.028)


@pytest.fixture
def example():
    spec = importlib.util.spec_from_file_location("custom_modality", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_patient_without_mutations_is_not_one_without_the_test(example):
    values = torch.tensor([[1.0, -1.0, 1.0], [-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]])
    tokens = example.MutatedGenes(3)(example.Masked(values, torch.tensor([True, True, False])))
    assert tokens.mask.int().tolist() == [[1, 0, 1, 1], [0, 0, 0, 1], [0, 0, 0, 0]]


def test_a_closed_gate_keeps_what_the_clinical_table_said(example):
    torch.manual_seed(0)
    layer = example.ClinicallyGated(8, {"clinical": 3, "rna": 5})
    torch.nn.init.zeros_(layer.gate.weight)
    torch.nn.init.constant_(layer.gate.bias, -1e4)
    latents = torch.randn(2, 4, 8)
    tokens = {"clinical": example.Tokens(torch.randn(2, 1, 3)), "rna": example.Tokens(torch.randn(2, 6, 5))}
    alone = layer.read_clinical(latents, {"clinical": tokens["clinical"]})
    torch.testing.assert_close(layer(latents, tokens), alone, rtol=0, atol=0)


def test_the_kit_sees_a_gate_that_reads_padding(example):
    class Careless(example.ClinicallyGated):
        def forward(self, latents, tokens, recorder=None):
            latents = super().forward(latents, tokens, recorder)
            return latents + tokens["rna"].values.shape[1] if "rna" in tokens else latents

    assert issubclass(Careless, example.FusionLayer)
    assert isinstance(Careless(16, {"clinical": 3, "rna": 5}).read_rest, HybridFusionLayer)
    with pytest.raises(LawBrokenError):
        check_fusion_layer(Careless(16, {"clinical": 3, "rna": 5}), 16, {"clinical": 3, "rna": 5})
