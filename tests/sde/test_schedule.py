"""Schedules of -log SNR: they rise whatever their weights are, and LearntVP keeps their digits."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import scoresde as sd
from scoresde.sde.schedule import initial_weights

TIMES = np.concatenate([np.geomspace(1e-6, 1e-2, 9), np.linspace(0.02, 1.0, 25)])


def weights(seed, hidden=16, scale=1.0):
    rng = np.random.default_rng(seed)
    return {name: jnp.asarray(scale * rng.normal(size=hidden)) for name in "wbc"}


def monotone(low, high, seed, hidden=16, scale=1.0):
    return sd.MonotoneGamma(low, high, hidden=hidden, weights=weights(seed, hidden, scale))


def written_out(t, schedule):
    """l_1 + l_3 sigmoid(l_2 l_1) of Kingma et al. 2021, App. H, normalised to its ends. The weight
    of l_1 is arbitrary: those of the other layers make up for it."""
    w, b, c = (np.asarray(schedule.weights[name], np.float64) for name in "wbc")
    a = 0.37

    def network(t):
        first = a * t
        hidden = 1 / (1 + np.exp(-(b + abs(w) / a * first[..., None])))
        return first + hidden @ (a * abs(c) / len(c))

    low, high = network(np.zeros(())), network(np.ones(()))
    return schedule.low + (schedule.high - schedule.low) * (network(t) - low) / (high - low)


@pytest.mark.parametrize("seed", range(3))
def test_the_monotone_network_is_the_papers(seed, x64):
    schedule = monotone(-10.0, 4.0, seed)
    np.testing.assert_allclose(schedule(TIMES), written_out(TIMES, schedule), rtol=1e-9)
    np.testing.assert_allclose(schedule(jnp.asarray([0.0, 1.0])), [-10.0, 4.0], atol=1e-12)


@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0, 1e4])
@pytest.mark.parametrize("seed", range(5))
def test_gamma_rises_for_any_weights(seed, scale):
    """Also for large ones, in float32, where sigmoids saturate."""
    schedule = monotone(-13.3, 5.0, seed, scale=scale)
    gamma = np.asarray(schedule(jnp.linspace(0.0, 1.0, 201)))
    assert np.all(np.isfinite(gamma))
    assert np.all(np.diff(gamma) >= 0.0)
    np.testing.assert_allclose(gamma[[0, -1]], [-13.3, 5.0], rtol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 30.0, 1e3])
@pytest.mark.parametrize("kind", [sd.LinearGamma, sd.MonotoneGamma])
def test_gamma_rises_after_any_step_of_training(kind, scale):
    """Also after steps far too long: the ends never cross, and gamma never falls."""
    schedule = kind(-13.3, 5.0, learn_ends=True)
    rng = np.random.default_rng(0)

    for _ in range(5):
        moved = jax.tree.map(
            lambda a: a + jnp.asarray(scale * rng.normal(size=a.shape), a.dtype),
            schedule.parameters(),
        )
        after = schedule.with_parameters(moved)
        gamma = np.asarray(after(jnp.linspace(0.0, 1.0, 201)))
        assert np.all(np.isfinite(gamma))
        assert np.all(np.diff(gamma) >= 0.0)
        assert gamma[-1] > gamma[0]


@pytest.mark.parametrize(
    "schedule",
    [sd.LinearGamma(-9.0, 5.0), sd.MonotoneGamma(-9.0, 5.0), monotone(-3.0, -2.5, 0)],
    ids=["linear", "monotone", "short"],
)
def test_parameters_and_back_is_the_same_schedule(schedule, x64):
    t = jnp.linspace(0.0, 1.0, 7)
    learnt = dataclasses.replace(schedule, learn_ends=True)
    again = learnt.with_parameters(learnt.parameters())
    np.testing.assert_allclose(again(t), schedule(t), atol=1e-12)
    assert "ends" not in schedule.parameters()
    assert schedule.with_parameters(schedule.parameters()).low == schedule.low


@pytest.mark.parametrize(
    "schedule",
    [sd.LinearGamma(), sd.MonotoneGamma(), monotone(-13.3, 5.0, 0)],
    ids=["linear", "initial", "random"],
)
def test_float32_keeps_the_digits_of_float64(schedule):
    """1e-5 relative in sigma, g² and transitions, as for VP, from t = 1e-6 and gaps of 1e-6."""
    sde = sd.LearntVP(schedule)
    t32 = jnp.asarray(TIMES, jnp.float32)
    s = jnp.asarray([0.0, 1e-3, 0.2, 0.7, 0.9, 0.0], jnp.float32)
    e = s + jnp.asarray([1e-6, 1e-6, 1e-4, 1e-2, 0.1, 1.0], jnp.float32)

    def values(t, s, e):
        return [sde.sigma(t), sde.squared_diffusion(t), sde.alpha(t), *sde.transition(s, e)]

    single = values(t32, s, e)
    with jax.enable_x64(True):
        double = values(*(jnp.asarray(np.asarray(a), jnp.float64) for a in (t32, s, e)))
    for ours, exact in zip(single, double, strict=True):
        np.testing.assert_allclose(ours, exact, rtol=1e-5)


def test_any_rising_function_is_a_schedule(mixture, unchecked):
    """-log SNR of VP as a function makes VP: coefficients, transitions and a likelihood."""
    vp = sd.VP()
    sde = sd.LearntVP(lambda t: -vp.log_snr(t))
    t = jnp.linspace(0.01, 1.0, 20)
    np.testing.assert_allclose(sde.alpha(t), vp.alpha(t), rtol=2e-5)
    np.testing.assert_allclose(sde.squared_diffusion(t), vp.squared_diffusion(t), rtol=2e-5)
    for ours, theirs in zip(sde.transition(0.3, t[7:]), vp.transition(0.3, t[7:]), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-5)
    x = mixture.sample(jax.random.key(0), 5)
    log_prob = [
        sd.log_likelihood(
            jax.random.key(1),
            process,
            mixture.score(process),
            x,
            divergence=sd.ExactDivergence(),
            t_min=1e-3,
        ).log_prob
        for process in (sde, vp)
    ]
    np.testing.assert_allclose(log_prob[0], log_prob[1], atol=1e-3)


def test_ends_that_cross_and_weights_that_do_not_fit_are_refused(unchecked):
    for schedule in (sd.LinearGamma, sd.MonotoneGamma):
        with pytest.raises(ValueError, match=r"Write low=-13.3, high=5.0"):
            schedule(5.0, -13.3)
        with pytest.raises(ValueError, match=r"less than 0.1 apart"):
            schedule(-1.0, -0.95)
    with pytest.raises(ValueError, match=r"initial_weights\(4\)"):
        sd.MonotoneGamma(hidden=4, weights={"a": 1.0, "w": np.ones(3)})
    with pytest.raises(TypeError, match="a rising function of t"):
        sd.LearntVP(sd.LinearGamma)
    with pytest.raises(ValueError, match="gamma falls from 5 at t = 0 to -5"):
        sd.LearntVP(lambda t: 5.0 - 10.0 * t)
    with pytest.raises(TypeError, match="positional"):
        sd.MonotoneGamma(-13.3, 5.0, initial_weights(4))

    class Odd:
        parameters = ()

        def __call__(self, t):
            return 10.0 * t - 5.0

    with pytest.raises(TypeError, match="not as training takes them"):
        sd.LearntVP(Odd())
    given = sd.MonotoneGamma(hidden=4, weights=initial_weights(4))
    assert given(0.3) == sd.MonotoneGamma(hidden=4)(0.3)


def test_gradients_reach_the_schedule(x64):
    """d x / d(low, weights) of a sampler against finite differences."""
    schedule = monotone(-6.0, 4.0, 1, hidden=4)
    exact = sd.GaussianMixture([[0.5, -0.5]], [0.1])

    def spread(schedule):
        sde = sd.LearntVP(schedule)
        sampler = sd.DDIM(num_steps=4, grid=sd.grids.Uniform())
        x = sampler(jax.random.key(0), sde, exact.score(sde), jnp.ones((1, 2))).x
        return jnp.sum(x**2)

    slope = jax.grad(spread)(schedule)
    for path in ("low", "w"):
        step = 1e-5

        def moved(sign, path=path, step=step):
            if path == "low":
                return spread(dataclasses.replace(schedule, low=-6.0 + sign * step))
            w = schedule.weights["w"].at[2].add(sign * step)
            return spread(dataclasses.replace(schedule, weights=schedule.weights | {"w": w}))

        difference = (moved(1) - moved(-1)) / (2 * step)
        ours = slope.low if path == "low" else slope.weights["w"][2]
        np.testing.assert_allclose(ours, difference, rtol=1e-4, atol=1e-9)
