"""Samplers against exact draws, closed-form recursions, a counting callback, and themselves in other chunks."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from counting import counting
from families import SAMPLERS, each_under_one
from flax import nnx
from gaussian import gaussian_score

import scoresde as sd
from scoresde.evaluation.distances import sliced_wasserstein
from scoresde.sde.mixture import ring
from scoresde.types import right_pad

DRAWS = 3000
IDENTITY, KEY = (lambda x, t: x), jax.random.key(0)


@pytest.fixture(scope="module")
def exact_distances():
    """Sliced Wasserstein distances between repeated pairs of exact draws: the floor a perfect sampler has."""
    mixture = ring()
    draws = [mixture.sample(jax.random.key(100 + i), DRAWS) for i in range(12)]
    return draws[0], np.array(
        [sliced_wasserstein(a, b) for a, b in zip(draws[::2], draws[1::2], strict=True)]
    )


@pytest.mark.parametrize(("name", "any_sde"), each_under_one(SAMPLERS))
def test_samples_are_the_mixtures(name, any_sde, mixture, exact_distances):
    """Within the mean + 5 standard deviations of the floor; shares of components within 5 standard errors."""
    sampler, (draw, floor) = SAMPLERS[name], exact_distances
    score, start = mixture.score(any_sde), any_sde.prior_sample(jax.random.key(1), draw.shape)
    out = jax.jit(lambda x: sampler(KEY, any_sde, score, x))(start)
    assert bool(out.success.all())
    assert sliced_wasserstein(out.x, draw) < floor.mean() + 5 * floor.std(ddof=1)
    nearest = jnp.argmin(
        jnp.sum((out.x[:, None] - mixture.means) ** 2 / mixture.covs[:, None], axis=-1), axis=1
    )
    reference = jnp.argmin(
        jnp.sum((draw[:, None] - mixture.means) ** 2 / mixture.covs[:, None], axis=-1), axis=1
    )
    shares, expected = (
        np.bincount(np.asarray(a), minlength=5) / DRAWS for a in (nearest, reference)
    )
    assert np.all(np.abs(shares - expected) < 5 * np.sqrt(2 * expected * (1 - expected) / DRAWS))


def test_probability_flow_is_the_exact_map_on_gaussian_data(long_sde, x64):
    """x(t_min) = alpha m + (x_1 - alpha_1 m) sqrt(total(t_min) / total(1)): the flow of a Gaussian is linear."""
    m, v, t_min = 0.7, 0.25, 1e-3
    x1 = long_sde.prior_sample(jax.random.key(0), (16, 3))
    alpha, sigma2 = (
        long_sde.alpha(jnp.asarray([t_min, 1.0])),
        long_sde.variance(jnp.asarray([t_min, 1.0])),
    )
    total = alpha**2 * v + sigma2
    want = alpha[0] * m + (x1 - alpha[1] * m) * jnp.sqrt(total[0] / total[1])
    variable = (
        sd.variables.InTime() if isinstance(long_sde, (sd.VP, sd.VE)) else sd.variables.InLogSNR()
    )
    sampler = sd.ProbabilityFlow(
        rtol=1e-10, atol=1e-10, t_min=t_min, denoise=False, variable=variable
    )
    out = sampler(jax.random.key(0), long_sde, gaussian_score(long_sde, m, v), x1)
    np.testing.assert_allclose(out.x, want, atol=1e-8)


def test_weak_order_of_euler_maruyama_is_one():
    """Its variance on Gaussian data approaches the exact one at first order: halving the step halves the error."""
    sde, v, t_min = sd.VP(), 0.25, 1e-2
    errors = []
    for steps in (400, 800, 1600):
        t = np.linspace(1.0, t_min, steps + 1)
        with jax.enable_x64(True):
            f, g2 = np.asarray(sde.drift_rate(t)), np.asarray(sde.squared_diffusion(t))
            total = np.asarray(sde.alpha(t) ** 2 * v + sde.variance(t))
        variance = total[0]
        for i in range(steps):
            variance = (1 + (f[i] + g2[i] / total[i]) * (t[i + 1] - t[i])) ** 2 * variance - g2[
                i
            ] * (t[i + 1] - t[i])
        errors.append(abs(variance - total[-1]))
    np.testing.assert_allclose(np.log2(np.array(errors[:-1]) / errors[1:]), 1.0, atol=0.1)


# --- Evaluations, compilations, chunks ---


SETTINGS = [
    sd.EulerMaruyama(num_steps=7),
    sd.EulerMaruyama(num_steps=7, denoise=False),
    sd.ProbabilityFlow(),
    sd.ProbabilityFlow(denoise=False, variable=sd.variables.InLogSNR(), rtol=1e-7, atol=1e-7),
]


@pytest.mark.parametrize("settings", SETTINGS, ids=repr)
def test_reported_evaluations_are_the_counted_ones(settings, mixture):
    """One example, so that a vmapped loop runs exactly its steps: stages accepted and rejected, first and last."""
    sde = sd.VP()
    score, count = counting(mixture.score(sde))
    out = settings(jax.random.key(0), sde, score, sde.prior_sample(jax.random.key(1), (1, 2)))
    jax.effects_barrier()
    assert int(np.max(out.nfe)) == count[0] > 0


def test_diffrax_solvers_are_counted(mixture):
    """Explicit ones; an implicit solver's evaluations are -1: nobody counts them."""
    import diffrax

    sde = sd.VP()
    for solver in (diffrax.Tsit5(), diffrax.Dopri8(), diffrax.Heun(), diffrax.Bosh3()):
        score, count = counting(mixture.score(sde))
        sampler = sd.ProbabilityFlow(solver=solver, rtol=1e-3, atol=1e-3)
        out = sampler(jax.random.key(0), sde, score, jnp.ones((1, 2)))
        jax.effects_barrier()
        assert int(out.nfe[0]) == count[0], solver
    assert (
        int(
            sd.ProbabilityFlow(diffrax.Kvaerno3())(
                KEY, sde, mixture.score(sde), jnp.ones((1, 2))
            ).nfe[0]
        )
        == -1
    )
    with pytest.raises(TypeError, match="wanted one of diffrax's"):
        sd.ProbabilityFlow(solver="dopri5")


def test_the_same_call_twice_compiles_once(looped_sampler, mixture):
    """The score's Python body runs only while tracing."""
    sampler, sde, traces = looped_sampler, sd.VP(), [0]
    exact = mixture.score(sde)

    def score(x, t):
        traces[0] += 1
        return exact(x, t)

    short = dataclasses.replace(sampler, num_steps=10) if hasattr(sampler, "num_steps") else sampler
    counts = []
    for repeat in range(3):
        sd.sample(jax.random.key(repeat), short, sde, score, (32, 2), batch_size=8)
        counts.append(traces[0])
    assert counts[0] == counts[2] > 0


def test_example_i_does_not_depend_on_chunks_or_neighbours(looped_sampler, mixture):
    sampler, sde, score = looped_sampler, sd.VP(), mixture.score(sd.VP())
    # Another batch size rounds otherwise: adaptive steps then differ, and results by their tolerance.
    atol = 1e-3 if isinstance(sampler, sd.ProbabilityFlow) else 1e-5
    whole = sd.sample(jax.random.key(7), sampler, sde, score, (64, 2))
    chunked = sd.sample(jax.random.key(7), sampler, sde, score, (64, 2), batch_size=7)
    assert chunked.x.shape == (64, 2)
    np.testing.assert_allclose(chunked.x, whole.x, atol=atol)
    few = sd.sample(jax.random.key(7), sampler, sde, score, (5, 2))
    np.testing.assert_allclose(few.x, whole.x[:5], atol=atol)
    assert float(jnp.abs(whole.x[0] - whole.x[1]).max()) > 1e-3


def test_conditions_travel_with_their_examples(looped_sampler):
    """Label c moves the data to c: a sampler that used row 0's condition for all would put everything at one place."""
    sampler, sde = looped_sampler, sd.VP()

    def score(x, t, cond):
        centre = cond["centre"]
        alpha = right_pad(sde.alpha(t), x)
        return -(x - alpha * centre) / right_pad(sde.alpha(t) ** 2 * 0.01 + sde.variance(t), x)

    centres = jnp.arange(10.0)[:, None] * jnp.ones(3)
    out = sd.sample(
        jax.random.key(0), sampler, sde, score, (10, 3), cond={"centre": centres}, batch_size=3
    )
    np.testing.assert_allclose(out.x, centres, atol=0.6)  # 5 to 6 standard deviations of 0.1
    with pytest.raises(ValueError, match=r"cond\['centre'\] has shape"):
        sd.sample(jax.random.key(0), sampler, sde, score, (9, 3), cond={"centre": centres})


def test_one_key_or_one_per_example(mixture):
    sde, score, sampler = sd.VP(), mixture.score(sd.VP()), sd.EulerMaruyama(num_steps=20)
    x1 = sde.prior_sample(jax.random.key(1), (4, 2))
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(0), i))(jnp.arange(4))
    one = sampler(jax.random.key(0), sde, score, x1)
    np.testing.assert_array_equal(sampler(keys, sde, score, x1).x, one.x)
    raw = sampler(jax.random.PRNGKey(0), sde, score, x1)
    np.testing.assert_array_equal(raw.x, one.x)
    with pytest.raises(ValueError, match="one key, or one per example"):
        sampler(keys[:3], sde, score, x1)


def test_denoise_is_used_where_offered(mixture):
    sde = sd.VP()
    exact = mixture.score(sde)

    class Offers:
        def __call__(self, x, t):
            return exact(x, t)

        def denoise(self, x, t):
            return jnp.full_like(x, 42.0)

    offers = Offers()
    assert (
        float(sd.sample(jax.random.key(0), sd.EulerMaruyama(5), sde, offers, (2, 2)).x[0, 0])
        == 42.0
    )
    x, t = mixture.sample(jax.random.key(0), 4), jnp.full(4, 0.3)
    tweedie = (x + sde.sigma(t)[:, None] ** 2 * exact(x, t)) / sde.alpha(t)[:, None]
    np.testing.assert_allclose(sd.denoise(sde, lambda x, t: exact(x, t), x, t), tweedie, rtol=1e-6)


# --- Other starts ---


def test_every_sampler_of_the_library_starts_anywhere():
    assert [name for name, sampler in SAMPLERS.items() if not hasattr(sampler, "start")] == ["own"]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if i % 2 else [])
        for i, name in enumerate(SAMPLERS)
        if name != "own"
    ],
)
def test_data_noised_part_way_come_back_as_data(name, mixture, exact_distances):
    """x0 noised to t = 0.3 and sampled from there: again draws of the mixture, and near where they were."""
    sde, (draw, floor) = sd.VP(), exact_distances
    x0, sampler = (
        mixture.sample(jax.random.key(200), DRAWS),
        dataclasses.replace(SAMPLERS[name], start=0.3),
    )
    out = sd.sample(jax.random.key(0), sampler, sde, mixture.score(sde), (DRAWS, 2), x0=x0)
    assert sliced_wasserstein(out.x, draw) < floor.mean() + 5 * floor.std(ddof=1)
    moved = float(jnp.mean(jnp.sum((out.x - x0) ** 2, axis=1)))
    spread = float(jnp.mean(jnp.sum((x0 - x0.mean(axis=0)) ** 2, axis=1)))
    assert 0.1 * spread < moved < 1.8 * spread  # 2: as far as two independent draws


def test_less_noise_edits_less(mixture):
    sde, x0, moved = sd.VP(), mixture.sample(jax.random.key(1), 500), []
    for start in (0.05, 0.2, 0.8):
        sampler = sd.DPMSolverPP(num_steps=20, eta=1.0, start=start)
        x = sd.sample(
            jax.random.key(0), sampler, sde, mixture.score(sde), (500, 2), x0=x0, batch_size=128
        ).x
        moved.append(float(jnp.mean((x - x0) ** 2)))
    assert moved[0] < 0.5 * moved[1] < 0.25 * moved[2]


def test_states_of_ones_own_are_where_sampling_begins(mixture):
    sde, score = sd.VP(), mixture.score(sd.VP())
    x1, sampler = 0.5 * jnp.ones((7, 2)) * jnp.arange(7.0)[:, None], sd.UniPC(2, 8, start=0.6)
    direct = sampler(KEY, sde, score, x1).x
    np.testing.assert_allclose(
        sd.sample(KEY, sampler, sde, score, (7, 2), x1=x1).x, direct, rtol=1e-4, atol=1e-5
    )
    chunked = sd.sample(KEY, sampler, sde, score, (7, 2), x1=x1, batch_size=3).x
    np.testing.assert_allclose(chunked, direct, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give x1, states of that time, or x0"),
        ({"x1": jnp.ones((4, 2)), "x0": jnp.ones((4, 2))}, "not both"),
        ({"x1": jnp.ones((5, 2))}, r"x1 has shape \(5, 2\)"),
        ({"x0": jnp.ones((4, 3))}, r"x0 has shape \(4, 3\)"),
    ],
)
def test_starts_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        sd.sample(KEY, sd.DDIM(start=0.5), sd.VP(), IDENTITY, (4, 2), **options)


# --- Paths ---


@pytest.mark.parametrize(
    "settings",
    [
        sd.EulerMaruyama(5),
        sd.Heun(5),
        pytest.param(sd.UniPC(2, 5), marks=pytest.mark.slow),
        pytest.param(sd.Restart(8, (sd.Interval(0.1, 0.5, 2, 1),)), marks=pytest.mark.slow),
        sd.ProbabilityFlow(rtol=1e-3, atol=1e-3, path_points=4),
        pytest.param(sd.Ancestral(5), marks=pytest.mark.slow),
    ],
    ids=lambda s: type(s).__name__,
)
def test_a_path_holds_what_each_state_lets_expect(settings, mixture):
    """E[x_0 | x] of every state, and the sample is the last of them; without a path, the same sample."""
    sde, score = sd.VP(), mixture.score(sd.VP())
    x1 = sde.prior_sample(jax.random.key(1), (3, 2))
    out = dataclasses.replace(settings, save_path=True)(KEY, sde, score, x1)
    for i in range(out.path.t.shape[1]):
        want = sd.denoise(sde, score, out.path.x[:, i], out.path.t[:, i])
        np.testing.assert_allclose(out.path.denoised[:, i], want, rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(out.x, out.path.denoised[:, -1])
    np.testing.assert_allclose(settings(KEY, sde, score, x1).x, out.x, atol=1e-3)


def test_any_controller_of_diffrax_steps_the_flow(mixture):
    """200 given Euler steps are what a loop of them makes; nonsense is refused."""
    import diffrax

    sde, score = sd.VP(), mixture.score(sd.VP())
    x1, ts = sde.prior_sample(KEY, (2, 2)), jnp.linspace(1.0, 1e-3, 201)
    sampler = sd.ProbabilityFlow(diffrax.Euler(), controller=diffrax.StepTo(ts), denoise=False)
    x, flow = x1, sde.probability_flow(score)
    for t, s in itertools.pairwise(ts):
        x = x + (s - t) * flow(x, t)
    out = sampler(KEY, sde, score, x1)
    np.testing.assert_allclose(out.x, x, atol=1e-4)
    assert out.nfe.tolist() == [200, 200]
    assert sd.sample(KEY, sampler, sde, score, (2, 2)).nfe.tolist() == [
        200,
        200,
    ]  # though it holds an array
    with pytest.raises(TypeError, match=r"diffrax\.StepTo"):
        sd.ProbabilityFlow(diffrax.Euler())
    with pytest.raises(TypeError, match="controller is 3"):
        sd.ProbabilityFlow(controller=3)


def test_path_holds_every_state_and_is_off_by_default(mixture):
    sde, score = sd.VP(), mixture.score(sd.VP())
    x1 = sde.prior_sample(jax.random.key(1), (3, 2))
    assert sd.EulerMaruyama(5)(jax.random.key(0), sde, score, x1).path is None
    out = sd.EulerMaruyama(5, save_path=True, denoise=False)(jax.random.key(0), sde, score, x1)
    assert out.path.x.shape == (3, 6, 2)
    np.testing.assert_array_equal(out.path.x[:, 0], x1)
    np.testing.assert_array_equal(out.path.x[:, -1], out.x)
    np.testing.assert_allclose(out.path.t[0], np.linspace(1.0, 1e-3, 6), rtol=1e-6)
    flow = sd.ProbabilityFlow(save_path=True, path_points=11, denoise=False)(
        jax.random.key(0), sde, score, x1
    )
    np.testing.assert_allclose(flow.path.x[:, 0], x1, atol=1e-5)
    np.testing.assert_allclose(flow.path.x[:, -1], flow.x, atol=1e-4)
    halfway = sd.ProbabilityFlow(t_min=float(flow.path.t[0, 5]), denoise=False)(
        jax.random.key(0), sde, score, x1
    )
    np.testing.assert_allclose(
        flow.path.x[:, 5], halfway.x, atol=2e-3
    )  # dense output is of a lower order


def test_failures_are_said_per_example_and_never_returned_as_good(sampler, mixture):
    """A score that is NaN for one example must not touch its neighbours."""
    sde, exact = sd.VP(), mixture.score(sd.VP())

    def score(x, t, cond):
        return jnp.where(cond[:, None] > 0, jnp.nan, exact(x, t))

    bad = jnp.zeros(6).at[2].set(1.0)
    with pytest.warns(UserWarning, match="1 of 6 samples did not reach"):
        out = sd.sample(jax.random.key(0), sampler, sde, score, (6, 2), cond=bad)
    np.testing.assert_array_equal(out.success, bad == 0)
    assert bool(jnp.all(jnp.isnan(out.x[2])))
    whole = sd.sample(jax.random.key(0), sampler, sde, score, (6, 2), cond=jnp.zeros(6))
    np.testing.assert_allclose(out.x[out.success], whole.x[out.success], atol=1e-3)


def test_too_few_steps_allowed_is_a_failure_not_a_plausible_state(mixture):
    sde = sd.VP()
    with pytest.warns(UserWarning, match="did not reach"):
        out = sd.sample(
            jax.random.key(0), sd.ProbabilityFlow(max_steps=3), sde, mixture.score(sde), (4, 2)
        )
    assert not out.success.any()
    assert jnp.isnan(out.x).all()


def test_gradients_with_respect_to_settings(mixture):
    """Traced settings are computed in the trace: d x / d beta_max agrees with a finite difference."""
    score = mixture.score(sd.VP())
    x1 = jnp.asarray([[0.3, -0.8]])
    sampler = sd.EulerMaruyama(num_steps=20, denoise=False)
    run = jax.jit(lambda b: sampler(jax.random.key(0), sd.VP(beta_max=b), score, x1).x[0, 0])
    slope = jax.grad(run)(15.0)
    assert float(slope) == pytest.approx(float(run(15.05) - run(14.95)) / 0.1, rel=0.05)


def draw(*shape, **options):
    return sd.sample(
        jax.random.key(0), sd.EulerMaruyama(2), sd.VP(), lambda x, t: x, shape, **options
    )


def integrate(key, sde, score, x1):
    return sd.EulerMaruyama(2)(key, sde, score, x1)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: sd.EulerMaruyama(num_steps=0), ValueError, "num_steps = 0"),
        (lambda: sd.EulerMaruyama(num_steps=2.5), ValueError, "whole number"),
        (lambda: sd.EulerMaruyama(t_min=1.0), ValueError, "t_min"),
        (lambda: sd.ProbabilityFlow(rtol=0.0), ValueError, "rtol"),
        (lambda: sd.ProbabilityFlow(t_min=-0.1), ValueError, "t_min"),
        (lambda: draw(), ValueError, "shape is"),
        (lambda: draw(4, 2, batch_size=0), ValueError, "batch_size"),
        (lambda: integrate(KEY, sd.VP(), IDENTITY, jnp.asarray(1.0)), ValueError, "scalar"),
        (
            lambda: integrate(KEY, sd.VP(), lambda x, t: x[:, 0], jnp.ones((4, 2))),
            ValueError,
            "the score returned",
        ),
        (
            lambda: integrate(KEY, IDENTITY, sd.VP(), jnp.ones((4, 2))),
            TypeError,
            "and after it the score",
        ),
        (lambda: integrate(0, sd.VP(), IDENTITY, jnp.ones((4, 2))), TypeError, "random key"),
    ],
)
def test_bad_calls_are_refused_with_the_reason(call, error, message, unchecked):
    with pytest.raises(error, match=message):
        call()


def test_sample_inside_jit_and_vmap(mixture):
    """In chunks, with NumPy's arrays among conditions and starts, and under vmap."""
    sde, exact, sampler = sd.VP(), mixture.score(sd.VP()), sd.EulerMaruyama(5)
    score = lambda x, t, cond: exact(x, t) + cond["shift"][0] + cond["scale"] * x  # noqa: E731
    x1 = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)

    def run(key, scale, **options):
        cond = {"shift": [np.arange(6.0, dtype=np.float32).reshape(3, 2)], "scale": scale}
        return sd.sample(key, sampler, sde, score, (3, 2), cond=cond, x1=x1, **options).x

    whole = run(KEY, scale := 0.1 * jnp.ones((3, 1)))
    for size in (None, 2):
        chunked = jax.jit(lambda key, scale, size=size: run(key, scale, batch_size=size))(
            KEY, scale
        )
        np.testing.assert_allclose(chunked, whole, rtol=1e-4, atol=1e-5)
    keys = jnp.stack([jax.random.key(1), KEY])
    np.testing.assert_allclose(
        jax.vmap(lambda key: run(key, scale))(keys)[1], whole, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (lambda sde, n, t_min: np.linspace(1.0, 0.3, n + 1), "falling from 1 to 0.001"),
        (lambda sde, n, t_min: np.linspace(t_min, 1.0, n + 1), "falling from 1"),
        (lambda sde, n, t_min: np.linspace(1.0, t_min, n), "need 6 times"),
    ],
)
def test_own_grids_are_checked(grid, message, mixture, unchecked):
    with pytest.raises(ValueError, match=message):
        sd.sample(KEY, sd.EulerMaruyama(5, grid=grid), sd.VP(), mixture.score(sd.VP()), (3, 2))


def test_infinite_log_snr_is_refused(mixture):
    with pytest.raises(ValueError, match="infinite log SNR"):
        sd.sample(
            KEY,
            sd.ProbabilityFlow(t_min=0.0, variable=sd.variables.InLogSNR()),
            sd.VP(),
            mixture.score(sd.VP()),
            (3, 2),
        )


@pytest.mark.parametrize(
    "sampler",
    [
        sd.EulerMaruyama(1000),
        pytest.param(sd.AdaptiveSDE(0.05, 0.05), marks=pytest.mark.slow),
        pytest.param(sd.ProbabilityFlow(rtol=1e-3, atol=1e-3), marks=pytest.mark.slow),
        sd.UniPC(2, 50),
    ],
    ids=lambda s: type(s).__name__,
)
def test_half_precision_has_the_law_of_full(sampler):
    """x1 and the score in bfloat16, states and coefficients in float32: mean and variance of N(.7, .25)."""
    sde, exact, n = sd.VP(), gaussian_score(sd.VP(), 0.7, 0.25), 4000
    given = []

    def score(x, t):
        given.append(x.dtype)
        return exact(x, t).astype(x.dtype)

    x1 = jax.random.normal(KEY, (n, 1), jnp.bfloat16)
    out = jax.jit(lambda x: sampler(KEY, sde, score, x))(x1)
    assert out.x.dtype == jnp.bfloat16
    assert set(given) == {jnp.dtype(jnp.bfloat16)}
    assert bool(out.success.all())
    x = np.asarray(out.x, np.float64)
    assert abs(x.mean() - 0.7) < 5 * np.sqrt(0.25 / n) + 0.002
    assert abs(x.var() / 0.25 - 1.0) < 5 * np.sqrt(2.0 / n)


# --- A score that does not belong ---


def test_a_score_of_another_sde_is_said(mixture, recwarn):
    """For samples and likelihoods; the same SDE, its settings as numbers or arrays, is not."""
    score = mixture.score(sd.VP())
    with pytest.warns(UserWarning, match=r"the score is that of VP\(.*used under VE"):
        sd.sample(KEY, sd.EulerMaruyama(2), sd.VE(), score, (2, 2))
    with pytest.warns(UserWarning, match=r"used under VP\(beta_min=0.2"):
        sd.log_likelihood(
            KEY, sd.VP(beta_min=0.2), score, jnp.full((1, 2), 0.3), rtol=1e-2, atol=1e-2
        )
    recwarn.clear()
    sd.sample(KEY, sd.EulerMaruyama(2), jax.tree.map(jnp.float32, sd.VP()), score, (2, 2))
    sd.sample(KEY, sd.EulerMaruyama(2), sd.VE(), lambda x, t: -x, (2, 2))
    assert not [w for w in recwarn if "the score is that of" in str(w.message)]


def test_labels_are_those_of_the_network():
    net = sd.MLPConfig(width=4, depth=1, num_classes=2).build((2,), rngs=nnx.Rngs(0))
    model = sd.ScoreModel(sd.VP(), net, sd.EDM(1.0))
    with pytest.raises(ValueError, match=r"0 … 5: wanted labels 0 … 1"):
        sd.sample(KEY, sd.EulerMaruyama(2), sd.VP(), model, (3, 2), cond=jnp.asarray([0, 5, 1]))
    with pytest.warns(UserWarning, match="no cond arrived"):
        sd.sample(KEY, sd.EulerMaruyama(2), sd.VP(), model, (3, 2))
