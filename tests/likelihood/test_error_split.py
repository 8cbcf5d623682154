"""The split of a standard error, against draws whose variances are known."""

import numpy as np
import pytest

from scoresde.likelihood.error_split import split_error


def draws(rng, n, repeats, example, dequantization, probe):
    """y_ir = e_i + d_ir + p_ir, normal with these standard deviations, and the probes' own."""
    y = example * rng.normal(size=(n, 1)) + dequantization * rng.normal(size=(n, repeats))
    return y + probe * rng.normal(size=(n, repeats)), np.full((n, repeats), probe)


def test_each_source_is_found_and_their_squares_sum_to_the_errors():
    """20 000 examples, 3 repeats: each part within 3 % of sigma / sqrt(n) or sigma / sqrt(n R)."""
    n = 20_000
    repeats = 3
    sigma = (0.5, 0.3, 0.2)
    found = split_error(*draws(np.random.default_rng(0), n, repeats, *sigma))
    want = (sigma[0] / np.sqrt(n), sigma[1] / np.sqrt(n * repeats), sigma[2] / np.sqrt(n * repeats))
    parts = (found.examples, found.dequantization, found.probes)
    np.testing.assert_allclose(parts, want, rtol=0.03)
    assert np.sum(np.square(parts)) == pytest.approx(found.stderr**2, rel=1e-9)


def test_the_standard_error_is_that_of_the_mean_over_new_sets():
    """The spread of 1000 means over fresh sets of 50 examples, within 10 %."""
    rng = np.random.default_rng(1)
    found = [split_error(*draws(rng, 50, 2, 0.5, 0.3, 0.2)) for _ in range(1000)]
    spread = np.std([split.mean for split in found])
    assert spread == pytest.approx(np.mean([split.stderr for split in found]), rel=0.1)


def test_the_parts_sum_where_a_variance_comes_out_below_zero():
    """Without dequantisation noise about half of such sets estimate its variance below zero.

    With few examples the variance between them can come out below zero, too.
    """
    rng = np.random.default_rng(3)
    for example in (0.5, 0.0):
        for _ in range(50):
            found = split_error(*draws(rng, 12, 3, example, 0.0, 0.3))
            parts = (found.examples, found.dequantization, found.probes)
            assert np.sum(np.square(parts)) == pytest.approx(found.stderr**2, rel=1e-9)


def test_what_the_draws_cannot_tell_is_none():
    rng = np.random.default_rng(2)
    values, probe = draws(rng, 100, 1, 0.5, 0.3, 0.2)
    once = split_error(values, probe)
    assert (once.examples, once.dequantization) == (None, None)
    assert once.probes == pytest.approx(0.02)

    values, _ = draws(rng, 100, 2, 0.5, 0.3, 0.2)
    one_probe = split_error(values, None)
    assert (one_probe.dequantization, one_probe.probes) == (None, None)
    assert one_probe.examples is not None

    real = split_error(values, None, dequantized=False)
    assert real.dequantization == 0.0
    assert real.probes == pytest.approx(np.sqrt(0.13 / 200), rel=0.3)


def test_failed_examples_are_refused():
    with pytest.raises(ValueError, match="none that failed"):
        split_error(np.full((2, 2), np.nan), np.zeros((2, 2)))
