"""Weighted particles against exact posteriors, and their distance as they grow in number."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gaussian import mixture_in
from posteriors import gaussian

import scoresde as sd
from scoresde import inverse
from scoresde.evaluation.distances import sliced_wasserstein

KEY = jax.random.key(0)
PLANE = sd.GaussianMixture(
    np.array([[1.0, 1.0], [-1.0, 1.0], [0.0, -1.2]]), np.array([0.05, 0.1, 0.08])
)
MATRIX = np.array([[1.0, 0.3]])
Y = jnp.array([[0.2]])
NOISE_STD = 0.3


def particles(method, count, num=400, **settings):
    """One draw of each of `num` independent sets of particles."""
    sde = sd.VP()
    posterior = method(PLANE.score(sde), sde, inverse.Projection(MATRIX), Y, NOISE_STD)
    out = inverse.twisted_smc(KEY, posterior, (num, 2), count, **settings)
    assert bool(jnp.all(out.success))
    return np.asarray(out.sample(jax.random.key(1), 1))[:, 0], out


def test_the_distance_falls_to_the_floor_with_the_number_of_particles():
    """Sliced Wasserstein to the exact posterior: 2, 8 and 64 particles, and two exact draws."""
    exact = PLANE.posterior(MATRIX, np.array([0.2]), NOISE_STD)
    reference = np.asarray(exact.sample(jax.random.key(2), 20_000))
    distances = []
    for count in (2, 8, 64):
        x, out = particles(inverse.PiGDM, count)
        distances.append(sliced_wasserstein(x, reference))
        assert np.all((out.ess >= 1.0 - 1e-4) & (out.ess <= count + 1e-3))
        np.testing.assert_allclose(out.weights.sum(axis=1), 1.0, rtol=1e-5)
    floors = [
        sliced_wasserstein(np.asarray(exact.sample(jax.random.key(3 + i), 400)), reference)
        for i in range(5)
    ]
    assert distances[0] > distances[1] > distances[2], distances
    assert distances[0] > 3.0 * max(floors), (distances, floors)
    assert distances[2] < np.mean(floors) + 5.0 * np.std(floors, ddof=1), (distances, floors)

    # A single sample of the score that proposes them is as far away as two particles.
    sde = sd.VP()
    score = inverse.PiGDM(PLANE.score(sde), sde, inverse.Projection(MATRIX), Y, NOISE_STD)
    x = sd.sample(KEY, sd.DDIM(num_steps=100, eta=1.0), sde, score, (400, 2)).x
    assert sliced_wasserstein(np.asarray(x), reference) > distances[0]


@pytest.mark.parametrize(
    "method", [inverse.PiGDM, pytest.param(inverse.DPS, marks=pytest.mark.slow)]
)
def test_means_and_spreads_are_those_of_the_posterior(method, long_sde):
    """Of Gaussian data: weighted means over 16 independent sets, 5 standard errors of theirs."""
    data = gaussian(3)
    matrix = np.random.default_rng(0).normal(size=(2, 3))
    y = np.array([0.5, -1.0])
    exact = data.posterior(matrix, y, 0.5)
    posterior = method(
        data.score(long_sde), long_sde, inverse.Projection(matrix), jnp.asarray(y[None]), 0.5
    )
    out = inverse.twisted_smc(KEY, posterior, (16, 3), 500, num_steps=200, batch_size=8)
    for found, expected in (
        (out.mean(), exact.mean()),
        (out.std(), np.sqrt(np.diag(exact.cov()))),
    ):
        found = np.asarray(found)
        stderr = found.std(axis=0, ddof=1) / np.sqrt(16)
        # The chain of 200 steps itself is off by about 2 % of a standard deviation.
        gap = np.abs(found.mean(axis=0) - expected)
        assert np.all(gap < 5.0 * stderr + 0.03 * np.sqrt(np.diag(exact.cov()))), (gap, stderr)


def test_each_observation_has_its_own_rows():
    """y, mask, noise and condition, in chunks and all at once."""
    sde = sd.VP()
    data = mixture_in(3)
    masks = np.array([[1, 0, 0], [0, 1, 1], [1, 0, 1], [0, 0, 1], [1, 1, 0]])
    y = jnp.asarray(np.random.default_rng(0).normal(size=(5, 3)), jnp.float32)
    noise = np.array([0.05, 0.1, 0.05, 0.1, 0.05])
    posterior = inverse.PiGDM(data.score(sde), sde, inverse.Mask(masks), y, noise)
    whole = inverse.twisted_smc(KEY, posterior, (5, 3), 64, num_steps=40)
    chunks = inverse.twisted_smc(KEY, posterior, (5, 3), 64, num_steps=40, batch_size=2)
    np.testing.assert_allclose(whole.x, chunks.x, atol=1e-3)
    gap = np.abs(masks * np.asarray(whole.mean() - y)) / noise[:, None]
    assert np.max(gap) < 5.0

    labels = np.array([0, 1])
    classes = sd.MixtureClassScore(sde, PLANE)
    posterior = inverse.PiGDM(classes, sde, inverse.Projection(MATRIX), Y, 1.0)
    out = inverse.twisted_smc(KEY, posterior, (2, 2), 100, labels)
    exact = [component(k).posterior(MATRIX, np.array([0.2]), 1.0).mean() for k in labels]
    np.testing.assert_allclose(out.mean(), np.stack(exact), atol=0.15)


def component(k):
    return sd.GaussianMixture(PLANE.means[k][None], PLANE.covs[k][None])


def test_units_of_the_data():
    sde = sd.VP()
    score = PLANE.score(sde)

    def standardised(x, t):
        return score(x, t)

    standardised.standardization = sd.Standardization((5.0, -5.0), (2.0, 2.0))
    y = 2.0 * Y + 5.0 * 1.0 - 5.0 * 0.3
    posterior = inverse.PiGDM(standardised, sde, inverse.Projection(MATRIX), y, 2.0 * NOISE_STD)
    out = inverse.twisted_smc(KEY, posterior, (1, 2), 100, num_steps=20)
    _, expected = particles(inverse.PiGDM, 100, num=1, num_steps=20)
    np.testing.assert_allclose(out.x[0], np.array([5.0, -5.0]) + 2.0 * expected.x[0], atol=1e-3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_particles": 1}, "at least 2"),
        ({"num_steps": 0}, "at least 1"),
        ({"threshold": 1.5}, "out of range"),
        ({"t_min": 1.0}, "t_min"),
        ({"shape": (3, 2)}, "2 rows, and there are 3"),
    ],
)
def test_what_does_not_fit_is_refused(settings, message):
    sde = sd.VP()
    y = jnp.ones((2, 1))
    posterior = inverse.PiGDM(PLANE.score(sde), sde, inverse.Projection(MATRIX), y, 0.1)
    settings = {"shape": (2, 2), **settings}
    with pytest.raises(ValueError, match=message):
        inverse.twisted_smc(KEY, posterior, **settings)


def test_the_covariance_may_not_depend_on_x():
    sde = sd.VP()
    posterior = inverse.MMPS(PLANE.score(sde), sde, inverse.Projection(MATRIX), Y, 0.1)
    with pytest.raises(TypeError, match=r"wanted sd\.inverse\.PiGDM"):
        inverse.twisted_smc(KEY, posterior, (1, 2))
    arguments = (PLANE.score(sde), sde, inverse.Projection(MATRIX), Y, 0.1)
    with pytest.raises(ValueError, match=r"scale=1\.0"):
        inverse.twisted_smc(KEY, inverse.DPS(*arguments, scale=0.5), (1, 2))
    out = inverse.twisted_smc(KEY, inverse.DPS(*arguments, scale=1.0), (1, 2), 10, num_steps=3)
    assert bool(out.success[0])
