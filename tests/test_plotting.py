import io
import subprocess
import sys

import numpy as np
import pytest
import torch
from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.image import imread
from scipy.stats import rankdata

from healnet._plotting import (
    add_colorbar,
    color_limits,
    narrow_png,
    new_axes,
    on_scale,
    panels,
    readable,
    viridis,
)
from healnet._png import png
from healnet.explain import (
    Faithfulness,
    plot_contact_sheet,
    plot_contribution_bars,
    plot_faithfulness,
    plot_gene_bars,
)


def test_scores_need_no_matplotlib_and_pictures_no_pyplot():
    """Without matplotlib pictures say what to install; with it all are drawn and pyplot is never imported."""
    code = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "import numpy as np\n"
        "from healnet._png import png\n"
        "from healnet.explain import *\n"
        "from healnet.survival import SurvivalTarget\n"
        "from healnet.survival.plots import plot_kaplan_meier\n"
        "assert score_map([[0, 0]], 1, [2.0], (1, 1), (1, 1)) == [[2.0]]\n"
        "try: plot_gene_bars(['a'], [1.0])\n"
        "except ImportError as error: print(error)\n"
        "del sys.modules['matplotlib']\n"
        "picture, grid = np.zeros((4, 4, 3)), np.arange(8.0).reshape(2, 2, 2)\n"
        "figures = [\n"
        "    plot_slide_heatmap(picture, [[0, 0]], 2, [1.0], level0_size=(4, 4), mpp=1.0).figure,\n"
        "    plot_contact_sheet([picture]).figure, plot_image_overlay(picture, picture[:, :, 0]).figure,\n"
        "    plot_orthogonal_slices(grid, grid).figure,\n"
        "    plot_graph_overlay([[0, 1], [1, 0]], [1, 2], [[0], [1]], picture).figure,\n"
        "    plot_gene_bars(['a'], [1.0], [1], [0.5]).figure, plot_contribution_bars({'a': [1.0]}).figure,\n"
        "    plot_kaplan_meier(SurvivalTarget([1, 2], [True, False]), ['a', 'b']).figure,\n"
        "]\n"
        "assert all(png(figure, 20).startswith(b'\\x89PNG') for figure in figures)\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "pictures need matplotlib: pip install healnet[plots]"


def test_the_same_picture_is_the_same_file():
    first, second = new_axes(1.0, 1.0), new_axes(1.0, 1.0)
    first.plot([0, 1])
    second.plot([0, 1])
    assert png(first.figure, 30) == png(second.figure, 30)


def test_colors_of_both_signs_are_symmetric():
    assert color_limits([-1.0, np.nan, 3.0]) == (-3.0, 3.0, "RdBu_r")
    assert color_limits([0.0, 3.0]) == (0.0, 3.0, "viridis")
    with pytest.raises(ValueError, match=r"^expected scores with at least one number, got none$"):
        color_limits([np.nan])


@pytest.mark.parametrize("name", ["$\\frac$", "a$b$c", "\x00\x07", "\ud800", "\u202eevil", "very long " * 20])
def test_any_name_can_be_drawn_as_it_is(name):
    """Neither an error nor a warning, such as mathematics, a missing glyph or no room left for the axes gives."""
    line = torch.zeros(1, 2)
    found = Faithfulness(torch.tensor([0.0, 1.0]), line, line, line, line, True)
    for figure in (
        plot_gene_bars([name, "b"], [1.0, 2.0]).figure,
        plot_contribution_bars({name: [1.0], "b": [2.0]}).figure,
        plot_faithfulness({name: found}).figure,
    ):
        png(figure, 30)
    assert len(readable(name).replace("\\$", "$")) <= 28


def test_captions_are_not_mathematics():
    (panel,) = sheet = plot_contact_sheet([np.zeros((2, 2, 3))], ["$\\frac$"])
    png(sheet.figure, 30)
    assert panel.get_title() == "$\\frac$"


def font_with(path, family, characters):
    """A font that has these characters alone, each a filled square."""
    from fontTools.fontBuilder import FontBuilder
    from fontTools.pens.ttGlyphPen import TTGlyphPen

    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for point in ((0, 800), (800, 800), (800, 0)):
        pen.lineTo(point)
    pen.closePath()
    square, names = pen.glyph(), [".notdef", *(f"u{ord(c):X}" for c in characters)]
    font = FontBuilder(1000, isTTF=True)
    font.setupGlyphOrder(names)
    font.setupCharacterMap({ord(c): f"u{ord(c):X}" for c in characters})
    font.setupGlyf(dict.fromkeys(names, square))
    font.setupHorizontalMetrics(dict.fromkeys(names, (900, 50)))
    font.setupHorizontalHeader(ascent=900, descent=-100)
    font.setupNameTable({"familyName": family, "styleName": "Regular"})
    font.setupOS2(sTypoAscender=900)
    font.setupPost()
    font.save(path)


def test_names_in_other_scripts_get_a_font_that_has_them(tmp_path, monkeypatch):
    """Without one matplotlib draws empty boxes and warns, which is an error here."""
    name = "\U00013000\U00013001"  # hieroglyphs: no font of matplotlib's own has them
    font_with(tmp_path / "glyphs.ttf", "Hieroglyphs of a test", name)
    monkeypatch.setattr("matplotlib.font_manager.findSystemFonts", lambda: [str(tmp_path / "glyphs.ttf")])
    monkeypatch.setattr(font_manager.fontManager, "ttflist", list(font_manager.fontManager.ttflist))
    ax = plot_gene_bars([name, "TP53"], [2.0, 1.0])
    png(ax.figure, 30)
    families = [label.get_fontfamily() for label in ax.get_yticklabels()]
    assert families[0][-1] == "Hieroglyphs of a test"
    assert families[1] == families[0][:-1]


def test_a_notebook_shows_what_a_plot_returns():
    """As the last expression of a cell: axes of a figure of their own, several panels, and the figure."""
    ax = plot_gene_bars(["a"], [1.0])
    sheet = plot_contact_sheet([np.zeros((2, 2, 3))] * 2)
    for shown in (ax, ax.figure, sheet, sheet[1]):
        assert shown._repr_png_().startswith(b"\x89PNG")


def test_panels_take_the_place_of_the_axes_they_are_given():
    figure = Figure()
    left, right = figure.subplots(1, 2)
    sheet = plot_contact_sheet([np.zeros((2, 2, 3))] * 2, ax=right)
    figure.draw_without_rendering()
    assert figure.axes == [left, *sheet]
    assert sheet.figure is figure
    assert all(panel.get_position().x0 > left.get_position().x1 for panel in sheet)
    placed = figure.add_axes((0, 0, 1, 1))
    with pytest.raises(
        ValueError, match=r"^expected axes made by subplots, whose place can be divided into panels$"
    ):
        plot_contact_sheet([np.zeros((2, 2, 3))], ax=placed)


def test_scales():
    rng = np.random.default_rng(0)
    scores = rng.integers(-3, 4, 30).astype(float)
    np.testing.assert_allclose(on_scale(scores, "percentile"), 100 * (rankdata(scores) - 1) / 29)
    assert on_scale(np.array([3.0]), "percentile").tolist() == [100]
    assert on_scale(np.array([]), "percentile").tolist() == []
    assert on_scale(scores, "raw") is scores
    with pytest.raises(ValueError, match=r"^expected scale 'percentile' or 'raw', got 'log'$"):
        on_scale(scores, "log")


def test_viridis_runs_from_the_low_to_the_high_score():
    assert viridis([1.0, 3.0], 1.0, 3.0).tolist() == [[68, 1, 84], [253, 231, 36]]
    assert viridis([2.0], 2.0, 2.0).tolist() == [[253, 231, 36]]


@pytest.mark.parametrize("shape", [(40, 40), (400, 20), (20, 400)])
def test_on_a_phone_a_picture_has_all_of_the_width_or_a_screen_and_the_figure_stays_as_it_was(shape):
    """A color bar at the side took half of 390 pixels; a strip was five screens long."""
    both = panels(None, 1, 2, (8.0, 4.0))
    drawn = [panel.imshow(np.ones(shape), cmap="gray", vmin=1, vmax=2) for panel in both]
    both[0].set_title("name")
    add_colorbar(drawn[0], both, "score")
    before = png(both.figure)
    phone = imread(io.BytesIO(narrow_png(both.figure)))[:, :, :3]
    black = (phone == 0).all(axis=2)
    rows, columns = black.mean(axis=1), black.mean(axis=0)
    assert (columns > 0.5 * columns.max()).mean() > (0.02 if shape[1] == 20 else 0.85)
    assert len(phone) < 2 * 1.8 * 3.6 * 220 + 400
    assert (rows > 0).mean() > (0.4 if shape[1] == 400 else 0.8)  # no blank space
    assert (phone[:4] == 1).all()  # no title is cut
    assert png(both.figure) == before


def test_bars_keep_their_height_on_a_phone():
    """Twenty names squeezed into three quarters of the width would lie on each other."""
    ax = plot_gene_bars([f"gene {i}" for i in range(20)], np.ones(20))
    phone = imread(io.BytesIO(narrow_png(ax.figure)))
    assert len(phone) / 220 > 4.8  # inches
    grid = plot_faithfulness(
        {"a": Faithfulness(*torch.linspace(0, 1, 3).expand(6, 3)[:1], *[torch.ones(1, 3)] * 4, True)}
    )
    assert 1.5 < len(imread(io.BytesIO(narrow_png(grid.figure)))) / 220 / 3.6 < 2.2
