"""Twelve things that a newcomer with own tables does, each as short as promised.

A script is the body of a function under `at_most`, as a notebook would have it. Its lines of code are counted: not imports,
nor comments, nor a `return` that only hands out what was made.
"""

import ast
import inspect
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from sklearn.model_selection import cross_val_score
from torch import nn

from healnet import HEALNet, HEALNetSurvivalAnalysis
from healnet.data import Cohort, CohortDataset, Standardizer, encode_clinical, read_matrix, tcga_patients
from healnet.datasets import load_breast_cancer, load_mini_acc
from healnet.encoders import OmicEncoder
from healnet.explain import shapley_modalities
from healnet.fusion import MeanHead
from healnet.survival import SurvivalTarget, concordance, cox_nll
from healnet.training import Recipe, fit_ensemble

TABLES = Path(__file__).parent / "reference" / "tables"
TASKS = {}


def at_most(lines):
    """Register a script with the number of lines that it may have."""

    def register(script):
        TASKS[script.__name__] = script, lines
        return script

    return register


def count_lines(source):
    """Lines of code of a function's body."""
    body = ast.parse(textwrap.dedent(source)).body[0].body
    last = body[-1]
    if isinstance(last, ast.Return) and all(
        isinstance(node, ast.Name | ast.Tuple | ast.Load) for node in ast.walk(last.value)
    ):
        body = body[:-1]
    parts = [part for part in body if not isinstance(part, ast.Import | ast.ImportFrom)]
    every = textwrap.dedent(source).splitlines()
    lines = [line.strip() for part in parts for line in every[part.lineno - 1 : part.end_lineno]]
    return sum(bool(line) and not line.startswith("#") for line in lines)


def test_lines_of_code_are_counted():
    source = (
        "def f(x):\n    import g\n    y = g(\n        x\n    )\n\n    # why\n    for z in y:\n        h(z)\n"
    )
    source += "    return y, z\n"
    assert count_lines(source) == 5
    assert count_lines(source.replace("return y, z", "return k(y)")) == 6


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder of mini-ACC as a hospital would export it: text, gaps, each table with its own patients."""
    folder, cohort = tmp_path_factory.mktemp("files"), load_mini_acc()
    clinical = pd.DataFrame(
        {
            "AGE": cohort.table("clinical")["age"],
            "SEX": cohort.table("clinical")["is_female"].map({0.0: "Male", 1.0: "Female"}),
            "OS_MONTHS": cohort.target.time / 30.44,
            "OS_STATUS": np.where(cohort.target.event, "1:DECEASED", "0:LIVING"),
        }
    )
    clinical.to_csv(folder / "clinical.csv")
    for name in ("rna", "protein"):
        cohort.table(name).dropna(how="all").to_csv(folder / f"{name}.csv")
    for name in ("gdc_pancan_geneExp.tsv", "xena_HiSeqV2.gz"):
        shutil.copy(TABLES / name, folder / name)
    return folder


@pytest.fixture
def work(files, monkeypatch, tmp_path):
    """A working folder of the test's own with those files in it."""
    shutil.copytree(files, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def acc():
    """Patients to train on and new ones, of two tables with gaps."""
    cohort = load_mini_acc().select(["clinical", "rna"])
    train, test = cohort.folds(3, seed=0)[0]
    return cohort[train], cohort[test]


@pytest.fixture(scope="module")
def ensemble(acc):
    return fit_ensemble(acc[0], Recipe(members=2, epochs=15))


def batch_of(ensemble, cohort):
    return CohortDataset(ensemble.scaler.transform(cohort)).batch()


@at_most(6)
def three_csvs_to_a_cohort():
    clinical = pd.read_csv("clinical.csv", index_col=0)
    target = SurvivalTarget.from_frame(clinical, "OS_MONTHS", "OS_STATUS")
    findings = encode_clinical(clinical[["AGE", "SEX"]], one_hot=["SEX"])
    rna = pd.read_csv("rna.csv", index_col=0)
    protein = pd.read_csv("protein.csv", index_col=0)
    cohort = Cohort({"clinical": findings, "rna": rna, "protein": protein}, target, clinical.index)
    return cohort


@pytest.mark.usefixtures("work")
def test_1_three_csvs_to_a_cohort():
    cohort, expected = three_csvs_to_a_cohort(), load_mini_acc()
    assert repr(cohort) == "Cohort(92 patients, 34 events, clinical 92x3, rna 79x198, protein 46x33)"
    assert cohort.missing().sum().tolist() == [0, 13, 46]
    for name in ("rna", "protein"):
        np.testing.assert_allclose(cohort.table(name), expected.table(name))
    assert cohort.table("clinical").loc["TCGA-OR-A5J2"].tolist() == [44, 1, 0]
    assert cohort.target.event.tolist() == expected.target.event.tolist()


@at_most(2)
def aliquots_to_patients():
    aliquots = read_matrix("gdc_pancan_geneExp.tsv", genes_in_rows=True)
    patients = tcga_patients(aliquots)
    return patients


@pytest.mark.usefixtures("work")
def test_2_aliquot_barcodes_to_patients():
    found = aliquots_to_patients()["TP53|7157"]
    assert found.to_dict() == {"TCGA-OR-A5J1": 660.2, "TCGA-OR-A5J2": 812.3}  # the last of two aliquots


@at_most(2)
def genes_in_rows():
    rna = tcga_patients(read_matrix("xena_HiSeqV2.gz", genes_in_rows=True))
    cohort = Cohort({"rna": rna})
    return cohort


@pytest.mark.usefixtures("work")
def test_3_a_matrix_with_genes_in_rows():
    cohort = genes_in_rows()
    assert list(cohort.patients) == ["TCGA-OR-A5J1", "TCGA-OR-A5J2", "TCGA-OR-A5J3"]  # no normal tissue
    assert cohort.table("rna")["TP53"].tolist() == [10.2345, 0, 11.0101]  # of the third's primary tumor


@at_most(2)
def predict_without_outcomes(ensemble, clinical, rna):
    new = Cohort({"clinical": clinical, "rna": rna})
    risks = ensemble.predict(new)
    return new, risks


def test_4_a_cohort_without_outcomes(ensemble, acc):
    known = acc[1]
    new, risks = predict_without_outcomes(ensemble, known.table("clinical"), known.table("rna").dropna())
    assert not new.has_target
    np.testing.assert_allclose(risks, ensemble.predict(known[known.locate(new.patients)]), atol=1e-6)
    assert concordance(risks, known.target[known.locate(new.patients)]) > 0.65


@at_most(11)
def classify(tables, grade):
    cohort = Cohort(tables, labels={"grade": grade})
    batch = CohortDataset(Standardizer().fit(cohort).transform(cohort)).batch()
    sizes = {"num_latents": 8, "latent_dim": 32, "num_heads": 1}
    model = HEALNet({"genes": OmicEncoder(76, tokens=4)}, out_dim=3, output="classes", **sizes)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(20):
        loss = F.cross_entropy(model(batch.inputs), batch.labels["grade"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    predicted = model.eval()(batch.inputs).argmax(dim=1)
    return batch, predicted


@pytest.fixture(scope="module")
def tumors():
    cohort = load_breast_cancer()
    return cohort, cohort.table("clinical")["grade"].astype("Int64").astype("category")


def accuracy(predicted, label):
    known = label >= 0
    return float((predicted == label)[known].float().mean())


def test_5_classes_without_a_dummy_target(tumors):
    cohort, grade = tumors
    torch.manual_seed(0)
    batch, predicted = classify({"genes": cohort.table("genes")}, grade)
    assert batch.outcomes == {}
    assert batch.labels["grade"].eq(-100).sum() == 2  # of unknown grade
    assert accuracy(predicted, batch.labels["grade"]) > 0.7  # the most common grade: 0.42


@at_most(15)
def survival_and_class(cohort):
    class Heads(nn.ModuleDict):
        def forward(self, latents):
            return {task: head(latents) for task, head in self.items()}

    batch = CohortDataset(Standardizer().fit(cohort).transform(cohort)).batch()
    heads = Heads({"grade": MeanHead(32, 3), "survival": MeanHead(32, 1)})
    model = HEALNet({"genes": OmicEncoder(76, tokens=4)}, num_latents=8, latent_dim=32, head=heads)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(20):
        found = model(batch.inputs)
        loss = F.cross_entropy(found["grade"], batch.labels["grade"])
        loss = loss + cox_nll(found["survival"], batch.time, batch.event)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = model.eval()(batch.inputs)
    return batch, found


def test_6_survival_and_class_from_one_model(tumors):
    cohort, grade = tumors
    torch.manual_seed(0)
    both = Cohort({"genes": cohort.table("genes")}, cohort.target, cohort.patients, labels={"grade": grade})
    batch, found = survival_and_class(both)
    assert accuracy(found["grade"].argmax(dim=1), batch.labels["grade"]) > 0.6  # the most common: 0.42
    assert concordance(found["survival"].detach(), cohort.target) > 0.75


@at_most(2)
def save_and_load(ensemble):
    from healnet.training import TrainedModel

    ensemble.save("my_model")
    loaded = TrainedModel.load("my_model")
    return loaded


@pytest.fixture
def loaded(work, ensemble):
    pytest.importorskip("huggingface_hub", reason="the extra hub is not installed")
    return save_and_load(ensemble)


def test_7_save_and_load(loaded, ensemble, acc):
    table = acc[1].to_frame()
    expected = ensemble.predict(acc[1])
    np.testing.assert_allclose(loaded.predict(table[table.columns[::-1]]), expected, atol=1e-6)


SHELL = "python -m healnet predict my_model new.csv --times 365,1825 --output risks.csv"


@pytest.mark.slow  # a process of its own
@pytest.mark.usefixtures("loaded")
def test_8_a_new_csv_from_a_shell(ensemble, acc):
    assert len(SHELL.splitlines()) == 1
    acc[1].to_frame().to_csv("new.csv")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    code = {"PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        SHELL, shell=True, capture_output=True, text=True, env={**os.environ, "PATH": path, **code}
    )
    assert done.returncode == 0, done.stderr
    found = pd.read_csv("risks.csv", index_col="patient")
    assert list(found.index) == list(acc[1].patients)
    np.testing.assert_allclose(found["risk"], ensemble.predict(acc[1]), atol=1e-5)
    curves = ensemble.survival(acc[1], [365, 1825])
    np.testing.assert_allclose(found[["survival_365", "survival_1825"]], curves, atol=1e-5)


@at_most(1)
def cross_validate(cohort):
    return cross_val_score(HEALNetSurvivalAnalysis(members=1), cohort, cohort.target.to_structured(), cv=2)


def test_9_cross_validation_by_scikit_learn():
    scores = cross_validate(load_mini_acc().select(["clinical", "rna"]))
    assert scores.shape == (2,)
    assert scores.min() > 0.65


@at_most(1)
def curves_of_new_patients(ensemble, new):
    curves = ensemble.survival(new, times=[365, 1825])
    return curves


def test_10_survival_curves_of_new_patients(ensemble, acc):
    new = acc[1]
    curves, risks = curves_of_new_patients(ensemble, new), ensemble.predict(new)
    early, late = curves[365], curves[1825]
    assert ((early > late) & (early < 1) & (late > 0)).all()
    worse = risks > np.median(risks)
    assert late[worse].mean() < late[~worse].mean() - 0.1
    assert abs(late.mean() - 0.61) < 0.1  # Kaplan and Meier's of these patients: 0.61


@at_most(3)
def with_gaps(ensemble):
    tables = {name: pd.read_csv(f"new_{name}.csv", index_col=0) for name in ("clinical", "rna")}
    cohort = Cohort(tables)
    risks = ensemble.predict(cohort)
    return cohort, risks


@pytest.mark.usefixtures("work")
def test_11_a_patient_without_a_modality_and_single_missing_cells(ensemble, acc):
    new = acc[1][acc[1].complete()]
    first, second, *others = new.patients
    rna = new.table("rna").copy()
    rna.loc[second, rna.columns[:50]] = np.nan
    new.table("clinical").to_csv("new_clinical.csv")
    rna.drop(index=first).to_csv("new_rna.csv")
    cohort, risks = with_gaps(ensemble)
    assert cohort.missing()["rna"].tolist() == [True, False, *[False] * len(others)]
    full = ensemble.predict(new)
    np.testing.assert_allclose(
        risks[others], full[others], atol=1e-6
    )  # another patient's gaps change nothing
    assert abs(risks[second] - full[second]) > 1e-3
    clinical = batch_of(ensemble, cohort).inputs["clinical"]
    with torch.no_grad():
        alone = [float(model({"clinical": clinical})[0]) for model in ensemble.models]
    expected = np.mean((np.array(alone) - ensemble.centers) / ensemble.scales)
    np.testing.assert_allclose(risks[first], expected, atol=1e-5)


@at_most(2)
def shares_of_modalities(ensemble, new):
    inputs = ensemble.batch(new).inputs
    shares = shapley_modalities(ensemble, inputs)
    return shares


def test_12_shapley_values_of_modalities(ensemble, acc):
    new = acc[1]
    shares = shares_of_modalities(ensemble, new)
    with torch.no_grad():
        risk = torch.tensor(ensemble.predict(new).to_numpy(), dtype=torch.float32)
    torch.testing.assert_close(shares["clinical"] + shares["rna"], risk - shares.nothing, atol=1e-5, rtol=0)
    lacks = torch.tensor(new.missing()["rna"].to_numpy())
    assert lacks.any()
    assert shares["rna"][lacks].eq(0).all()
    assert shares["rna"][~lacks].abs().min() > 0


@pytest.mark.parametrize("name", TASKS)
def test_the_scripts_are_as_short_as_promised(name):
    script, limit = TASKS[name]
    assert count_lines(inspect.getsource(script).split("\n", 1)[1]) <= limit
