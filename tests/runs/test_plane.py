"""Points are read back from what matplotlib received."""

import numpy as np
import pytest

from scoresde.runs.plane import scatter_2d


def test_scatter_holds_all_points_and_counts_the_lost_ones(tmp_path):
    points = np.random.default_rng(0).uniform(-1, 3, (999, 2))
    broken = points.copy()
    broken[0] = 1e6
    broken[1] = np.nan
    broken[2, 1] = np.inf

    fig = scatter_2d({"data": points, "samples": broken}, tmp_path / "points.svg")
    data, samples = fig.axes
    np.testing.assert_array_equal(data.collections[0].get_offsets(), points)
    np.testing.assert_array_equal(samples.collections[0].get_offsets(), points[3:])

    assert data.get_title(loc="left") == "data\n999 points"
    assert samples.get_title(loc="left") == "samples\n999 points, 1 outside, 2 not finite"
    assert data.get_xlim() == samples.get_xlim()
    assert data.get_ylim() == samples.get_ylim()
    assert data.get_xlim()[1] < 4
    assert data.get_aspect() == 1.0
    assert b"<svg" in (tmp_path / "points.svg").read_bytes()

    scatter_2d(
        {"all lost": np.full((3, 2), np.nan), "none": np.zeros((0, 2)), "one": np.ones((1, 2))}
    )


@pytest.mark.parametrize(
    ("points", "found"), [({"data": np.zeros((5, 3))}, r"'data': \(5, 3\)"), ({}, r"\{\}")]
)
def test_scatter_wants_two_columns(points, found):
    with pytest.raises(ValueError, match=found):
        scatter_2d(points)


def test_very_unequal_scales_are_both_seen():
    """A cloud of 30 by .01 fills its frame; one of 3 by 1 keeps its proportions."""
    points = np.random.default_rng(0).normal(size=(200, 2))
    ax = scatter_2d({"x": points * [30.0, 0.01]}).axes[0]
    assert np.ptp(ax.get_ylim()) < 0.1 < 100.0 < np.ptp(ax.get_xlim())
    ax = scatter_2d({"x": points * [3.0, 1.0]}).axes[0]
    assert ax.get_aspect() == 1.0
