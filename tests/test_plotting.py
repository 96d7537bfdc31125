import subprocess
import sys

import numpy as np
import pytest
import torch

from healnet._plotting import color_limits, new_axes, png, readable
from healnet.explain import (
    Faithfulness,
    plot_contact_sheet,
    plot_contribution_bars,
    plot_faithfulness,
    plot_gene_bars,
)


def test_every_picture_is_drawn_without_pyplot():
    """Neither imported nor changed: all drawing functions run, and pyplot is not among the modules."""
    code = (
        "import sys, numpy as np\n"
        "from healnet.explain import *\n"
        "from healnet._plotting import png\n"
        "picture, grid = np.zeros((4, 4, 3)), np.arange(8.0).reshape(2, 2, 2)\n"
        "figures = [\n"
        "    plot_slide_heatmap(picture, [[0, 0]], 2, [1.0], level0_size=(4, 4), mpp=1.0).figure,\n"
        "    plot_contact_sheet([picture]).figure, plot_image_overlay(picture, picture[:, :, 0]).figure,\n"
        "    plot_orthogonal_slices(grid, grid).figure,\n"
        "    plot_graph_overlay([[0, 1], [1, 0]], [1, 2], [[0], [1]], picture).figure,\n"
        "    plot_gene_bars(['a'], [1.0], [1], [0.5]).figure, plot_contribution_bars({'a': [1.0]}).figure,\n"
        "]\n"
        "assert all(png(figure, 20).startswith(b'\\x89PNG') for figure in figures)\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


def test_without_matplotlib_scores_work_and_pictures_say_what_to_install():
    code = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "from healnet.explain import plot_gene_bars, score_map, top_k_stability\n"
        "assert score_map([[0, 0]], 1, [2.0], (1, 1), (1, 1)) == [[2.0]]\n"
        "try: plot_gene_bars(['a'], [1.0])\n"
        "except ImportError as error: print(error)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
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
