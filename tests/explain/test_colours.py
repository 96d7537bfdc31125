import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import rankdata

from healnet.explain.colours import finite_scores, percentile_rank, scaled, viridis


@settings(max_examples=50, deadline=None)
@given(arrays(np.float64, st.integers(2, 30), elements=st.integers(-3, 3).map(float)))
def test_percentiles_are_average_ranks(scores):
    np.testing.assert_allclose(percentile_rank(scores), (rankdata(scores) - 1) / (len(scores) - 1))


def test_percentiles_of_nothing_one_and_equals():
    assert percentile_rank([]).tolist() == []
    assert percentile_rank([3.0]).tolist() == [1.0]
    assert percentile_rank([2.0, 2.0, 2.0]).tolist() == [0.5, 0.5, 0.5]


def test_raw_is_linear():
    assert scaled([-1.0, 0.0, 3.0], "raw").tolist() == [0, 0.25, 1]
    assert scaled([2.0, 2.0], "raw").tolist() == [1, 1]
    with pytest.raises(ValueError, match=r"^expected scale 'percentile' or 'raw', got 'log'$"):
        scaled([1.0], "log")


def test_colours_follow_matplotlibs_viridis():
    from matplotlib import colormaps

    fractions = np.linspace(0, 1, 256)
    expected = colormaps["viridis"](fractions)[:, :3] * 255
    assert np.abs(viridis(fractions) - expected).max() < 3


def test_wrong_scores_are_refused():
    with pytest.raises(ValueError, match=r"^expected scores of shape \(n,\), got \(1, 2\)$"):
        finite_scores([[1, 2]])
    with pytest.raises(ValueError, match=r"^expected finite scores, got nan at position 1$"):
        finite_scores([1.0, np.nan])
