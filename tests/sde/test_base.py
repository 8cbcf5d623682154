"""What every SDE must satisfy: its published closed forms, float64, composition and simulation."""

import jax
import jax.numpy as jnp
import numpy as np
import papers
import pytest
from jax.flatten_util import ravel_pytree
from scipy import stats

import scoresde as sd
from scoresde.keys import normal_like

TIMES = np.concatenate([np.geomspace(1e-5, 1e-2, 13), np.linspace(0.02, 1.0, 25)])


def published(sde, t):
    """(alpha, sigma, f, g²) as the paper prints them, in float64."""
    formula = {sd.VP: papers.vp, sd.SubVP: papers.sub_vp, sd.VE: papers.ve}[type(sde)]
    return formula(t, *jax.tree.leaves(sde))


def test_scales_drift_and_diffusion_are_the_published_ones_in_float32(sde):
    """Within 1e-5 relative of float64 for t from 1e-5 to 1.

    The naive 1 - exp(-B) would be off by 0.6 % and more.
    """
    t32 = jnp.asarray(TIMES, jnp.float32)
    alpha, sigma, f, g2 = published(sde, np.asarray(t32, np.float64))
    x = jnp.ones((len(t32), 3))
    mean, std = sde.marginal_prob(x, t32)
    np.testing.assert_allclose(std, sigma, rtol=1e-5)
    np.testing.assert_allclose(sde.sigma(t32), sigma, rtol=1e-5)
    np.testing.assert_allclose(mean, np.tile(alpha[:, None], 3), rtol=1e-5)
    np.testing.assert_allclose(sde.drift(x, t32), np.tile(f[:, None], 3), rtol=1e-5)
    np.testing.assert_allclose(sde.diffusion(t32), np.sqrt(g2), rtol=1e-5)
    np.testing.assert_allclose(sde.log_snr(t32), 2 * np.log(alpha / sigma), rtol=1e-5, atol=1e-5)


def test_derived_coefficients_equal_the_closed_forms(sde):
    """The base class differentiates log_alpha and variance; the overrides are algebra."""
    for t in (jnp.asarray(TIMES, jnp.float32), jnp.zeros(())):
        np.testing.assert_allclose(sd.SDE.drift_rate(sde, t), sde.drift_rate(t), rtol=2e-5)
        np.testing.assert_allclose(
            sd.SDE.squared_diffusion(sde, t), sde.squared_diffusion(t), rtol=2e-5, atol=1e-12
        )


def test_short_transitions_keep_their_digits(any_sde):
    """float32 agrees with float64 at the same times, for gaps down to 1e-5.

    This holds for the transitions that the base class derives, too.
    """
    s = np.repeat(np.float32([0.0, 1e-5, 1e-3, 0.1, 0.5, 0.9, 0.99]), 4)
    t = np.float32(s + np.tile(np.float32([1e-5, 1e-4, 1e-3, 1e-2]), 7))
    with jax.enable_x64(True):
        s64 = jnp.asarray(s, jnp.float64)
        t64 = jnp.asarray(t, jnp.float64)
        coefficient = any_sde.alpha(t64) / any_sde.alpha(s64)
        std = jnp.sqrt(
            any_sde.variance(t64) - coefficient**2 * any_sde.variance(s64)
        )  # float64 affords the difference
        coefficient, std = np.asarray(coefficient), np.asarray(std)
    for transition in (any_sde.transition, lambda s, t: sd.SDE.transition(any_sde, s, t)):
        ours = transition(jnp.asarray(s), jnp.asarray(t))
        np.testing.assert_allclose(ours[0], coefficient, rtol=1e-5)
        np.testing.assert_allclose(ours[1], std, rtol=1e-5)


def test_transitions_compose(any_sde, x64):
    """(r → s) then (s → t) is (r → t): coefficients multiply, variances add after scaling."""
    r = jnp.asarray([0.0, 0.1, 0.3])
    s = jnp.asarray([0.2, 0.1, 0.6])
    t = jnp.asarray([0.3, 0.9, 1.0])
    (c1, d1), (c2, d2), (c, d) = (
        any_sde.transition(r, s),
        any_sde.transition(s, t),
        any_sde.transition(r, t),
    )
    np.testing.assert_allclose(c1 * c2, c, rtol=1e-12)
    np.testing.assert_allclose(c2**2 * d1**2 + d2**2, d**2, rtol=1e-11)


def test_marginal_is_the_transition_after_what_stands_at_zero(any_sde, x64):
    """sigma_t^2 = std(0 → t)^2 + c^2 sigma_0^2, sigma_0 = 0 except for VE."""
    t = jnp.asarray(TIMES)
    c, std = any_sde.transition(jnp.zeros_like(t), t)
    np.testing.assert_allclose(
        std**2 + c**2 * any_sde.variance(0.0), any_sde.variance(t), rtol=1e-9
    )


def test_simulated_transitions_match(any_sde):
    """Drift and diffusion, simulated in 400 steps from x_s, have the transition's mean and
    variance.
    """
    s = 0.3
    t = 0.5
    n = 20_000
    steps = 400
    keys = jax.random.split(jax.random.key(0), n)
    dt = (t - s) / steps

    def step(i, x):
        time = jnp.full(
            n, s + (i + 0.5) * dt
        )  # coefficients at the middle: weak order 2 for a linear SDE's moments
        noise = normal_like(jax.vmap(lambda k: jax.random.fold_in(k, i))(keys), x)
        return (
            x
            + any_sde.drift(x, time) * dt
            + any_sde.diffusion(time)[:, None] * jnp.sqrt(dt) * noise
        )

    x = jax.jit(lambda x: jax.lax.fori_loop(0, steps, step, x))(jnp.full((n, 1), 1.3))
    c, std = any_sde.transition(s, t)
    error = float(std) / np.sqrt(n)
    assert abs(float(x.mean()) - 1.3 * float(c)) < 5 * error
    assert abs(float(x.std()) / float(std) - 1.0) < 5 / np.sqrt(2 * n)


def test_log_snr_inverts(any_sde, x64):
    t = jnp.asarray(TIMES)
    np.testing.assert_allclose(any_sde.time_from_log_snr(any_sde.log_snr(t)), t, rtol=1e-9)
    np.testing.assert_allclose(sd.SDE.time_from_log_snr(any_sde, any_sde.log_snr(t)), t, rtol=1e-9)


@pytest.mark.parametrize(
    ("sde", "mass"),
    [(sd.VP(), 23.8645), (sd.SubVP(), 37.6789), (sd.VE(), 17.0342)],
    ids=["vp", "subvp", "ve"],
)
def test_the_range_of_log_snr_is_what_was_computed_elsewhere(sde, mass):
    """The total mass of the likelihood weighting on [1e-5, 1] at the default settings."""
    assert float(sde.log_snr(1e-5) - sde.log_snr(1.0)) == pytest.approx(mass, abs=2e-4)


def test_everything_is_float64_under_x64(any_sde, x64):
    t = jnp.asarray([0.2, 0.7])
    x = jnp.ones((2, 3))
    values = (
        any_sde.alpha(t),
        any_sde.sigma(t),
        any_sde.log_snr(t),
        any_sde.drift(x, t),
        any_sde.diffusion(t),
        *any_sde.marginal_prob(x, t),
        *any_sde.transition(t, t),
        any_sde.prior_log_prob(x),
        any_sde.prior_sample(jax.random.key(0), (2, 3)),
    )
    assert {value.dtype for value in values} == {np.dtype("float64")}


def test_prior(any_sde):
    std = float(any_sde.prior_std())
    assert std == pytest.approx(float(any_sde.sigma(1.0)), rel=0.02)
    x = any_sde.prior_sample(jax.random.key(1), (5000, 4))
    assert abs(float(x.std()) / std - 1.0) < 5 / np.sqrt(2 * x.size)
    expected = stats.norm(0.0, std).logpdf(np.asarray(x, np.float64)).sum(axis=1)
    np.testing.assert_allclose(any_sde.prior_log_prob(x), expected, rtol=1e-5)
    few = any_sde.prior_sample(jax.random.key(1), (7, 4))
    np.testing.assert_array_equal(few, x[:7])  # example i depends on (key, i) alone


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: sd.VP().drift(jnp.ones((4, 2)), jnp.ones(3)), "one time, or one per example"),
        (
            lambda: sd.VP().marginal_prob(jnp.ones((4, 2)), jnp.full(4, 1.5)),
            r"times lie in \[0, 1\]",
        ),
        (lambda: sd.VP().marginal_prob(jnp.ones((4, 2)), jnp.full(4, 999)), "index i of a table"),
        (lambda: sd.VP().marginal_prob(jnp.ones((4, 2)), float("nan")), r"times lie in \[0, 1\]"),
        (lambda: sd.VE().sigma(-0.5), r"times lie in \[0, 1\]"),
        (lambda: sd.SubVP().log_snr(2.0), r"times lie in \[0, 1\]"),
        (lambda: sd.VP().marginal_prob(jnp.asarray(1.0), 0.5), "wanted .batch"),
        (lambda: sd.VP().transition(0.7, 0.3), "runs forward"),
    ],
)
def test_bad_input_is_refused_with_the_reason(build, message, unchecked):
    with pytest.raises(ValueError, match=message):
        build()


def test_wrong_types_are_refused(unchecked):
    with pytest.raises(TypeError, match="wanted floating-point"):
        sd.VP().drift(jnp.ones((2, 2), jnp.int32), 0.5)


def test_reverse_drift_is_the_flow_and_half_the_score(sde, mixture):
    """Flow minus reverse drift is g^2 score / 2, at one time and at one per example."""
    x = mixture.sample(jax.random.key(0), 6)
    t = jnp.linspace(0.1, 0.9, 6)
    score = mixture.score(sde)
    reverse = sde.reverse(score)
    flow = sde.probability_flow(score)
    half = 0.5 * sde.diffusion(t)[:, None] ** 2 * score(x, t)
    np.testing.assert_allclose(flow(x, t) - reverse.drift(x, t), half, rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(reverse.diffusion(t), sde.diffusion(t))
    np.testing.assert_allclose(flow(x, 0.3), flow(x, jnp.full(6, 0.3)), rtol=1e-6)


def test_probability_flow_carries_the_density(long_sde, x64):
    """Continuity: d log p_t/dt + div F + F . grad log p_t = 0 for the exact mixture."""
    from scoresde.sde.mixture import ring

    mixture = ring()
    score = mixture.score(long_sde)
    flow = long_sde.probability_flow(score)

    def residual(x, t):
        rate = jax.grad(lambda t: mixture.log_prob(long_sde, x[None], t[None])[0])(t)
        jacobian = jax.jacfwd(lambda x: flow(x[None], t[None])[0])(x)
        return rate + jnp.trace(jacobian) + flow(x[None], t[None])[0] @ score(x[None], t[None])[0]

    x = 1.5 * jax.random.normal(jax.random.key(0), (20, 2))
    t = jnp.linspace(0.05, 0.6, 20)
    np.testing.assert_allclose(jax.vmap(residual)(x, t), 0.0, atol=1e-8)


def test_time_from_log_snr_is_differentiable_in_everything(any_sde, x64):
    """Gradients in log SNR and in every setting are the finite differences."""
    settings, rebuilt = ravel_pytree(jax.tree.map(lambda a: jnp.asarray(a, float), any_sde))
    point = jnp.append(settings, any_sde.log_snr(0.4))
    for inverse in (type(any_sde).time_from_log_snr, sd.SDE.time_from_log_snr):

        def time(point, inverse=inverse):
            return inverse(rebuilt(point[:-1]), point[-1])

        step = 1e-5 * jnp.eye(len(point))
        finite_differences = jnp.stack([time(point + e) - time(point - e) for e in step]) / 2e-5
        np.testing.assert_allclose(jax.grad(time)(point), finite_differences, rtol=1e-4, atol=1e-8)


def test_a_large_batch_has_the_fields_of_its_parts(any_sde, mixture):
    """Compiled for 8192 examples as for 512.

    XLA once fused sub-VP's g^2 and the score into wrong products.
    """
    x = jax.random.normal(jax.random.key(0), (8192, 2))
    t = jax.random.uniform(jax.random.key(1), (8192,), minval=0.01)
    flow = jax.jit(lambda x, t: any_sde.probability_flow(mixture.score(any_sde))(x, t))
    parts = [flow(x[i : i + 512], t[i : i + 512]) for i in range(0, 8192, 512)]
    np.testing.assert_allclose(flow(x, t), np.concatenate(parts), rtol=1e-3, atol=1e-3)
