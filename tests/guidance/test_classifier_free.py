"""Classifier-free guidance against closed forms: what it is, and what it samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from counting import counting
from flax import nnx
from guided_cases import MEANS, MIXTURE, NO_LABEL
from scipy.integrate import solve_ivp

import scoresde as sd
from scoresde.types import right_pad

KEY = jax.random.key(0)
LABELS = np.array([2, 0, 3, 1])
X = jnp.asarray(MEANS[LABELS] + 0.3, jnp.float32)
T = jnp.asarray([0.2, 0.4, 0.6, 0.9])

# A pair of Gaussians: p(x) = N(0, V), p(x | y) = N(M, U).
V, M = 1.0, 1.0


def pair_of_gaussians(sde, u):
    """score(x, t, cond): of p(x | y) where cond is 0, and of p(x) where it is 1."""

    def score(x, t, cond):
        mean = jnp.where(cond == 0, M, 0.0)
        variance = jnp.where(cond == 0, u, V)
        spread = sde.alpha(t) ** 2 * variance + sde.variance(t)
        return -(x - right_pad(sde.alpha(t) * mean, x)) / right_pad(spread, x)

    return score


def test_weight_one_is_the_conditional_to_the_bit():
    classes = sd.MixtureClassScore(sd.VP(), MIXTURE)
    guided = sd.ClassifierFreeGuidance(classes, 1.0)
    np.testing.assert_array_equal(guided(X, T, LABELS), classes(X, T, LABELS))
    nothing = sd.ClassifierFreeGuidance(classes, 0.0)
    np.testing.assert_array_equal(
        nothing(X, T, LABELS), classes(X, T, np.full_like(LABELS, NO_LABEL))
    )


@pytest.mark.parametrize("weight", [1.0, 3.0])
def test_noise_form_and_score_form_are_one(weight, any_sde):
    """The lecture's noise = w noise(x, y) + (1 - w) noise(x), with noise = -sigma s."""
    classes = sd.MixtureClassScore(any_sde, MIXTURE)
    guided = sd.ClassifierFreeGuidance(classes, weight)
    sigma = right_pad(any_sde.sigma(T), X)
    conditional = -sigma * classes(X, T, LABELS)
    unconditional = -sigma * classes(X, T, np.full_like(LABELS, NO_LABEL))
    noise = weight * conditional + (1.0 - weight) * unconditional
    np.testing.assert_allclose(-sigma * guided(X, T, LABELS), noise, rtol=2e-5, atol=2e-5)


def test_the_slope_on_two_gaussians_is_the_closed_form(any_sde):
    u, weight = 0.25, 3.0
    guided = sd.ClassifierFreeGuidance(pair_of_gaussians(any_sde, u), weight, null=1)
    given = jnp.zeros(4, jnp.int32)
    at_one = guided(jnp.ones((4, 1)), T, given)
    slope = at_one - guided(jnp.zeros((4, 1)), T, given)
    a2 = any_sde.alpha(T) ** 2
    s2 = any_sde.variance(T)
    exact = -((1 - weight) / (a2 * V + s2) + weight / (a2 * u + s2))
    np.testing.assert_allclose(slope[:, 0], exact, rtol=1e-4)


def exact_law(sde, u, weight, of_flow):
    """Mean and variance at t = 1e-3 of what starts as N(0, 1) at t = 1, by its moment equations."""

    def coefficients(t):
        a, s2 = float(sde.alpha(t)), float(sde.variance(t))
        slope = -((1 - weight) / (a * a * V + s2) + weight / (a * a * u + s2))
        return slope, weight * a * M / (a * a * u + s2)

    def moments(t, state):
        mean, variance = state
        slope, constant = coefficients(t)
        f = float(sde.drift_rate(t))
        g2 = float(sde.squared_diffusion(t))
        part = 0.5 * g2 if of_flow else g2
        rate = f - part * slope
        noise = 0.0 if of_flow else -g2  # time runs backward, in which noise adds variance
        return [rate * mean - part * constant, 2 * rate * variance + noise]

    with jax.enable_x64(True):
        return solve_ivp(moments, (1.0, 1e-3), [0.0, 1.0], rtol=1e-6, atol=1e-9).y[:, -1]


@pytest.mark.parametrize("of_flow", [True, False], ids=["flow", "sde"])
@pytest.mark.parametrize("u", [0.25, 1.0])
def test_samples_have_the_exact_law_of_their_dynamics(u, of_flow):
    """Unequal variances: flow and SDE differ, and neither is the tilted density; equal ones: both
    are, where the tilted density is p(x)^{1-w} p(x|y)^w, normalised."""
    sde = sd.VP()
    weight, n = 3.0, 20_000
    guided = sd.ClassifierFreeGuidance(pair_of_gaussians(sde, u), weight, null=1)
    sampler = (
        sd.ProbabilityFlow(t_min=1e-3, denoise=False)
        if of_flow
        else sd.Exponential(num_steps=100, order=2, eta=1.0, t_min=1e-3, denoise=False)
    )
    x = sd.sample(KEY, sampler, sde, guided, (n, 1), np.zeros(n, np.int32)).x
    mean, variance = exact_law(sde, u, weight, of_flow)
    assert abs(np.mean(x) - mean) < 5 * np.sqrt(variance / n) + 2e-3
    assert abs(np.var(x) / variance - 1) < 5 * np.sqrt(2 / n) + 1e-2

    precision = (1 - weight) / V + weight / u
    tilted = weight * M / u / precision, 1 / precision
    is_tilted = np.allclose((mean, variance), tilted, rtol=0.03)
    assert is_tilted == (u == V)


def test_the_weight_may_follow_log_snr_and_hold_within_an_interval():
    sde = sd.VP()
    classes = sd.MixtureClassScore(sde, MIXTURE)
    level = np.asarray(sde.sigma(T) / sde.alpha(T))
    low, high = level[0], level[2]
    inside = sd.ClassifierFreeGuidance(classes, 3.0, interval=(low, high))(X, T, LABELS)
    everywhere = sd.ClassifierFreeGuidance(classes, 3.0)(X, T, LABELS)
    plain = classes(X, T, LABELS)
    np.testing.assert_array_equal(inside[1:3], everywhere[1:3])  # low < level <= high
    np.testing.assert_array_equal(inside[0], plain[0])
    np.testing.assert_array_equal(inside[3], plain[3])

    rising = sd.ClassifierFreeGuidance(classes, lambda log_snr: 1.0 + jax.nn.sigmoid(log_snr))
    weights = np.asarray(1.0 + jax.nn.sigmoid(sde.log_snr(T)))
    each = sd.ClassifierFreeGuidance(classes, weights)
    np.testing.assert_allclose(rising(X, T, LABELS), each(X, T, LABELS), rtol=1e-5)


def test_a_sweep_of_weights_compiles_once_and_evaluates_the_model_once_a_step():
    sde = sd.VP()
    traces = []
    classes = sd.MixtureClassScore(sde, MIXTURE)

    def traced(x, t, cond):
        traces.append(x.shape)
        return classes(x, t, cond)

    counted, count = counting(traced)
    n = 4
    for weight in (1.0, 2.0, 5.0):
        guided = sd.ClassifierFreeGuidance(counted, weight, null=NO_LABEL, process=sde)
        out = sd.sample(KEY, sd.DDIM(num_steps=5), sde, guided, (n, 2), LABELS)
        compiled = len(traces)
        if weight == 1.0:
            first = compiled
            jax.block_until_ready(out.x)
            assert count[0] % int(out.nfe) == 0  # once a step on every device
    assert compiled == first
    assert {shape[0] for shape in traces} <= {2 * n, n}  # n: a shard of two devices


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda net: sd.ScoreModel(sd.VP(), net(None)), "unconditional, so it has nothing"),
        (
            lambda net: sd.ScoreModel(sd.VP(), net(3), null_is_trained=False),
            r"never trained without its condition: train it with sd.Training\(drop_cond=0.1\)",
        ),
        (lambda net: lambda x, t, cond: -x, "write null=..."),
        (lambda net: sd.conditioned(sd.ScoreModel(sd.VP(), net(3)), 1), "guide first"),
    ],
    ids=["unconditional", "untrained", "function", "conditioned"],
)
def test_models_that_cannot_be_guided_are_refused(build, message):
    def net(classes):
        config = sd.MLPConfig(width=8, depth=1, num_classes=classes)
        return config.build((2,), rngs=nnx.Rngs(0))

    with pytest.raises(ValueError, match=message):
        sd.ClassifierFreeGuidance(build(net), 2.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": np.nan}, "wanted a finite number"),
        ({"weight": np.ones((2, 2))}, "wanted a finite number"),
        ({"interval": (2.0, 1.0)}, "wanted 0 <= low < high"),
    ],
)
def test_settings_out_of_range_are_refused(change, message):
    classes = sd.MixtureClassScore(sd.VP(), MIXTURE)
    with pytest.raises(ValueError, match=message):
        sd.ClassifierFreeGuidance(classes, **change)
    with pytest.raises(ValueError, match="write process=sde"):
        sd.ClassifierFreeGuidance(lambda x, t, y: -x, 2.0, interval=(0.1, 1.0), null=4)


def test_calls_that_do_not_fit_are_refused():
    guided = sd.ClassifierFreeGuidance(sd.MixtureClassScore(sd.VP(), MIXTURE), np.full(3, 2.0))
    with pytest.raises(ValueError, match=r"pass cond=.*or sd.conditioned\(guided, label\)"):
        sd.sample(KEY, sd.DDIM(num_steps=5), sd.VP(), guided, (4, 2))
    with pytest.raises(ValueError, match=r"has 3 rows, and there are 4 examples"):
        sd.sample(KEY, sd.DDIM(num_steps=5), sd.VP(), guided, (4, 2), LABELS)


def test_autoguidance_is_the_same_with_two_networks():
    sde = sd.VP()
    classes = sd.MixtureClassScore(sde, MIXTURE)
    free = sd.ClassifierFreeGuidance(classes, 3.0)
    auto = sd.Autoguidance(classes, sd.conditioned(classes, NO_LABEL), 3.0)
    np.testing.assert_array_equal(auto(X, T, LABELS), free(X, T, LABELS))
    np.testing.assert_allclose(
        auto.denoise(X, T, LABELS), free.denoise(X, T, LABELS), rtol=1e-5, atol=1e-6
    )


def test_autoguidance_has_the_closed_form_slope(any_sde):
    """A good model N(0, u) and a worse, wider one N(0, v)."""
    u, v, weight = 0.25, 0.5, 2.0

    def gaussian(variance):
        def score(x, t):
            spread = any_sde.alpha(t) ** 2 * variance + any_sde.variance(t)
            return -x / right_pad(spread, x)

        return score

    guided = sd.Autoguidance(gaussian(u), gaussian(v), weight)
    a2 = any_sde.alpha(T) ** 2
    s2 = any_sde.variance(T)
    exact = -((1 - weight) / (a2 * v + s2) + weight / (a2 * u + s2))
    np.testing.assert_allclose(guided(jnp.ones((4, 1)), T)[:, 0], exact, rtol=1e-4)


def test_models_of_other_units_are_refused():
    def score(standardization):
        def function(x, t):
            return -x

        function.standardization = standardization
        return function

    with pytest.raises(ValueError, match="good and bad are of data in different units"):
        sd.Autoguidance(score(sd.Standardization(0.0, 2.0)), score(None))


def test_the_derivative_in_the_weight_is_the_difference_of_the_scores():
    """Also at weight 1, where guidance has no effect."""
    classes = sd.MixtureClassScore(sd.VP(), MIXTURE)
    exact = classes(X, T, LABELS) - classes(X, T, np.full_like(LABELS, NO_LABEL))

    def guided(weight):
        return sd.ClassifierFreeGuidance(classes, weight)(X, T, LABELS)

    _, slope = jax.jvp(guided, (jnp.asarray(1.0),), (jnp.asarray(1.0),))
    np.testing.assert_allclose(slope, exact, rtol=1e-5, atol=1e-5)


def test_a_condition_that_no_part_takes_is_refused():
    classes = sd.MixtureClassScore(sd.VP(), MIXTURE)
    auto = sd.Autoguidance(sd.conditioned(classes, LABELS), sd.conditioned(classes, NO_LABEL))
    with pytest.raises(ValueError, match="both models hold their conditions already"):
        sd.sample(KEY, sd.DDIM(num_steps=5), sd.VP(), auto, (4, 2), LABELS)
