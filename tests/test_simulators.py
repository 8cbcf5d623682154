"""Exact posteriors against rejection ABC, grids, regression and simulation-based calibration."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from scoresde.evaluation.calibration import rank_test, ranks

FOLDER = Path(__file__).parents[1] / "experiments"
sys.path.insert(0, str(FOLDER))
import simulators  # noqa: E402
from simulators import LinearGaussian, TwoMoons  # noqa: E402

SIMULATORS = {"linear Gaussian": LinearGaussian(3), "two moons": TwoMoons()}
OBSERVATIONS = {
    "inside": (0.0, 0.0),
    "moons that meet": (0.3, 0.2),
    "at a side of the box": (-0.6, 0.5),
    "at a corner of the box": (-1.04, 0.02),
}


@pytest.fixture(params=SIMULATORS.values(), ids=SIMULATORS.keys())
def simulator(request):
    return request.param


@pytest.fixture(params=OBSERVATIONS.values(), ids=OBSERVATIONS.keys())
def observation(request):
    return np.array(request.param, np.float32)


# --- Both ---


def test_exact_posteriors_are_calibrated(simulator):
    """Ranks of every parameter, of their sum's size, and of the posterior density itself.

    The sum's size is that of a moon, and the density would show a wrong law within one.
    """
    n = 400
    key_prior, key_noise, key_posterior = jax.random.split(jax.random.key(0), 3)
    theta = simulator.prior_sample(key_prior, n)
    y = simulator.simulate(key_noise, theta)

    @jax.jit
    def posterior(key, theta, y):
        draws = simulator.posterior_sample(key, y, 19)
        both = jnp.concatenate([theta[None], draws])
        size = jnp.abs(jnp.sum(both, axis=1))
        density = simulator.posterior_log_prob(both, y)
        return jnp.concatenate([both, size[:, None], density[:, None]], axis=1)

    found = np.asarray(jax.vmap(posterior)(jax.random.split(key_posterior, n), theta, y))
    test = rank_test(ranks(found[:, 0], found[:, 1:]), 19)
    assert test.calibrated, test.outside
    assert test.p_value > 0.01


def test_examples_depend_on_their_own_key(simulator):
    key = jax.random.key(1)
    theta = simulator.prior_sample(key, 5)
    y = simulator.simulate(key, theta)
    draws = simulator.posterior_sample(key, y[0], 5)
    np.testing.assert_array_equal(simulator.prior_sample(key, 3), theta[:3])
    np.testing.assert_array_equal(simulator.simulate(key, theta[:3]), y[:3])
    np.testing.assert_array_equal(simulator.posterior_sample(key, y[0], 3), draws[:3])
    assert theta.shape == y.shape == draws.shape == (5, simulator.dim)
    assert len(np.unique(draws[:, 0])) == 5


def test_shapes_that_do_not_fit_are_refused(simulator):
    key = jax.random.key(0)
    theta = simulator.prior_sample(key, 4)
    y = simulator.simulate(key, theta)
    with pytest.raises(ValueError, match=r"write theta\[None\]"):
        simulator.simulate(key, theta[0])
    with pytest.raises(ValueError, match=rf"wanted \(n, {simulator.dim}\)"):
        simulator.posterior_log_prob(theta[:, :1], y[0])
    with pytest.raises(ValueError, match=r"wanted one observation.*\n?.*jax\.vmap") as refused:
        simulator.posterior_sample(key, y, 2)

    advice = str(refused.value).split("write ")[1].rstrip(".")
    names = {"jax": jax, "simulator": simulator, "keys": jax.random.split(key, 4), "y": y, "n": 2}
    assert eval(advice, names).shape == (4, 2, simulator.dim)


# --- Linear Gaussian ---


def test_linear_gaussian_is_the_regression_of_parameters_on_observations():
    """Slope, residual variance and density, within 5 standard errors, from joint draws alone."""
    model = LinearGaussian(2)
    theta = model.prior_sample(jax.random.key(0), 50_000)
    y = model.simulate(jax.random.key(1), theta)
    of_prior = np.asarray(theta, np.float64).ravel()
    of_data = np.asarray(y, np.float64).ravel()
    assert stats.kstest(of_prior, stats.norm(0.0, np.sqrt(0.1)).cdf).pvalue > 1e-3
    fit = stats.linregress(of_data, of_prior)
    rest = of_prior - fit.slope * of_data - fit.intercept

    given = jnp.array([0.3, -0.8])
    draws = np.asarray(model.posterior_sample(jax.random.key(2), given, 50_000), np.float64)
    error = np.sqrt(0.05 / 50_000) + fit.stderr * np.abs(np.asarray(given))
    assert np.all(np.abs(draws.mean(axis=0) - fit.slope * np.asarray(given)) < 5 * error)
    np.testing.assert_allclose(draws.var(axis=0), rest.var(), rtol=5 * np.sqrt(3 / 100_000))
    assert abs(np.corrcoef(draws.T)[0, 1]) < 5 / np.sqrt(50_000)


def test_linear_gaussian_density_is_bayes_theorem():
    """prior × likelihood / evidence, the evidence N(0, 0.2 I), by SciPy."""
    model = LinearGaussian()
    assert model.dim == 10
    theta = np.asarray(model.prior_sample(jax.random.key(0), 6), np.float64)
    y = np.asarray(model.simulate(jax.random.key(1), theta))[0].astype(np.float64)
    prior = stats.norm.logpdf(theta, 0.0, np.sqrt(0.1)).sum(axis=1)
    likelihood = stats.norm.logpdf(y, theta, np.sqrt(0.1)).sum(axis=1)
    evidence = stats.norm.logpdf(y, 0.0, np.sqrt(0.2)).sum()
    found = model.posterior_log_prob(theta, y)
    np.testing.assert_allclose(found, prior + likelihood - evidence, rtol=1e-5)


# --- Two moons ---


def half_ring(rng, n):
    """p of Greenberg et al., in NumPy."""
    a = rng.uniform(-np.pi / 2, np.pi / 2, n)
    r = rng.normal(0.1, 0.01, n)
    return np.stack([r * np.cos(a) + 0.25, r * np.sin(a)], axis=1)


def two_moons(rng, theta):
    """The simulator of Greenberg et al., in NumPy."""
    shift = [-np.abs(theta[:, 0] + theta[:, 1]), -theta[:, 0] + theta[:, 1]]
    return half_ring(rng, len(theta)) + np.stack(shift, axis=1) / np.sqrt(2)


def near(rng, y, n):
    """Draws of the prior, of those from which an observation near y is possible."""
    size = rng.uniform(max(0.0, 0.22 - y[0]), 0.43 - y[0], n) * rng.choice([-1.0, 1.0], n)
    gap = rng.uniform(y[1] - 0.18, y[1] + 0.18, n)
    theta = np.stack([size - gap, size + gap], axis=1) / np.sqrt(2)
    return theta[np.abs(theta).max(axis=1) <= 1.0]


def directions(theta):
    """Parameters, and the directions across and along the moons."""
    a, b = np.asarray(theta).T
    return a, b, a + b, b - a, np.abs(a + b)


def test_two_moons_simulates_the_papers_observations():
    """Against the same in NumPy, in both coordinates and one between; the prior fills the box."""
    rng = np.random.default_rng(0)
    theta = TwoMoons().prior_sample(jax.random.key(0), 20_000)
    for column in np.asarray(theta).T:
        assert stats.kstest(column, stats.uniform(-1.0, 2.0).cdf).pvalue > 1e-3
    for row in ([0.3, 0.1], [-0.7, 0.2]):
        theta = np.tile(np.float32(row), (5000, 1))
        y = TwoMoons().simulate(jax.random.key(1), jnp.asarray(theta))
        for found, want in zip(directions(y), directions(two_moons(rng, theta)), strict=True):
            assert stats.ks_2samp(found, want).pvalue > 1e-3


def test_two_moons_draws_are_those_of_rejection_abc(observation):
    """Parameters whose simulated observation lies within 0.004 of y.

    That widens the half ring of thickness 0.01 by 2 %. Each moon has half of the draws.
    """
    rng = np.random.default_rng(1)
    theta = near(rng, observation, 3_000_000)
    kept = np.linalg.norm(two_moons(rng, theta) - observation, axis=1) < 0.004
    assert kept.sum() > 400

    draws = TwoMoons().posterior_sample(jax.random.key(2), jnp.asarray(observation), 4000)
    for found, want in zip(directions(draws), directions(theta[kept]), strict=True):
        assert stats.ks_2samp(found, want).pvalue > 1e-3
    assert stats.binomtest(int(np.sum(directions(draws)[2] > 0)), 4000).pvalue > 1e-3


def test_two_moons_density_is_normalised_and_that_of_the_draws(observation):
    """Its sum over a grid of the box is 1, to the grid's width at the ends of the half rings.

    Draws fall into squares of the grid as often as it says, by chi-squared.
    """
    cells = 1600
    line = (np.arange(cells) + 0.5) * 2.0 / cells - 1.0
    grid = jnp.asarray(np.stack(np.meshgrid(line, line, indexing="ij"), axis=-1), jnp.float32)
    log_prob = TwoMoons().posterior_log_prob(grid.reshape(-1, 2), observation)
    mass = np.exp(np.asarray(log_prob, np.float64)) * (2.0 / cells) ** 2
    assert mass.sum() == pytest.approx(1.0, abs=3e-3)

    draws = TwoMoons().posterior_sample(jax.random.key(3), jnp.asarray(observation), 4000)
    side = 80
    squares = mass.reshape(side, cells // side, side, cells // side).sum(axis=(1, 3)).ravel()
    counts = np.histogram2d(*np.asarray(draws).T, bins=side, range=[[-1, 1]] * 2)[0].ravel()
    often = 4000 * squares > 10.0
    observed = np.append(counts[often], counts[~often].sum())
    expected = np.append(squares[often], squares[~often].sum()) / squares.sum() * 4000
    kept = expected > 5.0
    assert kept.sum() > 20
    statistic = np.sum((observed - expected)[kept] ** 2 / expected[kept])
    assert stats.chi2.sf(statistic, kept.sum() - 1) > 1e-3


def test_share_inside_is_that_of_draws(observation):
    """A(y) against 200 000 half rings in NumPy, of which each condition is checked on theta."""
    p = half_ring(np.random.default_rng(4), 200_000)
    size = p[:, 0] - observation[0]
    gap = observation[1] - p[:, 1]
    theta = np.stack([size - gap, size + gap]) / np.sqrt(2)
    inside = (size >= 0.0) & np.all(np.abs(theta) <= 1.0, axis=0)
    found = float(simulators.share_inside(jnp.asarray(observation)))
    assert found == pytest.approx(inside.mean(), abs=5 * inside.std() / np.sqrt(200_000) + 1e-6)


def test_two_moons_density_is_zero_where_theta_is_impossible():
    y = np.zeros(2, np.float32)
    theta = jnp.array([[1.1, -0.6], [0.1, 0.1], [0.0, 0.0], [0.25, 0.25]])
    found = TwoMoons().posterior_log_prob(theta, y)
    np.testing.assert_array_equal(np.isfinite(found), [False, False, False, True])
    assert np.all(np.asarray(found)[:3] == -np.inf)
    assert np.all(np.asarray(TwoMoons().posterior_log_prob(theta, y + 3.0)) == -np.inf)


def test_impossible_observations_are_refused(monkeypatch):
    far = jnp.array([3.0, 0.0])
    with pytest.raises(ValueError, match=r"a share 0 of the half ring.*at least 0\.0001"):
        TwoMoons().posterior_sample(jax.random.key(0), far, 2)

    monkeypatch.setattr(simulators, "MOST_TRIES", 10)
    jax.clear_caches()
    draw = jax.jit(lambda y: TwoMoons().posterior_sample(jax.random.key(0), y, 2))
    assert np.all(np.isnan(draw(far)))


def test_dimensions_that_are_not_whole_are_refused():
    with pytest.raises(ValueError, match="dim = 0"):
        LinearGaussian(0)
