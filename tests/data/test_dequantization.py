"""Dequantisations against numerical integration in one dimension, and their bounds on the side they must be."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import scoresde as sd

KEY = jax.random.key(0)
T_MIN = 0.0055
PAIR = sd.GaussianMixture([[-0.5], [0.4]], [0.01, 0.04], [0.4, 0.6])


SDE = sd.VP()  # sigma(t_min) = .03: for 16 levels on [-1, 1], tau = 2


def both(levels):
    return {
        "uniform": sd.UniformDequantization(levels=levels),
        "truncated normal": sd.TruncatedNormalDequantization(SDE, T_MIN, levels),
    }


@pytest.mark.parametrize(
    ("kind", "levels"), [*itertools.product(["uniform", "truncated normal"], [8, 16, 256])]
)
def test_draws_fill_the_bins_as_the_density_says(kind, levels, x64):
    """log_prob integrates to one over the bin, entropy is its integral, and 20 000 draws have its mean and spread."""
    dequantize, k = both(levels)[kind], 3
    scale = float(SDE.alpha(T_MIN)) if kind == "truncated normal" else 1.0
    ends = scale * (-1.0 + 2.0 * k / levels), scale * (-1.0 + 2.0 * (k + 1) / levels)
    centre, half = 0.5 * sum(ends), 0.5 * (ends[1] - ends[0])
    grid = np.linspace(-half, half, 4001)
    values = np.exp(
        np.asarray(dequantize.log_prob(jnp.asarray(centre + grid)[:, None], jnp.full((4001, 1), k)))
    )
    assert np.trapezoid(values, grid) == pytest.approx(1.0, abs=1e-5)
    assert np.trapezoid(-values * np.log(values), grid) == pytest.approx(
        float(dequantize.entropy), abs=1e-5
    )
    z = np.asarray(dequantize(KEY, jnp.full((20_000, 1), k)))[:, 0] - centre
    assert np.abs(z).max() <= half * (1.0 + 1e-6)
    spread = math.sqrt(np.trapezoid(values * grid**2, grid))
    assert abs(z.mean()) < 5 * spread / math.sqrt(20_000)
    assert abs(z.std() / spread - 1.0) < 5 / math.sqrt(2 * 20_000)
    outside = dequantize.log_prob(jnp.full((1, 1), centre + 3.0 * half), jnp.full((1, 1), k))
    assert kind == "uniform" or float(outside[0]) == -math.inf


@pytest.mark.parametrize("kind", ["uniform", "truncated normal"])
def test_bounds_are_above_the_bits_and_tighten_to_them(kind):
    """-log2 P(k) by integration; K = 1 is above it, within 5 standard errors, and K = 64 nearer."""
    levels, k = 16, jnp.arange(16.0)[:, None]
    dequantize = both(levels)[kind]
    t, scale = (T_MIN, float(SDE.alpha(T_MIN))) if kind == "truncated normal" else (0.0, 1.0)
    edges = scale * np.linspace(-1.0, 1.0, levels + 1)
    grid = np.linspace(edges[0], edges[-1], 16 * 200 + 1)
    values = np.exp(np.asarray(PAIR.log_prob(SDE, jnp.asarray(grid)[:, None], t), np.float64))
    exact = -np.log2(
        [
            np.trapezoid(values[i * 200 : i * 200 + 201], grid[i * 200 : i * 200 + 201])
            for i in range(16)
        ]
    )
    draws = jax.vmap(lambda key: dequantize(key, k))(jax.random.split(KEY, 640))
    log_p = jax.vmap(lambda z: PAIR.log_prob(SDE, z, t))(draws)
    log_q = jax.vmap(lambda z: dequantize.log_prob(z, k))(draws)
    single = -np.asarray(log_p - log_q) / math.log(2.0)
    np.testing.assert_allclose(
        sd.discrete_bits_per_dim(log_p[:1], log_q[:1], 1), single[0], rtol=1e-4, atol=1e-4
    )
    exact_nats = jnp.zeros_like(log_p[::10])
    many = np.stack(
        [sd.discrete_bits_per_dim(log_p[i::10], log_q[i::10], 1, exact_nats) for i in range(10)]
    )
    error = single.std(axis=0, ddof=1) / math.sqrt(640)
    assert np.all(single.mean(axis=0) > exact - 5 * error - 1e-3)
    assert np.all(many.mean(axis=0) > exact - 5 * many.std(axis=0, ddof=1) / math.sqrt(10) - 1e-3)
    assert np.mean(many.mean(axis=0) - exact) < 0.3 * np.mean(single.mean(axis=0) - exact)
    # the closed entropy has the same mean as -log q
    with_entropy = -(np.asarray(log_p) + float(dequantize.entropy)) / math.log(2.0)
    assert np.all(np.abs(with_entropy.mean(axis=0) - single.mean(axis=0)) < 5 * error + 1e-3)


def bits_in_16_bins():
    """P(k) of PAIR's mass in 16 bins of [-1, 1], normalised, and its entropy in bits: by the error function."""
    cdf = lambda x: 0.4 * _phi((x + 0.5) / 0.1) + 0.6 * _phi((x - 0.4) / 0.2)  # noqa: E731
    mass = np.diff([cdf(x) for x in np.linspace(-1.0, 1.0, 17)])
    mass /= mass.sum()
    return mass, -float(np.sum(mass * np.log2(mass)))


def _phi(x):
    return 0.5 * (1.0 + math.erf(x / math.sqrt(2.0)))


@pytest.mark.parametrize("kind", ["uniform", "truncated normal"])
def test_a_distribution_of_known_entropy_takes_no_fewer_bits(kind):
    """The ODE's bits are the cross-entropy of q(z | k) by integration, within 4 standard errors, and so above the
    entropy; so is the variational bound, by its own error more.
    """
    n, (mass, entropy) = 3000, bits_in_16_bins()
    k = jnp.asarray(np.random.default_rng(0).choice(16, n, p=mass))[:, None]
    dequantize, score = both(16)[kind], PAIR.score(SDE)
    t_min, scale = (T_MIN, float(SDE.alpha(T_MIN))) if kind == "truncated normal" else (1e-5, 1.0)
    grid = np.linspace(-scale, scale, 16 * 200 + 1).reshape(-1, 1)
    own = np.minimum(np.arange(len(grid)) // 200, 15)
    q, p = (
        dequantize.log_prob(jnp.asarray(grid), jnp.asarray(own)[:, None]),
        PAIR.log_prob(SDE, jnp.asarray(grid), t_min),
    )
    want = np.trapezoid(mass[own] * np.exp(q) * np.asarray(q - p), grid[:, 0]) / math.log(2.0)
    assert want > entropy + 0.01

    x = dequantize(KEY, k)
    out = sd.log_likelihood(KEY, SDE, score, x, divergence=sd.ExactDivergence(), t_min=t_min)
    bits = np.asarray(
        sd.discrete_bits_per_dim(
            out.log_prob[None], dequantize.log_prob(x, k)[None], 1, out.stderr[None]
        )
    )
    assert abs(bits.mean() - want) < 4 * bits.std() / math.sqrt(n) + 2e-3
    if kind == "uniform":  # the bound takes x as data, not as a state at t_min
        bound = sd.variational_bound(jax.random.key(1), SDE, score, x, num_times=50, t_min=t_min)
        bits = (np.asarray(bound.nll) - float(dequantize.entropy)) / math.log(2.0)
        assert (
            entropy - 4 * bits.std() / math.sqrt(n)
            < bits.mean()
            < want + 0.02 + 4 * bits.std() / math.sqrt(n)
        )


def test_noisy_likelihoods_are_not_averaged_as_probabilities():
    """By how much the mean of exp is too large: half the variance, in nats. One draw may be noisy."""
    log_prob, log_q = jnp.zeros((3, 2)), jnp.zeros((3, 2))
    with pytest.raises(ValueError, match="ExactDivergence"):
        sd.discrete_bits_per_dim(log_prob, log_q, 4, jnp.full((3, 2), jnp.nan))
    with pytest.raises(ValueError, match="several draws, and no stderr"):
        sd.discrete_bits_per_dim(log_prob, log_q, 4)
    sd.discrete_bits_per_dim(log_prob[:1], log_q[:1], 4, jnp.ones((1, 2)))
    sd.discrete_bits_per_dim(log_prob, log_q, 4, jnp.zeros((3, 2)))


@pytest.mark.parametrize("kind", ["uniform", "truncated normal"])
def test_known_integers_are_dequantised_inside_jit(kind):
    dequantize, k = both(16)[kind], jnp.arange(16)[:, None]
    draw, above = jax.jit(lambda key: dequantize(key, k)), k + 1
    np.testing.assert_allclose(draw(KEY), dequantize(KEY, k), rtol=1e-5)
    with pytest.raises(ValueError, match="0 … 15"):
        jax.jit(lambda key: dequantize(key, above))(KEY)


@pytest.mark.parametrize("sde", [sd.VP(), sd.SubVP(), sd.VE()], ids=["vp", "subvp", "ve"])
def test_spikes_are_said_and_the_t_min_to_write(sde, recwarn):
    """17 levels at t_min = 1e-5; at the one that is named, to its one digit, half a bin is about 3 deviations."""
    sd.TruncatedNormalDequantization(sde, 1e-5, 17)
    (warning,) = recwarn
    t_min = float(str(warning.message).split("t_min = ")[-1].split()[0])
    recwarn.clear()
    sd.TruncatedNormalDequantization(sde, t_min, 17)
    assert not list(recwarn)
    assert float(sde.alpha(t_min) / sde.sigma(t_min)) / 17 == pytest.approx(3.0, rel=0.5)


def test_many_levels_stay_in_their_bins():
    """10 000 levels, where rounding of z is a part of the bin: every log q is finite."""
    dequantize, k = (
        sd.TruncatedNormalDequantization(sd.VP(), levels=10_000),
        jnp.arange(0, 10_000, 7)[:, None],
    )
    assert bool(jnp.isfinite(dequantize.log_prob(dequantize(KEY, k), k)).all())


def test_uniform_agrees_with_bits_per_dim():
    dequantize = sd.UniformDequantization(levels=17)
    log_prob = jnp.asarray([10.0, -3.0])
    want = sd.bits_per_dim(log_prob, dim=6, levels=17)
    x = dequantize(KEY, jnp.ones((2, 6)))
    log_q = dequantize.log_prob(x, jnp.ones((2, 6)))
    np.testing.assert_allclose(
        sd.discrete_bits_per_dim(log_prob[None], log_q[None], 6), want, rtol=1e-5
    )
    np.testing.assert_allclose(
        -(log_prob + 6 * dequantize.entropy) / (6 * math.log(2)), want, rtol=1e-5
    )


def test_truncated_normal_has_zhengs_constants():
    """8-bit data on [-1, 1]: centres 2(k + 1/2)/256 - 1, tau = alpha / (256 sigma)."""
    dequantize = sd.TruncatedNormalDequantization(sd.VP(), 1e-5)
    z = dequantize(KEY, jnp.asarray([[0.0], [255.0]]))
    alpha, sigma = float(sd.VP().alpha(1e-5)), float(sd.VP().sigma(1e-5))
    tau = alpha / (256 * sigma)
    assert abs(float(z[0, 0]) + alpha * 255 / 256) <= sigma * tau * 1.001
    assert abs(float(z[1, 0]) - alpha * 255 / 256) <= sigma * tau * 1.001


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sd.TruncatedNormalDequantization(sd.VP(), 0.0), "t_min"),
        (lambda: sd.TruncatedNormalDequantization(sd.VP(), levels=1), "levels"),
        (lambda: sd.TruncatedNormalDequantization(sd.VP(), low=1.0, high=0.0), "not below"),
        (
            lambda: sd.TruncatedNormalDequantization(sd.VP(), 3e-3, 16)(
                KEY, jnp.full((2, 1), 16.0)
            ),
            "0 … 15",
        ),
        (lambda: sd.discrete_bits_per_dim(jnp.ones(3), jnp.ones(3), 2), r"log_prob\[None\]"),
    ],
)
def test_bad_calls_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
