"""Gene sets: who is a member, what a token is made of, and the two file formats."""

import logging
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from healnet.encoders import GeneSetEncoder, read_gmt, read_signatures
from healnet.inputs import Masked
from healnet.testing import check_encoder

REAL = Path(__file__).parents[1] / "data" / "real"
FEATURES = ["TP53_rnaseq", "MYC_rnaseq", "TP53_mut", "HLA-A_rnaseq", "GAPDH_cnv", "age"]
SETS = {"suppressors": ["TP53", "RB1", "TP53"], "cycle": ["MYC", "TP53"], "lost": ["BRCA1"]}


def test_tokens_by_hand():
    encoder = GeneSetEncoder(FEATURES, SETS, token_dim=3).double()
    assert encoder.names == ("suppressors", "cycle", "rest")
    members = [[2, 0], [1, 2, 0], [4, 3, 5]]  # by name
    torch.nn.init.normal_(encoder.bias)
    x = torch.randn(5, 6, dtype=torch.float64)
    rows = encoder.weight.split([len(columns) for columns in members])
    expected = [F.selu(x[:, c] @ w + b) for c, w, b in zip(members, rows, encoder.bias, strict=True)]
    torch.testing.assert_close(encoder(x).values, torch.stack(expected, dim=1), rtol=0, atol=1e-12)


def test_weights_belong_to_names():
    torch.manual_seed(0)
    order = [4, 2, 5, 0, 3, 1]
    encoder = GeneSetEncoder(FEATURES, SETS)
    other = GeneSetEncoder([FEATURES[i] for i in order], {name: set(SETS[name]) for name in SETS})
    other.load_state_dict(encoder.state_dict())
    x = torch.randn(3, 6)
    torch.testing.assert_close(other(x[:, order]).values, encoder(x).values, rtol=0, atol=0)


def test_weights_start_lecun_normal_in_the_size_of_each_set():
    torch.manual_seed(0)
    features = [f"G{i}" for i in range(1000)]
    encoder = GeneSetEncoder(features, {"small": features[:10], "large": features[10:]}, token_dim=64)
    small, large = encoder.weight.split([10, 990])
    assert small.std().item() == pytest.approx(10**-0.5, rel=0.1)
    assert large.std().item() == pytest.approx(990**-0.5, rel=0.1)


def test_what_a_cohort_lacks_is_said(caplog):
    with caplog.at_level(logging.INFO):
        encoder = GeneSetEncoder(FEATURES, SETS)
    assert encoder.missing == {"suppressors": ("RB1",), "cycle": (), "lost": ("BRCA1",)}
    assert encoder.missing_genes == ("BRCA1", "RB1")
    assert encoder.dropped == ("lost",)
    assert repr(encoder) == "GeneSetEncoder(num_features=6, sets=3, token_dim=32, missing_genes=2)"
    assert [record.message for record in caplog.records] == [
        "2 of 4 genes of 3 gene sets are not among the features; 1 sets are dropped"
    ]


def test_genes_in_no_set():
    assert GeneSetEncoder(FEATURES, SETS, rest="drop").names == ("suppressors", "cycle")
    assert GeneSetEncoder(["TP53", "MYC"], SETS).names == ("suppressors", "cycle")  # nothing is left over
    with pytest.raises(
        ValueError,
        match=r"^expected every feature to be in a gene set, got 3 of 6 in none: HLA-A_rnaseq, GAPDH_cnv, age$",
    ):
        GeneSetEncoder(FEATURES, SETS, rest="refuse")


def test_small_sets_are_dropped():
    assert GeneSetEncoder(FEATURES, SETS, min_genes=2, rest="drop").names == ("cycle",)


def test_missing_features_and_masked_sets():
    encoder = GeneSetEncoder(FEATURES, SETS, token_dim=2).double()
    x = torch.randn(3, 6, dtype=torch.float64)
    mask = torch.ones(3, 6, dtype=torch.bool)
    mask[1, [0, 2]] = False  # nothing of the suppressors, one gene of the cycle
    mask[2] = False
    tokens = encoder(Masked(x.masked_fill(~mask, float("nan")), mask))
    assert tokens.mask.tolist() == [[True] * 3, [False, True, True], [False] * 3]
    torch.testing.assert_close(tokens.values, encoder(x.masked_fill(~mask, 0)).values, rtol=0, atol=0)


def test_laws_and_gradients():
    torch.manual_seed(0)
    encoder = GeneSetEncoder(FEATURES, SETS, token_dim=3)
    x = torch.randn(4, 6)
    check_encoder(encoder, x, wrong=[x[:, :5], x.unsqueeze(-1)])
    check_encoder(encoder, Masked(x, torch.rand(4, 6) < 0.7))
    encoder = encoder.double()
    x = x.double().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x, w, b: torch.func.functional_call(encoder, {"weight": w, "bias": b}, (x,)).values,
        (x, encoder.weight, encoder.bias),
    )


def test_dropout_is_for_training_only():
    encoder = GeneSetEncoder(FEATURES, SETS, dropout=0.5)
    x = torch.ones(8, 6)
    assert not torch.equal(encoder(x).values, encoder(x).values)
    encoder.eval()
    assert torch.equal(encoder(x).values, encoder(x).values)


@pytest.mark.parametrize(
    ("features", "sets", "options", "message"),
    [
        (["A", "B", "A"], {"s": ["A"]}, {}, "expected each feature once, got 'A' more than once"),
        (
            ["A_rnaseq"],
            {"s": ["B", "C"]},
            {},
            r"expected a gene set with at least 1 of its genes among the features, got none; "
            r"features are named \['A_rnaseq'\], genes \['B', 'C'\]",
        ),
        (
            ["A", "B"],
            {"rest": ["A"]},
            {},
            "expected no gene set to be named 'rest', the name of the rest token",
        ),
        (["A"], {"s": ["A"]}, {"rest": "keep"}, "expected rest 'token', 'drop' or 'refuse', got 'keep'"),
    ],
)
def test_impossible_sets_are_refused(features, sets, options, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        GeneSetEncoder(features, sets, **options)


def test_gmt(tmp_path):
    path = tmp_path / "h.all.gmt"
    path.write_text("HALLMARK_A\thttp://x\tTP53\tMYC\n\nHALLMARK_B\t\tRB1\t\n")
    assert read_gmt(path) == {"HALLMARK_A": ["TP53", "MYC"], "HALLMARK_B": ["RB1"]}
    path.write_text("A\td\tTP53\nB TP53 MYC\n")
    with pytest.raises(
        ValueError,
        match=r"^h.all.gmt, line 2: expected a name, a description and genes separated by tabs, got 'B TP53 MYC'$",
    ):
        read_gmt(path)
    path.write_bytes(b"\xef\xbb\xbfA\tone\x0ctwo\tTP53\r\nB\t\tMYC\r\n")  # a byte order mark, a form feed
    assert read_gmt(path) == {"A": ["TP53"], "B": ["MYC"]}
    path.write_text("\n")
    with pytest.raises(ValueError, match=r"^h.all.gmt: expected a gene set per line, got an empty file$"):
        read_gmt(path)
    path.write_text("A\td\tTP53\nA\td\tMYC\n")
    with pytest.raises(ValueError, match=r"^h.all.gmt, line 2: gene set 'A' comes a second time$"):
        read_gmt(path)


def test_signatures(tmp_path):
    path = tmp_path / "signatures.csv"
    path.write_text("Tumor Suppressor Genes,Oncogenes\nAPC,ABL1\n,AKT1\n")
    assert read_signatures(path) == {"Tumor Suppressor Genes": ["APC"], "Oncogenes": ["ABL1", "AKT1"]}
    path.write_text("A,B\nAPC,ABL1,,\nTP53,AKT1,MYC\n")
    with pytest.raises(ValueError, match=r"^signatures.csv, line 3: expected 2 cells, got 3$"):
        read_signatures(path)
    for text in ("", "A,A\nTP53,MYC\n", "A,\nTP53,MYC\n"):
        path.write_text(text)
        names = text.split("\n")[0].split(",") if text else []
        with pytest.raises(ValueError) as error:  # noqa: PT011
            read_signatures(path)
        assert (
            str(error.value)
            == f"signatures.csv: expected a first line of distinct names of gene sets, got {names}"
        )


def test_the_six_families_of_a_real_cohort():
    families = read_signatures(REAL / "signatures.csv")
    header = (REAL / "tcga_blca_columns.txt").read_text().splitlines()
    features = [name for name in header if name.endswith(("_rnaseq", "_cnv", "_mut"))]
    encoder = GeneSetEncoder(features, families, token_dim=4)
    assert encoder.names == (*families, "rest")
    assert len(encoder.missing_genes) == 1439  # the release of 2022 kept 2181 features
    assert encoder(torch.zeros(2, len(features))).values.shape == (2, 7, 4)
