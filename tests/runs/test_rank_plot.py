"""Histograms and bands are read back from what matplotlib received."""

import numpy as np
import pytest

from scoresde.evaluation.calibration import rank_test
from scoresde.runs.rank_plot import plot_ranks

RNG = np.random.default_rng(0)


def lines(ax):
    """The values of each stepped line or band, by its label."""
    return {patch.get_label(): patch.get_data() for patch in ax.patches}


def test_each_dimension_has_its_histogram_and_both_bands(tmp_path):
    found = RNG.integers(20, size=(400, 5))
    found[:, 1] //= 2  # too low: the posterior's draws lie above
    test = rank_test(found, 19, bins=10)
    fig = plot_ranks(test, path=tmp_path / "ranks.svg")
    assert b"<svg" in (tmp_path / "ranks.svg").read_bytes()
    axes = [ax for ax in fig.axes if ax.get_visible()]
    assert len(axes) == 5

    for i, ax in enumerate(axes):
        drawn = lines(ax)
        np.testing.assert_array_equal(drawn["counted"].values, test.counts[i])
        np.testing.assert_array_equal(drawn["counted"].edges, test.edges - 0.5)
        np.testing.assert_array_equal(drawn["expected"].values, test.expected)
        for name, (low, high) in (
            ("95 %, each bin", test.pointwise),
            ("95 %, all bins", test.simultaneous),
        ):
            np.testing.assert_array_equal(drawn[name].values, high + 0.5)
            np.testing.assert_array_equal(drawn[name].baseline, low - 0.5)
        assert len(ax.collections[0].get_offsets()) == test.outside[i].sum()
        assert ax.get_ylim()[0] == 0.0
        assert ax.get_ylim()[1] > test.counts.max()

    assert test.outside[1].all()
    assert axes[0].get_title(loc="left") == f"θ₁   p = {test.p_values[0]:.2g}"
    assert [ax.get_ylabel() for ax in axes] == ["count", "", "", "", "count"]
    assert [ax.get_xlabel() for ax in axes] == ["", "rank", "rank", "rank", "rank"]
    assert len(fig.legends[0].get_texts()) == 4


def test_dimensions_have_the_names_given():
    test = rank_test(RNG.integers(20, size=(200, 2)), 19)
    fig = plot_ranks(test, ["mass", "spin"])
    assert [ax.get_title(loc="left").split()[0] for ax in fig.axes] == ["mass", "spin"]
    assert plot_ranks(rank_test(RNG.integers(20, size=(200, 1)), 19)).axes[0].get_xlabel() == "rank"
    with pytest.raises(ValueError, match="1 entries for 2 dimensions"):
        plot_ranks(test, ["mass"])
