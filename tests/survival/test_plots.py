"""What the pictures show, read back from the artists."""

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

from healnet.survival import (
    SurvivalTarget,
    TimeBins,
    calibration_groups,
    kaplan_meier,
    logrank_p,
    survival_function,
)
from healnet.survival.plots import (
    plot_calibration,
    plot_forest,
    plot_kaplan_meier,
    plot_risk_histogram,
    plot_survival_curves,
)


@pytest.fixture
def axes():
    return Figure(layout="constrained").add_subplot()


def cohort(n=60):
    rng = np.random.default_rng(0)
    risk = rng.normal(size=n)
    time, limit = rng.exponential(900 * np.exp(-risk)), rng.exponential(1500, n)
    return risk, SurvivalTarget(np.minimum(time, limit), time <= limit)


def texts(axes):
    return [text.get_text() for text in axes.texts]


def legend(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_kaplan_meier(axes):
    risk, target = cohort()
    groups = np.where(risk > 0, "high risk", "low risk")
    assert plot_kaplan_meier(target, groups, unit="weeks", order=["low risk", "high risk"], ax=axes) is axes
    low = target[risk <= 0]
    step = axes.lines[0]
    np.testing.assert_array_equal(step.get_ydata(), kaplan_meier(low).survival)
    assert step.get_drawstyle() == "steps-post"
    assert axes.lines[0].get_linestyle() != axes.lines[2].get_linestyle()  # told apart without color, too
    assert legend(axes) == [
        f"{name} (n = {len(part)}, {part.event.sum()} events)"
        for name, part in (("low risk", low), ("high risk", target[risk > 0]))
    ]
    assert axes.get_legend().get_title().get_text() == ""  # no p that was not asked for
    assert axes.get_xlabel() == "Time (weeks)"
    assert axes.get_ylabel() == "Probability of survival"
    ticks = axes.get_xticks()
    at_risk = texts(axes)[1:]
    assert at_risk[0] == "low risk"
    assert at_risk[1 : len(ticks) + 1] == [str((low.time >= tick).sum()) for tick in ticks]
    assert at_risk[1] == str(len(low))


def test_a_p_value_is_written_where_it_is_asked_for():
    risk, target = cohort()
    groups = np.where(risk > 0.5, "high risk", "low risk")
    p = logrank_p(groups, target)
    written = "< 0.001" if p < 0.001 else f"= {p:.3f}"
    for asked, title in (("logrank", f"log-rank p {written}"), (0.04321, "p = 0.043"), (0.2, "p = 0.20")):
        drawn = plot_kaplan_meier(target, groups, p_value=asked, ax=Figure().add_subplot())
        assert drawn.get_legend().get_title().get_text() == title
    for wrong in (1.5, float("nan")):
        with pytest.raises(ValueError, match=rf"^expected p_value 'logrank' or in \[0, 1\], got {wrong}$"):
            plot_kaplan_meier(target, groups, p_value=wrong, ax=Figure().add_subplot())
    with pytest.raises(ValueError, match=r"^expected at least two groups for a log-rank test, got 1$"):
        plot_kaplan_meier(target, p_value="logrank", ax=Figure().add_subplot())


def test_censoring_ticks_lie_on_the_curve(axes):
    target = SurvivalTarget([1, 2, 3, 4], [True, False, True, False])
    plot_kaplan_meier(target, at_risk=False, ax=axes)
    assert axes.lines[1].get_xdata().tolist() == [2, 4]
    assert axes.lines[1].get_ydata().tolist() == [0.75, 0.375]
    assert texts(axes) == []


def test_who_leaves_at_a_tick_is_at_risk_there(axes):
    plot_kaplan_meier(SurvivalTarget([1, 2, 3, 4], [True, False, True, False]), ax=axes)
    shown = dict(zip(axes.get_xticks(), texts(axes)[2:], strict=True))
    assert [shown[tick] for tick in (0, 1, 2, 3, 4)] == ["4", "4", "3", "2", "1"]


@pytest.mark.parametrize(("death_rate", "corner"), [(1.0, 1), (0.1, 3)])
def test_the_legend_stands_where_the_curves_are_not(axes, death_rate, corner):
    rng = np.random.default_rng(1)
    plot_kaplan_meier(SurvivalTarget(rng.random(60), rng.random(60) < death_rate * 0.9), ax=axes)
    assert axes.get_legend()._loc == corner  # matplotlib's codes: 1 upper right, 3 lower left


def test_a_legend_for_which_no_corner_is_free_stands_beside_the_axes(axes):
    """One group dies early and the other not at all: its curve runs along the top."""
    long = np.arange(40) < 20
    target = SurvivalTarget(np.where(long, 100, 1) + np.arange(40), ~long)
    plot_kaplan_meier(target, np.where(long, "long", "short"), ax=axes)
    axes.figure.draw_without_rendering()
    assert axes.get_legend().get_window_extent().x0 >= axes.get_window_extent().x1


def test_long_names_leave_the_axes_their_room(axes):
    risk, target = cohort()
    names = [
        f"{side} the median of the predicted risk of all training patients" for side in ("above", "below")
    ]
    plot_kaplan_meier(target, np.where(risk > 0, *names), ax=axes)
    axes.figure.draw_without_rendering()
    assert axes.get_window_extent().width > 0.6 * axes.figure.bbox.width
    assert legend(axes)[0].replace("\n", " ").startswith(names[0])  # whole in the legend
    assert "above the median of…" in texts(axes)


def test_without_a_unit_none_is_claimed(axes):
    plot_kaplan_meier(SurvivalTarget([1, 2], [True, False]), ax=axes)
    assert axes.get_xlabel() == "Time"
    assert legend(axes) == ["all (n = 2, 1 event)"]


def test_a_patient_without_a_group_is_refused(axes):
    message = r"^expected a group for every patient, got nan at position 1 \(1 of 2 are missing\)$"
    with pytest.raises(ValueError, match=message):
        plot_kaplan_meier(SurvivalTarget([1, 2], [True, False]), ["a", np.nan], ax=axes)


def test_the_numbers_at_risk_stay_inside_the_figure(axes):
    risk, target = cohort()
    plot_kaplan_meier(target, np.where(risk > 0, "high", "low"), ax=axes)
    figure = axes.figure
    figure.draw_without_rendering()
    box = figure.bbox
    drawn = [text.get_window_extent() for text in axes.texts]
    assert all(t.x0 >= box.x0 and t.y0 >= box.y0 and t.x1 <= box.x1 for t in drawn)
    label = axes.xaxis.label.get_window_extent()
    assert all(t.y1 <= label.y0 for t in drawn)


@pytest.mark.parametrize(("p", "text"), [(1e-5, "< 0.001"), (0.0123, "= 0.012"), (0.456, "= 0.46")])
def test_p_values(p, text):
    from healnet.survival.plots import _p_text

    assert _p_text(p) == text


def test_groups_are_checked(axes):
    target = SurvivalTarget([1, 2], [True, False])
    with pytest.raises(
        ValueError, match=r"^expected groups of shape \(2,\) or \(2, 1\), one value per patient, got \(1,\)$"
    ):
        plot_kaplan_meier(target, ["a"], ax=axes)
    with pytest.raises(
        ValueError, match=r"^expected order to name the groups \['a', 'b'\], got \['a', 'c'\]$"
    ):
        plot_kaplan_meier(target, ["a", "b"], order=["a", "c"], ax=axes)


def test_predicted_curves(axes):
    curve = survival_function(torch.tensor([[0.0, 0.0], [-1.0, -1.0]]), TimeBins([0, 10, 20]))
    target = SurvivalTarget([5, 25], [True, False])
    assert (
        plot_survival_curves(curve, [0, 10, 20], labels=["A", "B"], target=target, unit="months", ax=axes)
        is axes
    )
    np.testing.assert_allclose(axes.lines[0].get_ydata(), [1, 0.5, 0.25])
    event, censored = axes.lines[1], axes.lines[3]
    assert (event.get_xdata()[0], event.get_ydata()[0]) == (5, 0.75)
    assert event.get_markerfacecolor() != "white"
    assert censored.get_markerfacecolor() == "white"
    assert legend(axes) == ["A", "B", "event", "censored"]
    assert axes.get_xlabel() == "Time (months)"


def test_the_legend_names_only_fates_that_occur(axes):
    plot_survival_curves([[0.5, 0.2]], [10, 20], target=SurvivalTarget([15], [True]), ax=axes)
    assert legend(axes) == ["patient 1", "event"]


def test_every_picture_makes_a_figure_of_its_own_where_it_is_given_none():
    risk, target = cohort()
    survival = np.exp(-500 / 900 * np.exp(risk))
    for ax in (
        plot_kaplan_meier(target),
        plot_survival_curves([[0.5, 0.2]], [10, 20]),
        plot_calibration(calibration_groups(survival, target, 500, num_groups=5)),
        plot_risk_histogram(risk, target),
        plot_forest(pd.DataFrame({"model": ["a"], "c_index": [0.7]})),
    ):
        assert ax.figure.axes == [ax]
        assert ax._repr_png_().startswith(b"\x89PNG")  # a notebook shows it


def test_names_are_drawn_as_they_are(axes):
    plot_kaplan_meier(SurvivalTarget([1, 2], [True, False]), ["$\\frac$", "b"], ax=axes)
    axes.figure.draw_without_rendering()
    assert legend(axes)[0] == "\\$\\frac\\$ (n = 1, 1 event)"


def test_predicted_curves_from_an_array_begin_at_one(axes):
    plot_survival_curves([[0.5, 0.2]], [10, 20], ax=axes)
    assert axes.lines[0].get_xdata().tolist() == [0, 10, 20]
    assert axes.lines[0].get_ydata().tolist() == [1, 0.5, 0.2]
    assert legend(axes) == ["patient 1"]


def test_step_functions_are_drawn_as_steps(axes):
    plot_survival_curves([[0.5, 0.2]], [10, 20], target=SurvivalTarget([15], [True]), steps=True, ax=axes)
    assert axes.lines[0].get_drawstyle() == "steps-post"
    assert axes.lines[1].get_ydata()[0] == 0.5  # between 10 and 20 the curve stays at 0.5


def test_predicted_curves_are_checked(axes):
    with pytest.raises(
        ValueError, match=r"^expected times, one for each column of an array of survival, got None$"
    ):
        plot_survival_curves([[0.5]], ax=axes)
    with pytest.raises(ValueError, match=r"^expected survival of shape \(n, 2\) for 2 times, got \(1, 1\)$"):
        plot_survival_curves([[0.5]], [1, 2], ax=axes)
    with pytest.raises(ValueError, match=r"^expected labels of the 1 patients of survival, got 2$"):
        plot_survival_curves([[0.5]], [1], labels=["A", "B"], ax=axes)
    with pytest.raises(ValueError, match=r"^expected target of the 1 patients of survival, got 2$"):
        plot_survival_curves([[0.5]], [1], target=SurvivalTarget([1, 2], [True, False]), ax=axes)


def test_calibration(axes):
    risk, target = cohort()
    survival = np.exp(-500 / 900 * np.exp(risk))
    result = calibration_groups(survival, target, 500, num_groups=5)
    assert plot_calibration(result, horizon="500 days", ax=axes) is axes
    (points,) = axes.containers
    np.testing.assert_allclose(points.lines[0].get_xdata(), result.predicted)
    np.testing.assert_allclose(points.lines[0].get_ydata(), result.observed)
    assert axes.get_xlabel() == "Predicted probability by 500 days"
    assert axes.get_aspect() == 1
    assert axes.get_legend()._loc == 4  # lower right, where a group would be only if risks were far too high


def test_the_legend_makes_way_for_risks_that_are_far_too_high(axes):
    result = calibration_groups([0.1, 0.1], SurvivalTarget([9, 9], [False, False]), 5, num_groups=1)
    plot_calibration(result, ax=axes)
    assert axes.get_legend()._loc == 2


def test_calibration_without_the_undefined_groups_and_without_limits(axes):
    target = SurvivalTarget([1, 2, 3, 9, 9, 1], [True, True, True, False, False, False])
    result = calibration_groups([0.2, 0.2, 0.2, 0.8, 0.8, 0.5], target, time=5, num_groups=4)
    plot_calibration(result, ax=axes)
    (points,) = axes.containers
    assert points.lines[0].get_ydata().tolist() == [0, 1]
    (bars,) = points.lines[2]
    assert np.isfinite(np.array(bars.get_segments())).all()


def test_risk_histogram(axes):
    risk, target = cohort()
    assert plot_risk_histogram(risk, target, bins=7, label="Log hazard", ax=axes) is axes
    assert legend(axes) == [f"censored (n = {(~target.event).sum()})", f"event (n = {target.event.sum()})"]
    heights = [patch.get_height() for patch in axes.containers[0]]
    expected = np.histogram(risk[~target.event], np.histogram_bin_edges(risk, 7))[0] / (~target.event).sum()
    np.testing.assert_allclose(heights, expected)
    assert axes.get_xlabel() == "Log hazard"
    with pytest.raises(
        ValueError, match=r"^expected risk of shape \(60,\) or \(60, 1\), one value per patient, got \(3,\)$"
    ):
        plot_risk_histogram([1, 2, 3], target, ax=axes)


def test_a_histogram_without_events(axes):
    plot_risk_histogram([1.0, 2.0], SurvivalTarget([1, 2], [False, False]), ax=axes)
    assert legend(axes) == ["censored (n = 2)"]


def test_forest_of_folds(axes):
    table = pd.DataFrame({"model": ["b", "a", "b", "a", "b"], "c_index": [0.6, 0.8, 0.7, 0.9, np.nan]})
    assert plot_forest(table, ax=axes) is axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["b", "a"]  # as they first appear
    assert axes.yaxis_inverted()
    deviation = np.std([0.6, 0.7], ddof=1)
    assert texts(axes) == [f"0.650 ± {deviation:.3f}", f"0.850 ± {deviation:.3f}"]
    dots, bar, center = axes.lines[:3]
    assert dots.get_xdata().tolist() == [0.6, 0.7]
    np.testing.assert_allclose(bar.get_xdata(), [0.65 - deviation, 0.65 + deviation])
    assert center.get_xdata()[0] == pytest.approx(0.65)
    assert axes.lines[-1].get_xdata() == [0.5, 0.5]
    assert axes.get_xlabel() == "Concordance index"


def test_forest_of_intervals(axes):
    table = pd.DataFrame({"name": ["a"], "c": [0.7], "from": [0.6], "to": [0.75]})
    plot_forest(table, name="name", value="c", low="from", high="to", reference=None, label="C", ax=axes)
    assert texts(axes) == ["0.700 (0.600 to 0.750)"]
    assert axes.lines[0].get_xdata().tolist() == [0.6, 0.75]
    assert len(axes.lines) == 2


def test_a_metric_without_an_interval_shows_its_value_alone(axes):
    table = pd.DataFrame({"model": ["a"], "c_index": [0.7], "low": [np.nan], "high": [np.nan]})
    plot_forest(table, low="low", high="high", ax=axes)
    assert texts(axes) == ["0.700"]


def test_forest_is_checked(axes):
    table = pd.DataFrame({"model": ["a", "a"], "c_index": [0.6, 0.7], "low": 0.5, "high": 0.8})
    for options, message in (
        ({"low": "low"}, "expected low and high or neither, got 'low' and None"),
        ({"low": "low", "high": "high"}, "expected one row per model with low and high, got 2 for 1 models"),
        (
            {"value": "auc"},
            "expected results with the columns ['auc'], got ['model', 'c_index', 'low', 'high']",
        ),
    ):
        with pytest.raises(ValueError) as error:  # noqa: PT011, the whole message is compared
            plot_forest(table, **options, ax=axes)
        assert str(error.value) == message
    with pytest.raises(ValueError, match=r"^expected results with a value of 'c_index', got none$"):
        plot_forest(table.iloc[:0], ax=axes)
