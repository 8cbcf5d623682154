"""Adaptive steps: their law on Gaussian data, their evaluations, and one Brownian path."""

import math

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from counting import counting
from gaussian import gaussian_score

import scoresde as sd
from scoresde.keys import example_keys

KEY = jax.random.key(0)
N = 5000
M = 0.7
V = 0.25
T_MIN = 1e-2


def exact_variance(sde, t):
    return float(sde.alpha(t) ** 2 * V + sde.variance(t))


@pytest.mark.parametrize(
    "any_sde", [sd.SubVP(), pytest.param(sd.VE(), marks=pytest.mark.slow)], ids=["subvp", "ve"]
)
def test_mean_and_variance_are_those_of_the_sde(any_sde):
    """Within 5 standard errors at a small tolerance, in one dimension, where any rejection would
    show.
    """
    sampler = sd.AdaptiveSDE(0.01, 0.01, t_min=T_MIN, first_step=1.0, denoise=False)
    start = jnp.sqrt(exact_variance(any_sde, 1.0)) * jax.random.normal(jax.random.key(1), (N, 1))
    start = start + any_sde.alpha(1.0) * M
    out = sd.sample(KEY, sampler, any_sde, gaussian_score(any_sde, M, V), (N, 1), x1=start)
    want = exact_variance(any_sde, T_MIN)
    assert bool(out.success.all())
    assert abs(float(out.x.mean()) - float(any_sde.alpha(T_MIN)) * M) < 5 * math.sqrt(want / N)
    assert abs(float(out.x.var()) / want - 1.0) < 5 * math.sqrt(2.0 / N)


def test_rejected_steps_keep_their_increments():
    """Without drift, x(t_min) - x1 is the Brownian path itself, normal however often steps are
    rejected.

    A g that jumps makes the error depend on the noise. A rule that draws again after a rejection
    keeps the quiet paths: its variance is too small by far more than 5 standard errors.
    """

    @sd.types.pytree_dataclass()
    class Stairs(sd.SDE):
        """g^2 = 1 + 0.9 sin(40 t): x = noise alone."""

        def log_alpha(self, t):
            return jnp.zeros_like(jnp.asarray(t, float))

        def variance(self, t):
            t = jnp.asarray(t, float)
            return t + 0.9 * (1.0 - jnp.cos(40.0 * t)) / 40.0

    sde = Stairs()
    sampler = sd.AdaptiveSDE(1e-9, 0.02, t_min=T_MIN, first_step=0.3, denoise=False)
    out = sd.sample(KEY, sampler, sde, lambda x, t: jnp.zeros_like(x), (N, 1), x1=jnp.zeros((N, 1)))
    want = float(sde.variance(1.0) - sde.variance(T_MIN))
    attempts = np.asarray(out.nfe) / 2
    assert attempts.mean() > 20
    assert abs(float(out.x.var()) / want - 1.0) < 5 * math.sqrt(2.0 / N)
    assert abs(float(jnp.mean(out.x**4)) / (3 * want**2) - 1.0) < 5 * math.sqrt(96.0 / 9.0 / N)


# --- Algorithm 1, line by line ---

RTOL = 0.05
ATOL = 0.03
SAFETY = 0.8
POWER = 0.7
FIRST = 0.017


def replay(x, increment, **wrong):
    """Algorithm 1 under VP: accepted times and states, and the number of attempts.

    wrong: lines of the algorithm to read otherwise.
    """

    def scales(t):
        log_alpha = -0.05 * t - 19.9 * t**2 / 4
        return 0.1 + 19.9 * t, math.exp(log_alpha), -math.expm1(2 * log_alpha)

    def drift(x, t):
        beta, alpha, variance = scales(t)
        return -0.5 * beta * x + beta * (x - alpha * M) / (alpha**2 * V + variance)

    span = 1.0 - T_MIN
    safety = wrong.get("safety", SAFETY)
    power = wrong.get("power", POWER)
    t = 1.0
    before = x
    h = wrong.get("first", FIRST)
    ahead = [1]
    attempts = 0
    times = [t]
    states = [x]
    while ahead:
        while span / 2 ** (ahead[-1].bit_length() - 1) > h:
            node = ahead.pop()
            ahead += [2 * node + 1, 2 * node]
        node = ahead[-1]
        size = 2 ** (node.bit_length() - 1)
        length = span / size
        end = 1.0 - span * (node + 1 - size) / size
        dw, attempts = increment(node), attempts + 1
        euler = x - length * drift(x, t) + math.sqrt(scales(t)[0]) * dw
        second = t if wrong.get("second") else end
        other = x - length * drift(euler, second) + math.sqrt(scales(second)[0]) * dw
        new = 0.5 * (euler + other)
        larger = np.abs(x) if wrong.get("scale") else np.maximum(np.abs(euler), np.abs(before))
        ratio = (euler - new) / np.maximum(ATOL, RTOL * larger)
        error = math.sqrt(np.sum(ratio**2) / (1.0 if wrong.get("sum") else len(x)))
        h = safety * length * max(error, 1e-4) ** -power
        if error <= 1.0:
            t = end
            x = new
            before = euler
            ahead.pop()
            times.append(t)
            states.append(x)
        else:
            h = min(h, 0.5 * length)
    return np.array(times), np.array(states), attempts


def test_it_is_algorithm_1_on_a_dyadic_brownian_path(x64):
    """Accepted times, states and attempts are those of the algorithm in NumPy on the same path, to
    1e-9.

    Each wrong reading of a line takes other steps here, so that this test fails for it.
    """
    sde = sd.VP()
    x1 = np.array([0.9, -1.4, 0.3])
    sampler = sd.AdaptiveSDE(
        RTOL,
        ATOL,
        T_MIN,
        first_step=FIRST,
        safety=SAFETY,
        power=POWER,
        denoise=False,
        save_path=True,
        path_points=2049,
    )
    out = sampler(KEY, sde, gaussian_score(sde, M, V), jnp.asarray(x1[None]))
    key = example_keys(KEY, 1)[0]
    drawn = {}

    def normal(node):
        if node not in drawn:
            drawn[node] = np.asarray(jax.random.normal(jax.random.fold_in(key, node), (3,)))
        return drawn[node]

    def increment(node):
        """The path's increment over a node's interval; node 1 is the whole.

        Halves 2n and 2n + 1 are half of node n's, plus and minus a Brownian bridge's normal.
        """
        if node == 1:
            return math.sqrt(1.0 - T_MIN) * normal(0)
        above = node // 2
        length = (1.0 - T_MIN) / 2 ** (above.bit_length() - 1)
        left = 0.5 * increment(above) + 0.5 * math.sqrt(length) * normal(above)
        return increment(above) - left if node % 2 else left

    times, states, attempts = replay(x1, increment)
    first = np.unique(-np.asarray(out.path.t[0]), return_index=True)[
        1
    ]  # a step past several stops is kept at each
    np.testing.assert_allclose(out.path.t[0][first], times, rtol=0.0, atol=1e-12)
    np.testing.assert_allclose(out.path.x[0][first], states, rtol=0.0, atol=1e-9)
    assert int(out.nfe[0]) == 2 * attempts + 2049
    assert attempts > len(times) > 30
    for wrong in (
        {"scale": True},
        {"sum": True},
        {"safety": 1.0},
        {"power": 0.5},
        {"first": 0.3 * FIRST},
        {"second": True},
    ):
        other, _, tried = replay(x1, increment, **wrong)
        assert tried != attempts or not np.array_equal(other, times), wrong


@pytest.mark.parametrize(
    "settings",
    [
        sd.AdaptiveSDE(0.1, 0.1, denoise=False),
        sd.AdaptiveSDE(0.1, 0.1, save_path=True, path_points=4),
        sd.AdaptiveSDE(0.1, 0.1, solver=diffrax.ShARK()),
    ],
    ids=["pair", "path", "ShARK"],
)
def test_reported_evaluations_are_the_counted_ones(settings, mixture):
    sde = sd.VP()
    score, count = counting(mixture.score(sde))
    out = settings(KEY, sde, score, sde.prior_sample(KEY, (1, 2)))
    jax.effects_barrier()
    assert int(out.nfe[0]) == count[0] > 0
    assert bool(out.success[0])


def test_the_path_is_at_its_times_or_just_past_them(mixture):
    sde = sd.VP()
    score = mixture.score(sd.VP())
    sampler = sd.AdaptiveSDE(0.05, 0.05, save_path=True, path_points=5, denoise=False)
    out = sampler(KEY, sde, score, sde.prior_sample(KEY, (3, 2)))
    late = np.linspace(1.0, 1e-3, 5) - np.asarray(out.path.t)
    np.testing.assert_allclose(late[:, [0, -1]], 0.0, atol=1e-6)
    assert np.all((late > -1e-6) & (late < 0.1))
    np.testing.assert_array_equal(out.path.x[:, -1], out.x)
    np.testing.assert_array_equal(
        sampler.__class__(0.05, 0.05, denoise=False)(KEY, sde, score, out.path.x[:, 0]).x, out.x
    )
    want = sd.denoise(sde, score, out.path.x[:, 2], out.path.t[:, 2])
    np.testing.assert_allclose(out.path.denoised[:, 2], want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("solver", [None, diffrax.ShARK()], ids=["own", "ShARK"])
def test_there_is_one_brownian_path_whatever_the_tolerance(mixture, solver):
    """Strong convergence: one key at two tolerances ends nearly at the same points, another key
    elsewhere.
    """
    sde = sd.VP()
    score = mixture.score(sd.VP())

    def run(key, tolerance):
        sampler = sd.AdaptiveSDE(tolerance, tolerance, t_min=0.05, solver=solver, denoise=False)
        return jax.jit(lambda key: sampler(key, sde, score, jnp.ones((16, 2))).x)(key)

    coarse = run(KEY, 0.02)
    fine = run(KEY, 1e-3)
    other = run(jax.random.key(5), 0.02)
    assert float(jnp.median(jnp.abs(coarse - fine))) < 0.05
    assert float(jnp.median(jnp.abs(coarse - other))) > 0.2


def test_rounding_moves_a_sample_by_the_tolerance_only(mixture):
    """x1 moved by 1e-3: a decision that turns does not change the noise of all that follows."""
    sde = sd.VP()
    score = mixture.score(sd.VP())
    sampler = sd.AdaptiveSDE(0.02, 0.02)
    x1 = sde.prior_sample(KEY, (200, 2))
    run = jax.jit(lambda x: sampler(KEY, sde, score, x))
    a = run(x1)
    b = run(x1 + 1e-3)
    assert float(jnp.mean(jnp.abs(a.x - b.x).max(axis=1) < 0.05)) > 0.97
    assert bool(jnp.any(a.nfe != b.nfe))


def test_diffrax_draws_the_gaussian():
    """1000 samples of N(.7, .25), 5 standard errors: the diffusion's size and the drift's sign."""
    sde = sd.VP()
    n = 1000
    sampler = sd.AdaptiveSDE(0.05, 0.05, t_min=T_MIN, solver=diffrax.ShARK(), denoise=False)
    out = sd.sample(KEY, sampler, sde, gaussian_score(sde, M, V), (n, 1))
    want = exact_variance(sde, T_MIN)
    assert abs(float(out.x.mean()) - float(sde.alpha(T_MIN)) * M) < 5 * math.sqrt(want / n)
    assert abs(float(out.x.var()) / want - 1.0) < 5 * math.sqrt(2.0 / n)


@pytest.mark.usefixtures("unchecked")
def test_bad_settings_are_refused_with_the_reason():
    with pytest.raises(ValueError, match="rtol"):
        sd.AdaptiveSDE(rtol=0.0)
    with pytest.raises(ValueError, match="not below start"):
        sd.AdaptiveSDE(t_min=0.5, start=0.5)
    for name, values in {"power": (0.4, 1.1), "safety": (0.0, 1.5)}.items():
        for value in values:
            with pytest.raises(ValueError, match=name):
                sd.AdaptiveSDE(**{name: value})
    for solver in (diffrax.Euler(), diffrax.Dopri5(), diffrax.SlowRK()):
        with pytest.raises(TypeError, match="additive noise"):
            sd.AdaptiveSDE(solver=solver)
    with pytest.warns(UserWarning, match="did not reach"):
        out = sd.sample(KEY, sd.AdaptiveSDE(max_steps=5), sd.VP(), lambda x, t: -x, (4, 2))
    assert not out.success.any()


def test_what_was_not_reached_is_nan_in_the_path():
    sampler = sd.AdaptiveSDE(0.5, max_steps=5, save_path=True, path_points=4)
    out = sampler(KEY, sd.VP(), gaussian_score(sd.VP(), M, V), jnp.ones((2, 2)))
    assert not out.success.any()
    assert bool(jnp.isnan(out.path.x[:, -1]).all())
