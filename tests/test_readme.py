"""What the README shows runs as it stands there."""

import importlib.util
import re
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

OTHERS = ("accelerate", "lightning", "torch_geometric")  # whose own warnings are not ours
README = Path(__file__).parents[1] / "README.md"
REFERENCE = Path(__file__).parent / "reference" / "tables"
TABLES = {
    "data_clinical_patient.txt": REFERENCE / "cbioportal_data_clinical_patient.txt",
    "data_cna.txt": REFERENCE / "cbioportal_data_cna.txt",
    "HiSeqV2.gz": REFERENCE / "xena_HiSeqV2.gz",
}


@pytest.fixture
def slides(tmp_path, monkeypatch):
    """A working folder with the slide and the tables that the README speaks of."""
    monkeypatch.chdir(tmp_path)
    for name in TABLES:
        shutil.copy(TABLES[name], tmp_path / name)
    (tmp_path / "slides").mkdir()
    spec = importlib.util.spec_from_file_location(
        "whole_slide", README.parent / "examples" / "whole_slide.py"
    )
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    example.make_slide(tmp_path / "slides" / "s1.svs", side=1024)
    return tmp_path


@pytest.mark.slow
def test_the_python_blocks_run_one_after_the_other(slides, capsys):
    text = README.read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 4
    space = {"__name__": "__main__"}
    for block in blocks:
        with warnings.catch_warnings():
            if any(f"import {name}" in block or f"from {name}" in block for name in OTHERS):
                warnings.simplefilter("ignore")
            exec(compile(block, str(README), "exec"), space)
    score = float(capsys.readouterr().out.split()[0])
    assert 0.5 < score <= 1
    curves = space["curves"]
    assert curves.shape == (19, 2)
    assert ((curves[:, 0] > curves[:, 1]) & (curves[:, 0] < 1) & (curves[:, 1] > 0)).all()
    assert repr(space["own"]) == "Cohort(4 patients, 2 events, clinical 4x3, rna 3x3, cnv 3x2)"
    has = space["unseen"].inputs["rna"].mask.any(dim=1)
    assert space["trace"]["rna"].shape == (2, 19, 4)
    torch.testing.assert_close(space["trace"]["rna"].sum(-1), has.float().expand(2, 19))
    assert space["survival"].shape == (len(space["new"]), 2)
    np.testing.assert_allclose(space["risks"], space["trained"].predict(space["own"]), atol=1e-6)
    assert len(space["step_functions"]) == 92
    assert space["loss"].isfinite()
    assert space["log_hazard"].shape == (2, 1)  # of the two graphs
    written = {path.name for path in slides.iterdir()} - {"slides", "features", *TABLES}
    assert written == {"modalities.png", "genes.png", "heatmap.png", "s1.geojson", "my_model"}


def test_the_commands_name_files_that_exist():
    root = README.parent
    for command in re.findall(
        r"^```sh\n(.*?)^```$", README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    ):
        for path in re.findall(r"\b(?:examples|tests)/[\w./]+", command):
            assert (root / path).exists(), path
