"""The split of an error against draws whose variances are known; a set's file."""

import jax
import numpy as np
import pytest

import scoresde as sd
from scoresde.likelihood.dataset import likelihood_of_set
from scoresde.likelihood.error_split import split_error


def draws(rng, n, repeats, example, dequantization, probe):
    """y_ir = example_i + dequantization_ir + probe_ir, normal with these standard deviations; the probes' known."""
    y = example * rng.normal(size=(n, 1)) + dequantization * rng.normal(size=(n, repeats))
    return y + probe * rng.normal(size=(n, repeats)), np.full((n, repeats), probe)


def test_each_source_is_found_and_their_squares_sum_to_the_errors():
    """20 000 examples, 3 repeats: each part within 3 % of sigma / sqrt(n) or sigma / sqrt(n R)."""
    n, repeats, sigma = 20_000, 3, (0.5, 0.3, 0.2)
    found = split_error(*draws(np.random.default_rng(0), n, repeats, *sigma))
    want = (sigma[0] / np.sqrt(n), sigma[1] / np.sqrt(n * repeats), sigma[2] / np.sqrt(n * repeats))
    parts = (found.examples, found.dequantization, found.probes)
    np.testing.assert_allclose(parts, want, rtol=0.03)
    assert np.sum(np.square(parts)) == pytest.approx(found.stderr**2, rel=1e-9)


def test_the_standard_error_is_that_of_the_mean_over_new_sets():
    """The spread of 1000 means over fresh sets of 50 examples, within 10 %."""
    rng = np.random.default_rng(1)
    found = [split_error(*draws(rng, 50, 2, 0.5, 0.3, 0.2)) for _ in range(1000)]
    assert np.std([f.mean for f in found]) == pytest.approx(
        np.mean([f.stderr for f in found]), rel=0.1
    )


def test_the_shares_sum_where_a_variance_comes_out_below_zero():
    """No dequantisation noise: about half of such sets estimate it below zero, or the examples' with few of them."""
    rng = np.random.default_rng(3)
    for example in (0.5, 0.0):
        for _ in range(50):
            found = split_error(*draws(rng, 12, 3, example, 0.0, 0.3))
            parts = (found.examples, found.dequantization, found.probes)
            assert np.sum(np.square(parts)) == pytest.approx(found.stderr**2, rel=1e-9)


def test_what_cannot_be_told_is_none():
    rng = np.random.default_rng(2)
    values, probe = draws(rng, 100, 1, 0.5, 0.3, 0.2)
    once = split_error(values, probe)
    assert (once.examples, once.dequantization) == (None, None)
    assert once.probes == pytest.approx(0.02)
    values, _ = draws(rng, 100, 2, 0.5, 0.3, 0.2)
    one_probe = split_error(values, np.full((100, 2), np.nan))
    assert (one_probe.dequantization, one_probe.probes) == (None, None)
    assert one_probe.examples is not None
    real = split_error(values, np.full((100, 2), np.nan), dequantized=False)
    assert real.dequantization == 0.0
    assert real.probes == pytest.approx(np.sqrt(0.13 / 200), rel=0.3)
    with pytest.raises(ValueError, match="none that failed"):
        split_error(np.full((2, 2), np.nan), np.zeros((2, 2)))


def test_a_file_of_another_key_is_not_gone_on_with(tmp_path, mixture):
    """Its rows were drawn with other noise; the same key finds them all."""
    x = np.asarray(mixture.sample(jax.random.key(0), 5))
    settings = {
        "dequantization": None,
        "path": tmp_path / "rows.jsonl",
        "about": {},
        "tolerance": 1e-3,
        "divergence": sd.Hutchinson(2),
        "t_min": 1e-3,
        "progress": False,
    }
    of = lambda key: likelihood_of_set(
        jax.random.key(key), sd.VP(), mixture.score(sd.VP()), x, **settings
    )  # noqa: E731
    first, again = of(0), of(0)
    np.testing.assert_array_equal(first.nats, again.nats)
    assert first.dequantization is None
    with pytest.raises(ValueError, match="other settings"):
        of(1)
