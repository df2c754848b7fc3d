"""How numbers are written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relevancy.report import words
from relevancy.report.charts import Axis
from relevancy.stats.clustered import Estimate


@pytest.mark.parametrize(
    ("value", "written"), [(0.6234, "62.3%"), (0.0, "0.0%"), (0.00042, "0.042%"), (1.0, "100.0%"), (None, "–")]
)
def test_shares(value, written):
    assert words.level(value, True) == written


@pytest.mark.parametrize(
    ("value", "written"), [(0.027, "+2.7 pp"), (-0.0712, "−7.1 pp"), (-0.0004, "−0.040 pp"), (0.0, "0.0 pp")]
)
def test_differences(value, written):
    assert words.step(value, True) == written


def test_intervals():
    assert words.level_interval(Estimate(0.5, 0.41, 0.62, 30, 20), True) == "[41.0, 62.0]"
    assert words.step_interval(Estimate(0, -0.0002, 0.0004, 30, 20), True) == "[−0.020, +0.040]"
    assert words.step_interval(Estimate(0.5, None, None, 3, 3), True) == ""


@pytest.mark.parametrize(("p", "written"), [(0.0001, "0.0001"), (0.03, "0.030"), (0.384, "0.38"), (None, "–")])
def test_p_values(p, written):
    assert words.chance(p) == written


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=6))
def test_an_axis_holds_all_values_and_labels_tell_its_ticks_apart(values):
    axis = Axis.around(values, keep=(0.0,))
    assert axis.low - 1e-9 <= min(*values, 0) <= max(*values, 0) <= axis.high + 1e-9
    assert 2 <= len(axis.ticks) <= 7
    labels = words.ticks(axis.ticks, share=True, difference=True)
    assert len(set(labels)) == len(labels) or axis.high - axis.low < 1e-5
