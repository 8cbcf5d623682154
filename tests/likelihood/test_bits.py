"""Bits per dimension of integers, against probabilities that are known by integration."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import scoresde as sd

KEY = jax.random.key(0)
PAIR = sd.GaussianMixture([[-0.5], [0.4]], [0.01, 0.04], [0.4, 0.6])
SDE = sd.VP()
T_MIN = 0.0055  # sigma is 0.03 there: for 16 levels on [-1, 1], tau = 2


def both(levels):
    return {
        "uniform": sd.UniformDequantization(levels=levels),
        "truncated normal": sd.TruncatedNormalDequantization(SDE, T_MIN, levels),
    }


@pytest.mark.parametrize("kind", ["uniform", "truncated normal"])
def test_bounds_are_above_the_bits_and_tighten_to_them(kind):
    """-log2 P(k) by integration; K = 1 is above it, within 5 standard errors, and K = 64 nearer."""
    levels = 16
    k = jnp.arange(16.0)[:, None]
    dequantize = both(levels)[kind]
    t, scale = (T_MIN, float(SDE.alpha(T_MIN))) if kind == "truncated normal" else (0.0, 1.0)

    # The bits of each k: the density integrated over its bin.
    edges = scale * np.linspace(-1.0, 1.0, levels + 1)
    grid = np.linspace(edges[0], edges[-1], 16 * 200 + 1)
    values = np.exp(np.asarray(PAIR.log_prob(SDE, jnp.asarray(grid)[:, None], t), np.float64))
    bins = [slice(i * 200, i * 200 + 201) for i in range(16)]
    exact = -np.log2([np.trapezoid(values[one], grid[one]) for one in bins])

    # K = 1, 640 times.
    draws = jax.vmap(lambda key: dequantize(key, k))(jax.random.split(KEY, 640))
    log_p = jax.vmap(lambda z: PAIR.log_prob(SDE, z, t))(draws)
    log_q = jax.vmap(lambda z: dequantize.log_prob(z, k))(draws)
    single = -np.asarray(log_p - log_q) / math.log(2.0)
    one_draw = sd.discrete_bits_per_dim(log_p[:1], log_q[:1], 1)
    np.testing.assert_allclose(one_draw, single[0], rtol=1e-4, atol=1e-4)

    # K = 64, 10 times.
    exact_nats = jnp.zeros_like(log_p[::10])
    many = np.stack(
        [sd.discrete_bits_per_dim(log_p[i::10], log_q[i::10], 1, exact_nats) for i in range(10)]
    )
    error = single.std(axis=0, ddof=1) / math.sqrt(640)
    assert np.all(single.mean(axis=0) > exact - 5 * error - 1e-3)
    assert np.all(many.mean(axis=0) > exact - 5 * many.std(axis=0, ddof=1) / math.sqrt(10) - 1e-3)
    assert np.mean(many.mean(axis=0) - exact) < 0.3 * np.mean(single.mean(axis=0) - exact)

    # The closed-form entropy has the same mean as -log q.
    with_entropy = -(np.asarray(log_p) + float(dequantize.entropy)) / math.log(2.0)
    assert np.all(np.abs(with_entropy.mean(axis=0) - single.mean(axis=0)) < 5 * error + 1e-3)


def bits_in_16_bins():
    """P(k), PAIR's mass in 16 bins of [-1, 1] by the error function, and its entropy in bits."""
    cdf = lambda x: 0.4 * phi((x + 0.5) / 0.1) + 0.6 * phi((x - 0.4) / 0.2)  # noqa: E731
    mass = np.diff([cdf(x) for x in np.linspace(-1.0, 1.0, 17)])
    mass /= mass.sum()
    return mass, -float(np.sum(mass * np.log2(mass)))


def phi(x):
    return 0.5 * (1.0 + math.erf(x / math.sqrt(2.0)))


@pytest.mark.parametrize("kind", ["uniform", "truncated normal"])
def test_a_distribution_of_known_entropy_takes_no_fewer_bits(kind):
    """The ODE's bits are the cross-entropy of q(z | k) by integration, within 4 standard errors.

    They are therefore above the entropy. So is the variational bound, by its own error more.
    """
    n = 3000
    mass, entropy = bits_in_16_bins()
    k = jnp.asarray(np.random.default_rng(0).choice(16, n, p=mass))[:, None]
    dequantize = both(16)[kind]
    score = PAIR.score(SDE)
    t_min, scale = (T_MIN, float(SDE.alpha(T_MIN))) if kind == "truncated normal" else (1e-5, 1.0)

    # The cross-entropy by integration.
    grid = np.linspace(-scale, scale, 16 * 200 + 1).reshape(-1, 1)
    own = np.minimum(np.arange(len(grid)) // 200, 15)
    q = dequantize.log_prob(jnp.asarray(grid), jnp.asarray(own)[:, None])
    p = PAIR.log_prob(SDE, jnp.asarray(grid), t_min)
    nats = np.trapezoid(mass[own] * np.exp(q) * np.asarray(q - p), grid[:, 0])
    want = nats / math.log(2.0)
    assert want > entropy + 0.01

    # The likelihood by the ODE.
    x = dequantize(KEY, k)
    out = sd.log_likelihood(KEY, SDE, score, x, divergence=sd.ExactDivergence(), t_min=t_min)
    log_q = dequantize.log_prob(x, k)
    bits = sd.discrete_bits_per_dim(out.log_prob[None], log_q[None], 1, out.stderr[None])
    bits = np.asarray(bits)
    assert abs(bits.mean() - want) < 4 * bits.std() / math.sqrt(n) + 2e-3

    # The variational bound takes x as data, not as a state at t_min.
    if kind == "uniform":
        bound = sd.variational_bound(jax.random.key(1), SDE, score, x, num_times=50, t_min=t_min)
        bits = (np.asarray(bound.nll) - float(dequantize.entropy)) / math.log(2.0)
        error = bits.std() / math.sqrt(n)
        assert entropy - 4 * error < bits.mean() < want + 0.02 + 4 * error


def test_uniform_agrees_with_bits_per_dim():
    dequantize = sd.UniformDequantization(levels=17)
    log_prob = jnp.asarray([10.0, -3.0])
    want = sd.bits_per_dim(log_prob, dim=6, levels=17)

    x = dequantize(KEY, jnp.ones((2, 6)))
    log_q = dequantize.log_prob(x, jnp.ones((2, 6)))
    discrete = sd.discrete_bits_per_dim(log_prob[None], log_q[None], 6)
    with_entropy = -(log_prob + 6 * dequantize.entropy) / (6 * math.log(2))
    np.testing.assert_allclose(discrete, want, rtol=1e-5)
    np.testing.assert_allclose(with_entropy, want, rtol=1e-5)


def test_noisy_likelihoods_are_not_averaged_as_probabilities():
    """The mean of exp would be too large by half the variance in nats. One draw may be noisy."""
    log_prob = jnp.zeros((3, 2))
    log_q = jnp.zeros((3, 2))
    with pytest.raises(ValueError, match="ExactDivergence"):
        sd.discrete_bits_per_dim(log_prob, log_q, 4, jnp.full((3, 2), jnp.nan))
    with pytest.raises(ValueError, match="3 draws, and no stderr"):
        sd.discrete_bits_per_dim(log_prob, log_q, 4)
    sd.discrete_bits_per_dim(log_prob[:1], log_q[:1], 4, jnp.ones((1, 2)))
    sd.discrete_bits_per_dim(log_prob, log_q, 4, jnp.zeros((3, 2)))


@pytest.mark.usefixtures("unchecked")
def test_draws_need_an_axis():
    with pytest.raises(ValueError, match=r"log_prob\[None\]"):
        sd.discrete_bits_per_dim(jnp.ones(3), jnp.ones(3), 2)


def test_bits_per_dim_offsets():
    log_p = jnp.asarray([0.0, -10.0])
    np.testing.assert_allclose(
        sd.bits_per_dim(log_p, 4), [7.0, 7.0 + 10 / (4 * np.log(2))], rtol=1e-6
    )
    np.testing.assert_allclose(
        sd.bits_per_dim(log_p, 4, low=0.0, high=1.0) - sd.bits_per_dim(log_p, 4), 1.0, rtol=1e-6
    )
    np.testing.assert_allclose(sd.bits_per_dim(log_p, 4, levels=None), -log_p / (4 * np.log(2)))
