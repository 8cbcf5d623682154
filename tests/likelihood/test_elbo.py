"""The bound on integers against laws on which each of its terms is an integral."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from categorical import Categorical, hump
from families import PROCESSES
from flax import nnx

import scoresde as sd
from scoresde.loss import bound_terms
from scoresde.sde.bound_score import bind
from scoresde.sde.schedule import initial_weights

KEY = jax.random.key(0)
GRID = np.linspace(-9.0, 9.0, 801)
"""Values of the noise: the trapezoid rule on them is exact to 1e-12 for smooth integrands."""
DENSITY = np.exp(-0.5 * GRID**2) / np.sqrt(2.0 * np.pi) * (GRID[1] - GRID[0])


def gauss_legendre(n, low=0.0, high=1.0):
    nodes, weights = np.polynomial.legendre.leggauss(n)
    return low + (high - low) * (nodes + 1.0) / 2.0, weights * (high - low) / 2.0


def integrated(law, times, weights, weight_of, monkeypatch):
    """sum_t weights weight_of(t) E|noise - noise_hat|^2, and the same of its square."""
    x = np.repeat(law.centres, len(GRID))[:, None]
    probability = np.repeat(law.p, len(GRID)) * np.tile(DENSITY, law.levels)
    noise = jnp.asarray(np.tile(GRID, law.levels))[:, None]
    monkeypatch.setattr(bound_terms, "normal_like", lambda keys, x: noise)

    def moments(t):
        error = bound_terms.noise_error(KEY, law.sde, law, jnp.asarray(x), jnp.full(len(x), t))
        return jnp.sum(probability * error), jnp.sum(probability * error**2)

    first, second = jax.lax.map(moments, jnp.asarray(times))
    weight = np.asarray(weight_of(jnp.asarray(times)))
    return float(np.sum(weights * weight * first)), float(np.sum(weights * weight**2 * second))


def reconstruction(law, monkeypatch):
    """E[-log P(k | x_0)]."""
    noise = jnp.asarray(np.tile(GRID, law.levels))[:, None]
    monkeypatch.setattr(bound_terms, "normal_like", lambda keys, x: noise)
    k = jnp.asarray(np.repeat(np.arange(law.levels), len(GRID)), jnp.float64)[:, None]
    probability = np.repeat(law.p, len(GRID)) * np.tile(DENSITY, law.levels)
    values = bound_terms.reconstruction(
        KEY, law.sde, k, 2.0 / law.levels, law.levels, jnp.zeros(len(k))
    )
    return float(np.sum(probability * np.asarray(values)))


def densities(law, t):
    """z, its step, and p(z | k) P(k) on a grid, at time t: (z,), float, (z, levels)."""
    alpha, sigma = float(law.sde.alpha(t)), float(law.sde.sigma(t))
    reach = alpha + 12.0 * sigma
    z = np.linspace(-reach, reach, 200_001)
    conditional = np.exp(-0.5 * ((z[:, None] - alpha * law.centres) / sigma) ** 2)
    joint = law.p * conditional / (sigma * np.sqrt(2.0 * np.pi))
    return z, z[1] - z[0], joint


def kl_terms(law):
    """KL(q(z_1) || N(0, 1)) and E KL(P(k | z_0) || softmax) by integrals over z."""
    z, dz, joint = densities(law, 1.0)
    q = joint.sum(axis=1)
    prior = np.exp(-0.5 * z**2) / np.sqrt(2.0 * np.pi)
    positive = q > 1e-300
    of_prior = np.sum((q * np.log(np.where(positive, q / prior, 1.0)))[positive]) * dz

    z, dz, joint = densities(law, 0.0)
    alpha, sigma = float(law.sde.alpha(0.0)), float(law.sde.sigma(0.0))
    logits = -0.5 * ((z[:, None] - alpha * law.centres) / sigma) ** 2
    softmax = np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))
    q = joint.sum(axis=1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(joint > 1e-300, joint * np.log(joint / q / softmax), 0.0)
    return of_prior, np.sum(terms) * dz


def linear(low=-13.3, high=5.0):
    return sd.LearntVP(sd.LinearGamma(low, high))


def bent(low=-13.3, high=5.0):
    """A schedule with the same ends that spends its time otherwise."""
    weights = initial_weights(8)
    weights["c"] = 40.0 * (np.arange(8.0) > 5)
    return sd.LearntVP(sd.MonotoneGamma(low, high, hidden=8, weights=weights))


# --- Gaussian data ---


@pytest.mark.parametrize("variance", [0.25, 1.0])
def test_integrals_on_gaussian_data_are_the_closed_forms(variance, x64, monkeypatch):
    """gamma linear from -13.3 to 5, the optimal denoiser, quadrature over t, x and noise."""
    sde = linear()
    exact = sd.GaussianMixture([[0.0]], [variance])
    nodes, node_weights = np.polynomial.hermite_e.hermegauss(20)
    node_weights = node_weights / np.sqrt(2.0 * np.pi)
    x = jnp.asarray(np.sqrt(variance) * np.repeat(nodes, 20))[:, None]
    noise = jnp.asarray(np.tile(nodes, 20))[:, None]
    probability = np.repeat(node_weights, 20) * np.tile(node_weights, 20)
    monkeypatch.setattr(bound_terms, "normal_like", lambda keys, x: noise)

    score = bind(sde, exact.score(sde))

    def integrand(t):
        t = jnp.full(400, t)
        error = bound_terms.noise_error(KEY, sde, score, x, t)
        return jnp.sum(probability * bound_terms.continuous_weight(sde, t) * error)

    times, weights = gauss_legendre(100)
    diffusion = np.sum(weights * np.asarray(jax.lax.map(integrand, jnp.asarray(times))))
    low, high = -13.3, 5.0
    ratio = (variance + np.exp(high)) / (variance + np.exp(low))
    np.testing.assert_allclose(diffusion, 0.5 * (high - low - np.log(ratio)), rtol=1e-6)

    noise_variance = 1.0 / (1.0 + np.exp(-high))
    signal = (1.0 - noise_variance) * variance
    prior = 0.5 * (signal + noise_variance - np.log(noise_variance) - 1.0)
    np.testing.assert_allclose(np.sum(probability * np.asarray(sde.prior_kl(x))), prior, rtol=1e-6)


# --- A law on integers ---


def test_the_bound_is_the_entropy_and_two_divergences(x64, monkeypatch):
    """prior + diffusion + reconstruction = H + KL(q(z_1) || p) + E KL(P(k | z_0) || softmax)."""
    law = Categorical([0.1, 0.4, 0.2, 0.05, 0.25], linear(-4.0, 3.0))
    times, weights = gauss_legendre(60)
    diffusion, _ = integrated(
        law, times, weights, lambda t: bound_terms.continuous_weight(law.sde, t), monkeypatch
    )
    prior = np.sum(law.p * np.asarray(law.sde.prior_kl(jnp.asarray(law.centres)[:, None])))
    of_prior, of_decoder = kl_terms(law)
    bound = prior + diffusion + reconstruction(law, monkeypatch)
    np.testing.assert_allclose(bound, law.entropy + of_prior + of_decoder, atol=1e-6)
    assert of_prior > 1e-4 and of_decoder > 1e-4


def test_losses_in_steps_decrease_to_the_continuous_one(x64, monkeypatch):
    """Ten times the steps leave a tenth of what the limit is below."""
    law = Categorical(hump(5), linear(-5.0, 4.0))
    times, weights = gauss_legendre(60)
    limit, _ = integrated(
        law, times, weights, lambda t: bound_terms.continuous_weight(law.sde, t), monkeypatch
    )
    excess = []
    for steps in (10, 100, 1000):
        ends = np.arange(1, steps + 1) / steps
        before = ends - 1.0 / steps
        value, _ = integrated(
            law,
            ends,
            np.ones(steps),
            lambda t, before=before: bound_terms.step_weight(law.sde, jnp.asarray(before), t),
            monkeypatch,
        )
        excess.append(value - limit)
    assert all(value > 0.0 for value in excess)
    np.testing.assert_allclose(excess[1] / excess[2], 10.0, rtol=0.05)
    assert excess[0] > 5.0 * excess[1]


def test_the_value_depends_on_the_ends_alone_and_the_variance_does_not(x64, monkeypatch):
    values, squares = [], []
    for sde in (linear(-6.0, 4.0), bent(-6.0, 4.0)):
        law = Categorical(hump(5), sde)
        parts = [gauss_legendre(40, a, b) for a, b in ((0.0, 0.3), (0.3, 0.7), (0.7, 1.0))]
        times, weights = (np.concatenate(both) for both in zip(*parts, strict=True))
        value, square = integrated(
            law,
            times,
            weights,
            lambda t, sde=sde: bound_terms.continuous_weight(sde, t),
            monkeypatch,
        )
        values.append(value)
        squares.append(square)
    np.testing.assert_allclose(values[0], values[1], rtol=1e-5)
    assert max(squares) > 1.5 * min(squares)


def test_bound_and_exact_likelihood_lie_above_the_entropy(x64):
    """17 levels. The exact likelihood is that of the probability flow from the state at t = 0, with
    the noise there cut to the bins."""
    sde = linear(-8.0, 6.0)
    law = Categorical(hump(), sde)
    k = jnp.asarray(np.repeat(np.arange(17), 16))[:, None]
    probability = np.repeat(law.p, 16) / 16

    dequantize = sd.TruncatedNormalDequantization(sde, 0.0, levels=17)
    z = dequantize(KEY, k)
    out = sd.log_likelihood(
        KEY,
        sde,
        law.mixture().score(sde),
        z,
        divergence=sd.ExactDivergence(),
        t_min=0.0,
        rtol=1e-6,
        atol=1e-6,
    )
    gap = np.asarray(dequantize.log_prob(z, k) - out.log_prob)
    exact = np.sum(probability * gap)  # E log q(z | k) / p(z): its draws vary little
    bound = sd.elbo(KEY, law, np.asarray(k), 17, num_draws=400)
    value = np.sum(probability * np.asarray(bound.nll))
    error = np.sqrt(np.sum((probability * np.asarray(bound.stderr)) ** 2))

    # The gap of the exact value is KL(q(z | k) || p(z | k)): of noise that overlaps a little.
    assert law.entropy < exact < law.entropy + 0.05
    assert law.entropy - 4.0 * error < value < law.entropy + 0.05 + 4.0 * error
    assert error < 0.04


@pytest.mark.parametrize("name", PROCESSES)
def test_under_every_sde_it_is_the_entropy(name):
    """With the exact denoiser it is above it by at most the prior's term. 5 standard errors."""
    sde = PROCESSES[name]
    law = Categorical(hump(), sde)
    k = law.sample(0, 500)
    out = sd.elbo(KEY, law.mixture().score(sde), k, 17, num_draws=40)
    surprise = -np.log(law.p[k[:, 0]])
    error = np.std(np.asarray(out.nll) - surprise) / np.sqrt(500)
    excess = np.mean(np.asarray(out.nll) - surprise)
    assert -5.0 * error < excess < 5.0 * error + np.mean(out.prior)
    assert error < 0.2
    assert np.mean(out.stderr) > error  # it takes evenly spread times for independent ones


def test_steps_begin_where_the_bound_does():
    """Under VP the first level is at t_min, so that T = 1 has one step from there to 1: its mean
    is the prior's kernel seen from there. Larger T lie below, and all above the entropy."""
    sde = sd.VP()
    law = Categorical(hump(5), sde)
    k = law.sample(0, 400)
    score = law.mixture().score(sde)
    found = [
        float(np.mean(sd.elbo(KEY, score, k, 5, steps, 40, t_min=0.05).diffusion))
        for steps in (1, 8, 64, None)
    ]
    assert found[0] > found[1] > found[2] > 0.9 * found[3]

    # T = 1: the weight is expm1(gamma(1) - gamma(t_min)) / 2, and the error that of x_1.
    gamma = -np.asarray(sde.log_snr(jnp.asarray([0.05, 1.0])))
    x = jnp.asarray(law.centres, jnp.float32)[:, None]
    alpha, sigma = float(sde.alpha(1.0)), float(sde.sigma(1.0))
    z = np.linspace(-6.0, 6.0, 2001)
    weights = np.exp(-0.5 * ((z - alpha * np.asarray(x)) / sigma) ** 2)
    weights *= law.p[:, None] / weights.sum(axis=1, keepdims=True)
    guess, _ = law.data_and_noise(jnp.asarray(z, jnp.float32)[:, None], jnp.ones(2001))
    error = np.sum(weights * (alpha / sigma * (np.asarray(x) - np.asarray(guess)[:, 0])) ** 2)
    wanted = 0.5 * np.expm1(gamma[1] - gamma[0]) * error
    np.testing.assert_allclose(found[0], wanted, rtol=0.1)  # of 400 draws of k


# --- The interface ---


def model_of(sde=None, **options):
    net = sd.MLPConfig(width=16, depth=1).build((3,), rngs=nnx.Rngs(0))
    return sd.ScoreModel(linear(-8.0, 5.0) if sde is None else sde, net, sd.EDM(0.5), **options)


K = np.random.default_rng(0).integers(0, 17, (7, 3))


@pytest.mark.parametrize("num_steps", [None, 20])
def test_each_example_has_draws_of_its_own(num_steps):
    """In chunks, in another order, alone: the same to rounding."""
    model = model_of()
    keys = jax.vmap(lambda i: jax.random.fold_in(KEY, i))(jnp.arange(7))
    whole = sd.elbo(KEY, model, K, 17, num_steps, 4)
    chunks = sd.elbo(KEY, model, K, 17, num_steps, 4, batch_size=3)
    turned = sd.elbo(keys[::-1], model, K[::-1], 17, num_steps, 4)
    np.testing.assert_allclose(chunks.nll, whole.nll, rtol=1e-5)
    np.testing.assert_allclose(turned.nll[::-1], whole.nll, rtol=1e-5)
    np.testing.assert_allclose(whole.nll, whole.prior + whole.diffusion + whole.reconstruction)
    np.testing.assert_allclose(whole.bits_per_dim(3), whole.nll / (3 * np.log(2.0)), rtol=1e-6)
    assert sd.elbo(KEY, model, K, 17, num_steps).stderr is None


def test_units_change_nothing():
    """A model of standardised data has bins of its own units."""
    standardization = sd.Standardization([0.1, -0.2, 0.3], [0.5, 0.5, 0.5])
    ours = sd.elbo(KEY, model_of(standardization=standardization), K, 17, num_draws=3)
    shifted = dataclasses.replace(standardization, mean=0.0)
    plain = sd.elbo(KEY, model_of(), K, 17, num_draws=3, low=-2.0, high=2.0)
    theirs = sd.elbo(KEY, model_of(standardization=shifted), K, 17, num_draws=3)
    np.testing.assert_allclose(theirs.nll, plain.nll, rtol=1e-5)
    np.testing.assert_allclose(ours.reconstruction, plain.reconstruction, rtol=1e-5)
    assert np.all(np.abs(ours.prior - plain.prior) > 1e-5)


def test_float64_and_conditions():
    single = sd.elbo(KEY, model_of(), K, 17, num_draws=3)
    double = sd.elbo(KEY, model_of(), K, 17, num_draws=3, float64=True)
    assert double.nll.dtype == np.float64
    assert double.nll.shape == single.nll.shape

    sde = linear(-8.0, 5.0)

    class Conditioned:
        def __init__(self):
            self.sde = sde

        def __call__(self, x, t, cond):
            return -x + cond[:, None]

    a = sd.elbo(KEY, Conditioned(), K, 17, cond=jnp.zeros(7))
    b = sd.elbo(KEY, Conditioned(), K, 17, cond=jnp.arange(7.0))
    assert a.nll[0] == b.nll[0]
    assert np.all(np.asarray(a.nll[1:]) != np.asarray(b.nll[1:]))


def test_lists_numbers_of_numpy_and_bytes_are_taken(unchecked):
    whole = sd.elbo(KEY, model_of(), K, 17, num_draws=2).nll
    for x in (K.tolist(), K.astype(np.uint8), K.astype(np.float32)):
        draws = sd.elbo(KEY, model_of(), x, 17, num_draws=np.int64(2), low=jnp.float32(-1.0))
        np.testing.assert_allclose(draws.nll, whole, rtol=1e-6)


def test_what_it_cannot_bound_is_refused(unchecked):
    with pytest.raises(ValueError, match=r"x holds 0.0 … 0.5.*sd.variational_bound"):
        sd.elbo(KEY, model_of(), np.full((2, 3), [0.0, 0.2, 0.5]), 17)
    with pytest.raises(ValueError, match=r"x holds .* wanted whole numbers 0 … 15"):
        sd.elbo(KEY, model_of(), np.full((2, 3), 16), 16)
    with pytest.raises(TypeError, match=r"without an SDE as .sde"):
        sd.elbo(KEY, lambda x, t: x, K, 17)
    with pytest.raises(ValueError, match="leave num_steps out"):
        sd.elbo(KEY, model_of(sd.RectifiedFlow()), K, 17, 10)
    with pytest.raises(ValueError, match="num_draws"):
        sd.elbo(KEY, model_of(), K, 17, num_draws=0)
    with pytest.raises(ValueError, match=r"write x\[None\]"):
        sd.elbo(KEY, model_of(), np.asarray(3), 17)
