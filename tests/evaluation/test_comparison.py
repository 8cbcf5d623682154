"""Samples compared with held-out data: a perfect model reaches the floor, a wrong one does not."""

import dataclasses
import json
import math

import jax.numpy as jnp
import numpy as np
import pytest
from repeats import assert_mean

from scoresde.evaluation.comparison import Comparison, compare
from scoresde.evaluation.distances import frechet_distance
from scoresde.evaluation.features import PCAFeatures, RawFeatures
from scoresde.evaluation.kernel import kernel_distance
from scoresde.evaluation.standard_error import Estimate

RNG = np.random.default_rng(0)


def test_a_perfect_model_reaches_the_floor_on_average():
    """Samples of the data's own law, four times as many as held-out rows.

    value - floor is zero within 5 standard errors. With all samples at once it lies below, by
    more than 10 of them.
    """
    plain = {"fd": lambda x, y: Estimate(frechet_distance(x, y), 0.0)}
    gaps = []
    unmatched = []
    for _ in range(60):
        samples, train, test = (RNG.normal(size=(n, 6)) for n in (240, 300, 60))
        (row,) = compare(samples, train, test, distances=plain)
        gaps.append(row.value - row.floor)
        unmatched.append(frechet_distance(samples, train) - row.floor)
    assert (row.rows, row.reference_rows) == (60, 300)
    assert_mean(gaps, 0.0)
    assert np.mean(unmatched) < -10 * np.std(unmatched) / np.sqrt(60)


def test_wrong_models_leave_the_floor():
    """A shift lies above by 3 errors in every distance and space; a copy of the data below."""
    scale = np.array([[2.0, 1.5], [1.0, 0.3]])
    samples, train, test = (scale * RNG.normal(size=(n, 2, 2)) for n in (500, 300, 250))
    spaces = [RawFeatures(), PCAFeatures.fit(train, 3)]
    rows = compare(jnp.asarray(samples + 1.5 * scale), train, test, spaces)
    names = "Fréchet distance", "kernel distance", "sliced Wasserstein"
    want = [(name, space.name) for space in spaces for name in names]
    assert [(row.distance, row.features) for row in rows] == want
    for row in rows:
        assert row.value - row.floor > 3 * math.hypot(row.stderr, row.floor_stderr), row

    for row in compare(train, train, scale * RNG.normal(size=(300, 2, 2))):
        # Without bias, the kernel distance of copies is not small but negative.
        if row.distance != "kernel distance":
            assert row.value < 1e-9 < row.floor, row


def test_one_block_is_the_distance_itself_and_a_table_can_be_written():
    samples, train, test = (RNG.normal(size=(n, 3)) for n in (40, 60, 50))
    rows = compare(samples, train, test)
    kernel = kernel_distance(samples, train)
    assert rows[0].value == pytest.approx(frechet_distance(samples, train), rel=1e-9)
    assert (rows[1].value, rows[1].stderr) == pytest.approx(kernel, rel=1e-9)
    assert rows == compare(samples, train, test)

    for row in rows:
        counts = dict(zip(Comparison.COLUMNS[5:], row.row()[5:], strict=True))
        assert counts == {"rows": 40, "reference rows": 60}
        assert row.row()[:3] == [f"{row.distance}, raw", row.value, row.stderr]
        assert json.loads(json.dumps(dataclasses.asdict(row))) == dataclasses.asdict(row)


def test_bad_sets_are_refused(unchecked):
    good = np.arange(8.0).reshape(4, 2)
    bad = np.where(good == 5.0, np.nan, good)
    with pytest.raises(ValueError, match="samples has 4 rows, 1 of them"):
        compare(bad, good, good)
    with pytest.raises(ValueError, match=r"test has shape .* 1 numbers an example: wanted 2"):
        compare(good, good, good[:, :1])
    with pytest.raises(ValueError, match="max_blocks is 0"):
        compare(good, good, good, max_blocks=0)
