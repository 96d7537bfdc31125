import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex

from healnet._plotting import LOWERS, RAISES
from healnet.explain import gene_set_scores, plot_gene_bars, rank_genes, top_k_stability

NAMES = ["A", "B", "C"]


def test_a_ranking_by_hand():
    scores = [[1.0, -4.0, 0.0], [3.0, 2.0, np.nan]]
    gradients = [[2.0, -1.0, 1.0], [2.0, 0.5, np.nan]]
    table = rank_genes(NAMES, scores, gradients, repeats=[[1, 2, 3], [3, 2, 1], [3, 2, 1]], k=1)
    assert list(table.index) == ["B", "A", "C"]
    assert table["rank"].tolist() == [1, 2, 3]
    assert table["score"].tolist() == [3, 2, 0]
    assert table["direction"].tolist() == [-1, 1, 1]
    assert table["agreement"].tolist() == [0.5, 1, 1]
    np.testing.assert_allclose(table["stability"], [0, 2 / 3, 1 / 3])


def test_equal_scores_share_the_best_rank():
    assert rank_genes(NAMES, [1.0, 2.0, 1.0])["rank"].to_dict() == {"B": 1, "A": 2, "C": 2}


def test_stability_counts_only_who_surely_is_on_top():
    assert top_k_stability([[5, 5, 1], [5, 4, 1]], k=1).tolist() == [0.5, 0, 0]
    assert top_k_stability([[5, 5, 1]], k=2).tolist() == [1, 1, 0]
    assert top_k_stability([[5, np.nan, 1], [np.nan] * 3], k=2).tolist() == [0.5, 0, 0.5]
    assert top_k_stability([[np.nan, 1]], k=2).tolist() == [0, 1]
    assert rank_genes(NAMES, [1, 1, 1], repeats=[[-9, 1, np.nan]], k=1)["stability"].tolist() == [1, 0, 0]
    with pytest.raises(
        ValueError, match=r"^expected importances of shape \(r, f\) and k >= 1, got \(3,\) and 2$"
    ):
        top_k_stability([1, 2, 3], 2)


def test_gene_sets_sum_their_members():
    sets = {"one": ["TP53"], "both": ["TP53", "MYC"], "none": ["LOST1"]}
    scores = [[1.0, 2.0, -4.0], [np.nan, 1.0, 0.0]]
    names = ["TP53_rnaseq", "TP53_mut", "MYC_rnaseq"]
    found, sums = gene_set_scores(names, scores, sets, symbol=lambda name: name.split("_")[0])
    assert found == ["one", "both"]
    assert sums.tolist() == [[3, -1], [1, 1]]
    with pytest.raises(ValueError, match=r"^none of the 1 gene sets has a member among the 3 features$"):
        gene_set_scores(names, scores, {"none": ["LOST1"]})


def test_bars_show_size_direction_and_stability():
    ax = plot_gene_bars(NAMES, [1.0, 3.0, 2.0], direction=[1, -1, 0], stability=[0.2, 1.0, 0.0], k=2)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["B", "C"]
    assert [bar.get_width() for bar in ax.patches] == [3, 2]
    assert to_hex(ax.patches[0].get_facecolor()).upper() == LOWERS
    assert [text.get_text() for text in ax.texts] == ["100%", "0%"]


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_the_legend_names_only_what_is_drawn():
    assert legend(plot_gene_bars(NAMES, [1.0, 3.0, 2.0], direction=[1, -1, 0])) == [
        "higher raises the risk",
        "higher lowers the risk",
    ]
    # B lowers, and it alone is shown.
    assert legend(
        plot_gene_bars(NAMES, [1.0, 3.0, 2.0], direction=[1, -1, 0], k=1, quantity="log hazard")
    ) == ["higher lowers the log hazard"]
    assert plot_gene_bars(NAMES, [1.0, 3.0, 2.0]).get_legend() is None


def test_unstable_genes_are_marked_and_the_legend_warns():
    ax = plot_gene_bars(NAMES, [1.0, 3.0, 2.0], direction=[1, 1, 1], stability=[0.4, 1.0, 0.5])
    assert [bar.get_hatch() for bar in ax.patches] == [None, None, "////"]
    assert ax.patches[2].get_alpha() < 0.5
    assert legend(ax) == ["higher raises the risk", "hatched: unstable, 1 of 3 in fewer than half"]
    steady = plot_gene_bars(NAMES, [1.0, 3.0, 2.0], stability=[0.5, 1.0, 0.5])
    assert steady.get_legend() is None


def test_signed_scores_of_one_patient_give_their_own_direction():
    ax = plot_gene_bars(NAMES, [1.0, -3.0, 0.5])
    assert [to_hex(bar.get_facecolor()).upper() for bar in ax.patches] == [LOWERS, RAISES, RAISES]
    assert [bar.get_width() for bar in ax.patches] == [3, 1, 0.5]
    assert {to_hex(bar.get_facecolor()) for bar in plot_gene_bars(NAMES, [1, 3, 2]).patches} == {"#999999"}
    unknown = plot_gene_bars(NAMES, [3, 2, 1], direction=[np.nan, 1, 0]).patches[0]
    assert to_hex(unknown.get_facecolor()) == "#999999"


def test_lengths_that_differ_are_refused():
    with pytest.raises(ValueError, match=r"^expected direction of shape \(3,\), one per name, got \(2,\)$"):
        plot_gene_bars(NAMES, [1.0, 2.0, 3.0], direction=[1, 1])
    with pytest.raises(ValueError, match=r"^expected gradients of shape \(3,\) or \(r, 3\), got \(2,\)$"):
        rank_genes(NAMES, [1.0, 2.0, 3.0], gradients=[1, 1])


def test_patients_without_the_gene_do_not_disagree_about_its_direction():
    """Gradients are 0 for those who lack the modality."""
    table = rank_genes(["A", "B"], np.ones((4, 2)), gradients=[[1, -1], [2, -1], [0, 0], [0, 3]])
    assert table["agreement"].to_dict() == {"A": 1, "B": pytest.approx(1 / 3)}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_scores_may_be_tensors_as_a_model_gives_them(dtype):
    scores = torch.tensor([[1.0, -4.0, 2.0]], dtype=dtype, requires_grad=True)
    assert rank_genes(NAMES, scores, gradients=scores)["score"].to_dict() == {"B": 4, "C": 2, "A": 1}
    assert [bar.get_width() for bar in plot_gene_bars(NAMES, scores[0]).patches] == [4, 2, 1]
    assert top_k_stability(scores, k=1).tolist() == [0, 0, 1]


def test_bars_that_cannot_be_drawn_are_refused():
    with pytest.raises(ValueError, match=r"^expected finite scores, got nan for 'B'$"):
        plot_gene_bars(NAMES, [1.0, np.nan, 2.0])
    with pytest.raises(ValueError, match=r"^expected finite stability, got inf for 'C'$"):
        plot_gene_bars(NAMES, [1.0, 3.0, 2.0], stability=[1.0, 1.0, np.inf])


def test_a_size_never_has_a_negative_axis():
    assert plot_gene_bars(NAMES, [0.0, 0.0, 0.0], stability=[0, 0, 0]).get_xlim()[0] == 0


def test_the_legend_covers_neither_bars_nor_labels_nor_a_title():
    ax = plot_gene_bars(NAMES, [1.0, 3.0, 2.0], direction=[1, -1, 0], stability=[0.2, 1.0, 0.0])
    ax.set_title("What the model reads")
    ax.figure.draw_without_rendering()
    drawn = ax.get_legend().get_window_extent()
    others = [ax.title.get_window_extent(), ax.xaxis.get_tightbbox(), ax.yaxis.get_tightbbox(), ax.bbox]
    assert not any(drawn.overlaps(other) for other in others)
    assert drawn.y0 >= 0
