"""Fréchet and sliced Wasserstein distances against closed forms."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from repeats import assert_mean, with_moments
from scipy import linalg, stats

from scoresde.evaluation.distances import frechet_distance, sliced_wasserstein

RNG = np.random.default_rng(0)


def test_frechet_distance_is_the_formula():
    """Against SciPy's matrix square root, and the closed form for commuting covariances."""
    a, b = (root @ root.T + 0.1 * np.eye(5) for root in RNG.normal(size=(2, 5, 5)))
    m = RNG.normal(size=5)
    x = with_moments(RNG, np.zeros(5), a)
    y = with_moments(RNG, m, b)
    want = m @ m + np.trace(a + b - 2.0 * np.real(linalg.sqrtm(a @ b)))
    assert frechet_distance(x, y) == pytest.approx(want, rel=1e-8)

    p = np.array([1.0, 4.0, 9.0])
    q = np.array([4.0, 4.0, 1.0])
    x = with_moments(RNG, np.zeros(3), np.diag(p))
    y = with_moments(RNG, np.zeros(3), np.diag(q))
    assert frechet_distance(x, y) == pytest.approx(np.sum((np.sqrt(p) - np.sqrt(q)) ** 2), rel=1e-8)


def test_frechet_distance_of_singular_covariances():
    """Constants, rows along two lines, and fewer rows than dimensions.

    From covariances, the square root of their rounding would leave 1e-7 in the last, and float32
    1e-3.
    """
    x = np.zeros((10, 3))
    y = np.tile([3.0, 4.0, 0.0], (10, 1))
    assert frechet_distance(x, y) == pytest.approx(25.0)

    # Rows along u and v, of variances a and b: |m|² + a + b - 2 √(ab) |<u, v>|.
    u = np.eye(40)[0]
    v = np.full(40, 40**-0.5)
    s, t = with_moments(RNG, np.zeros(2), np.diag([4.0, 9.0])).T[..., None]
    want = 40.0 + 4.0 + 9.0 - 2 * 6.0 * 40**-0.5
    assert frechet_distance(s * u, t * v + 1.0) == pytest.approx(want, rel=1e-12)

    x = RNG.normal(size=(20, 64)) + 100.0
    in_jax = jnp.asarray(x)
    assert frechet_distance(x, x[::-1]) == pytest.approx(0.0, abs=1e-11)
    assert frechet_distance(in_jax, np.asarray(in_jax)) == pytest.approx(0.0, abs=1e-11)


def test_frechet_distance_of_one_law_is_its_bias_in_one_dimension():
    """It is the squared gap of means and of standard deviations, whose variances are known."""
    n = 12
    m = 20
    c4 = [math.sqrt(2 / (k - 1)) * math.gamma(k / 2) / math.gamma((k - 1) / 2) for k in (n, m)]
    gap = np.square(c4[0] - c4[1]) + 2.0 - np.square(c4).sum()
    draws = [
        frechet_distance(RNG.normal(size=(n, 1)), RNG.normal(size=(m, 1))) for _ in range(2000)
    ]
    assert_mean(draws, 1 / n + 1 / m + gap)


def test_frechet_distance_of_one_law_is_its_bias_in_five_dimensions():
    """The leading order of the docstring; the next one is 1/n smaller, hence 3 % more."""
    n = 300
    m = 500
    k = 5
    draws = [frechet_distance(RNG.normal(size=(n, k)), RNG.normal(size=(m, k))) for _ in range(300)]
    want = k * (k + 5) / 4 * (1 / n + 1 / m)
    assert abs(np.mean(draws) - want) < 5 * np.std(draws) / np.sqrt(300) + 0.03 * want


def test_sliced_wasserstein_of_a_shift_is_its_mean_projection():
    """W_1 of a shift by c along u is |<c, u>|, on average |c| Γ(d/2) / (√π Γ((d+1)/2)).

    Within 5 standard errors of 4000 directions; in unequal numbers the same; in one dimension
    SciPy's.
    """
    x = RNG.normal(size=(500, 3))
    c = np.array([2.0, 1.0, -2.0])
    want = 3.0 * math.gamma(1.5) / (math.sqrt(math.pi) * math.gamma(2.0))
    error = 3 / np.sqrt(12 * 4000)  # |<c, u>| is uniform in [0, 3]
    assert sliced_wasserstein(x, x + c, num_directions=4000) == pytest.approx(want, abs=5 * error)

    once = sliced_wasserstein(x, x + c)
    assert sliced_wasserstein(x, np.repeat(x + c, 2, axis=0)) == pytest.approx(once, rel=0.02)

    one = RNG.normal(size=(300, 1))
    want = stats.wasserstein_distance(one[:, 0], one[:, 0] ** 3)
    assert sliced_wasserstein(one, one**3) == pytest.approx(want, rel=1e-9)


def test_sliced_wasserstein_of_unequal_numbers_meets_at_quantiles():
    x = RNG.normal(size=(20, 1))
    y = RNG.normal(size=(33, 1))
    quantiles = np.quantile(y[:, 0], (np.arange(20) + 0.5) / 20, method="hazen")
    want = np.mean(np.abs(np.sort(x[:, 0]) - quantiles))
    assert sliced_wasserstein(x, y) == sliced_wasserstein(y, x) == pytest.approx(want, rel=1e-12)
