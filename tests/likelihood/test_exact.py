"""Likelihoods against densities that are known."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from counting import counting
from flax import nnx
from gaussian import end_marginal, mixture_in

import scoresde as sd
from scoresde.sde.mixture import ring

KEY = jax.random.key(0)


@pytest.mark.parametrize(
    ("sde", "variable", "dim"),
    [
        (sd.VP(), sd.variables.InTime(), 2),
        pytest.param(sd.VP(), sd.variables.InLogSNR(), 16, marks=pytest.mark.slow),
        (sd.SubVP(), sd.variables.InLogSNR(), 2),
        pytest.param(sd.SubVP(), sd.variables.InLogSNR(), 16, marks=pytest.mark.slow),
        pytest.param(sd.VE(), sd.variables.InLogSNR(), 2, marks=pytest.mark.slow),
        (sd.VE(), sd.variables.InLogSNR(), 16),
    ],
    ids=[
        "vp-t-2",
        "vp-log_snr-16",
        "subvp-log_snr-2",
        "subvp-log_snr-16",
        "ve-log_snr-2",
        "ve-log_snr-16",
    ],
)
def test_density_is_exact_in_float64(sde, variable, dim, x64):
    """From the exact marginal at t = 1, the density at t_min is exact within 1e-7 nats.

    The flow there and back returns to the data within 1e-6.
    """
    mixture = mixture_in(16, jnp.float64) if dim == 16 else ring()
    score = mixture.score(sde)
    x = mixture.sample(KEY, 24)
    out = sd.log_likelihood(
        KEY,
        sde,
        score,
        x,
        divergence=sd.ExactDivergence(),
        rtol=1e-11,
        atol=1e-11,
        t_min=1e-5,
        prior_log_prob=end_marginal(mixture, sde),
        variable=variable,
    )
    assert bool(out.success.all())
    np.testing.assert_allclose(out.log_prob, mixture.log_prob(sde, x, 1e-5), atol=1e-7)
    np.testing.assert_array_equal(out.stderr, 0.0)
    back = sd.ProbabilityFlow(rtol=1e-10, atol=1e-10, t_min=1e-5, denoise=False, variable=variable)
    np.testing.assert_allclose(back(KEY, sde, score, out.latent).x, x, atol=1e-6)


@pytest.mark.parametrize(("tolerance", "bits"), [(1e-6, 2e-5), (1e-5, 2e-4)])
@pytest.mark.parametrize("dim", [2, 16])
def test_density_in_float32_is_within_the_bits_that_the_readme_says(any_sde, dim, tolerance, bits):
    """The prior's density differs from the exact marginal's by their known gap alone.

    A wrong standard deviation at t = 1 would shift every value.
    """
    mixture = mixture_in(16) if dim == 16 else ring()
    x = mixture.sample(KEY, 32)
    out = sd.log_likelihood(
        KEY,
        any_sde,
        mixture.score(any_sde),
        x,
        divergence=sd.ExactDivergence(),
        rtol=tolerance,
        atol=tolerance,
    )
    gap = any_sde.prior_log_prob(out.latent) - mixture.log_prob(any_sde, out.latent, 1.0)
    error = (out.log_prob - gap - mixture.log_prob(any_sde, x, 1e-5)) / (dim * np.log(2.0))
    assert float(jnp.abs(error).max()) < bits
    assert float(jnp.abs(gap).max()) < 0.5  # the two ends nearly agree, as they should


@pytest.mark.parametrize("t_min", [1e-5, pytest.param(1e-3, marks=pytest.mark.slow)])
@pytest.mark.parametrize("problem", ["mixture", "gaussian"])
def test_the_default_variable_is_cheaper_than_log_snr_and_exact_within_1e_4_bits(
    sde, problem, t_min
):
    """At the default tolerance, from the exact marginal at t = 1, on each of 48 points."""
    means = jnp.linspace(-0.5, 0.5, 16)[None]
    gaussian = sd.GaussianMixture(means, jnp.geomspace(0.01, 1.0, 16)[None])
    law = {"mixture": ring(), "gaussian": gaussian}[problem]
    x = law.sample(KEY, 48)
    options = {
        "divergence": sd.ExactDivergence(),
        "t_min": t_min,
        "prior_log_prob": end_marginal(law, sde),
    }

    out = sd.log_likelihood(KEY, sde, law.score(sde), x, **options)
    error = (out.log_prob - law.log_prob(sde, x, t_min)) / (law.dim * np.log(2.0))
    assert float(jnp.abs(error).max()) < 1e-4

    log_snr = sd.log_likelihood(
        KEY, sde, law.score(sde), x, variable=sd.variables.InLogSNR(), **options
    )
    assert float(out.nfe.mean()) < 0.95 * float(log_snr.nfe.mean())


@pytest.mark.parametrize(
    "joint_steps",
    [False, pytest.param(True, marks=pytest.mark.slow)],
    ids=["per-example", "joint"],
)
@pytest.mark.parametrize("captured", [False, True], ids=["argument", "captured"])
def test_gradients_are_those_of_the_density(captured, joint_steps, x64):
    """On N(0, v I), with respect to the score's weight v and to the data, within 1e-6 of each.

    The weight is a leaf of the score, or is captured by a plain function.
    """
    sde = sd.VP()
    x0 = jax.random.normal(KEY, (5, 3), jnp.float64)
    counts = jnp.arange(1.0, 6.0)  # so that no example's gradient can stand for another's

    def exact(v, x, t):
        spread = sde.alpha(t) ** 2 * v + sde.variance(t)
        return -0.5 * jnp.sum(x**2 / spread + jnp.log(2.0 * jnp.pi * spread), axis=-1)

    def score_of(v, x, t):
        return -x / (sde.alpha(t) ** 2 * v + sde.variance(t))[:, None]

    def log_prob(v, x):
        score = (lambda x, t: score_of(v, x, t)) if captured else jax.tree_util.Partial(score_of, v)
        out = sd.log_likelihood(
            KEY,
            sde,
            score,
            x,
            rtol=1e-9,
            atol=1e-9,
            joint_steps=joint_steps,
            prior_log_prob=lambda x: exact(v, x, jnp.asarray(1.0)),
        )
        return jnp.sum(counts * out.log_prob)

    v = jnp.asarray(0.3)
    got = jax.grad(log_prob, (0, 1))(v, x0)
    want = jax.grad(lambda v, x: jnp.sum(counts * exact(v, x, 1e-5)), (0, 1))(v, x0)
    np.testing.assert_allclose(got[0], want[0], rtol=1e-6)
    np.testing.assert_allclose(got[1], want[1], atol=1e-6)


def test_evaluations_compilations_and_chunks(mixture):
    sde = sd.VP()
    x = mixture.sample(KEY, 7)
    score, count = counting(mixture.score(sde))
    out = sd.log_likelihood(KEY, sde, score, x[:1])
    jax.effects_barrier()
    assert int(out.nfe[0]) == count[0] > 0
    traces = [0]
    exact = mixture.score(sde)

    def traced(x, t):
        traces[0] += 1
        return exact(x, t)

    first = sd.log_likelihood(KEY, sde, traced, x, batch_size=3)
    once = traces[0]
    second = sd.log_likelihood(KEY, sde, traced, x, batch_size=3)
    assert traces[0] == once
    np.testing.assert_array_equal(first.log_prob, second.log_prob)
    np.testing.assert_allclose(
        first.log_prob[0], out.log_prob[0], atol=1e-3
    )  # adaptive: to its tolerance
    assert first.stderr is None  # one probe tells no error
    assert bool(first.success.all())


def test_conditions_travel_with_their_examples():
    """p(x | c) = N(c, 0.3^2 I): each example's density under its own condition, in chunks too."""
    sde = sd.VP()
    std = 0.3

    def score(x, t, cond):
        alpha = sde.alpha(t)[:, None]
        sigma = sde.sigma(t)[:, None]
        return -(x - alpha * cond[:, None]) / ((alpha * std) ** 2 + sigma**2)

    centre = jnp.arange(5.0) - 2.0
    x = centre[:, None] + std * jax.random.normal(KEY, (5, 2))
    want = -0.5 * jnp.sum(((x - centre[:, None]) / std) ** 2, axis=1) - 2 * np.log(
        std * np.sqrt(2 * np.pi)
    )

    def end(x):  # the exact end marginal, N(alpha c, alpha^2 std^2 + sigma^2)
        scale = jnp.sqrt((sde.alpha(1.0) * std) ** 2 + sde.variance(1.0))
        return jnp.sum(
            jax.scipy.stats.norm.logpdf(x, sde.alpha(1.0) * centre[:, None], scale), axis=1
        )

    for size in (None, 2):
        out = sd.log_likelihood(
            KEY,
            sde,
            score,
            x,
            cond=centre,
            divergence=sd.ExactDivergence(),
            batch_size=size,
            prior_log_prob=end,
        )
        np.testing.assert_allclose(out.log_prob, want, atol=1e-3)


def test_images_of_any_rank(sde):
    """Independent pixels: the density of a 3×2×1 image is that of its six numbers."""
    score = lambda x, t: -x / (sde.alpha(t) ** 2 * 0.25 + sde.variance(t)).reshape(-1, 1, 1, 1)  # noqa: E731
    x = 0.5 * jax.random.normal(KEY, (4, 3, 2, 1))
    out = sd.log_likelihood(KEY, sde, score, x, divergence=sd.Hutchinson(2), rtol=1e-6, atol=1e-6)
    want = -0.5 * jnp.sum((x / 0.5) ** 2, axis=(1, 2, 3)) - 6 * np.log(0.5 * np.sqrt(2 * np.pi))
    np.testing.assert_allclose(
        out.log_prob, want, atol=0.01
    )  # t_min and, for VE, data in the prior's width
    np.testing.assert_allclose(
        out.stderr, 0.0, atol=1e-4
    )  # an isotropic Jacobian has no probe variance
    assert out.latent.shape == x.shape


def test_failures_are_nan_and_named(mixture):
    sde = sd.VP()
    exact = mixture.score(sd.VP())
    score = lambda x, t, cond: jnp.where(cond[:, None] > 0, jnp.nan, exact(x, t))  # noqa: E731
    with pytest.warns(UserWarning, match="1 of 4 likelihoods"):
        out = sd.log_likelihood(
            KEY, sde, score, mixture.sample(KEY, 4), cond=jnp.asarray([0.0, 0.0, 1.0, 0.0])
        )
    np.testing.assert_array_equal(out.success, [True, True, False, True])
    np.testing.assert_array_equal(jnp.isnan(out.log_prob), ~out.success)
    with pytest.warns(UserWarning, match="4 of 4"):
        short = sd.log_likelihood(
            KEY, sde, exact, mixture.sample(KEY, 4), max_steps=2, divergence=sd.ExactDivergence()
        )
    assert jnp.isnan(short.stderr).all()  # never 0, which would say exact


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: sd.log_likelihood(KEY, sd.VP(), lambda x, t: x, jnp.full((2, 2), jnp.nan)),
            "x0 holds NaN",
        ),
        (
            lambda: sd.log_likelihood(KEY, sd.VP(), lambda x, t: x, jnp.ones((2, 2)), t_min=1.0),
            "t_min",
        ),
        (
            lambda: sd.log_likelihood(
                KEY, sd.VP(), lambda x, t: x, jnp.ones((2, 2)), prior_log_prob=lambda x: x
            ),
            "prior_log_prob returned shape",
        ),
        (
            lambda: sd.log_likelihood(
                KEY, sd.VP(), lambda x, t: x, jnp.ones((2, 2)), rtol=1e-3, atol=1e-16
            ),
            "1e-11",
        ),
        (
            lambda: sd.log_likelihood(KEY, sd.VP(), lambda x, t: x, jnp.ones((2, 2)), t_min=0.0),
            "infinite log SNR",
        ),
        (
            lambda: sd.log_likelihood(KEY, sd.VP(), lambda x, t: x, jnp.ones((0, 2))),
            "there is no example",
        ),
        (
            lambda: jax.jit(
                lambda x: sd.log_likelihood(KEY, sd.VP(), lambda x, t: x, x, float64=True)
            )(jnp.ones((2, 2))),
            "float64=True does not work inside jit",
        ),
        (lambda: sd.Hutchinson(num_probes=0), "num_probes"),
        (lambda: sd.bits_per_dim(jnp.zeros(2), 0), "dim = 0"),
        (lambda: sd.bits_per_dim(jnp.zeros(2), 4, low=1.0, high=1.0), "not below"),
        (
            lambda: sd.UniformDequantization(16)(KEY, jnp.full((2, 2), 16)),
            r"wanted whole numbers 0 … 15",
        ),
        (lambda: sd.UniformDequantization(1), "levels"),
    ],
)
def test_bad_input_is_refused_with_the_reason(call, message, unchecked):
    with pytest.raises(ValueError, match=message):
        call()


def test_integer_images_are_refused_with_the_line_to_write(unchecked):
    with pytest.raises(TypeError, match="UniformDequantization"):
        sd.log_likelihood(KEY, sd.VP(), lambda x, t: x, jnp.ones((2, 2), jnp.int32))


# --- Options of the solve ---


def test_joint_steps_agree_and_are_recorded(mixture):
    """With one step size for the batch, densities agree, and all examples share one count of
    evaluations.
    """
    sde = sd.VP()
    x = mixture.sample(KEY, 9)
    joint = sd.log_likelihood(
        KEY,
        sde,
        mixture.score(sde),
        x,
        divergence=sd.ExactDivergence(),
        rtol=1e-6,
        atol=1e-6,
        joint_steps=True,
        prior_log_prob=end_marginal(mixture, sde),
    )
    np.testing.assert_allclose(joint.log_prob, mixture.log_prob(sde, x, 1e-5), atol=2e-3)
    assert joint.settings.joint_steps
    assert joint.settings.t_min == 1e-5
    assert len(np.unique(joint.nfe)) == 1


def test_float64_on_request(mixture):
    """From a float32 process: as exact as in float64, weights and data cast; float32 is not."""
    sde = sd.VP()
    x = mixture.sample(KEY, 4)
    net = sd.MLPConfig(width=8, depth=1).build((2,), rngs=nnx.Rngs(0))
    net.output.kernel[...] = 0.3 * jax.random.normal(KEY, net.output.kernel.shape)
    model = sd.ScoreModel(sde, net, sd.EDM(0.7))
    options = {"divergence": sd.ExactDivergence(), "rtol": 1e-10, "atol": 1e-10}
    out = sd.log_likelihood(KEY, sde, model, x, float64=True, **options)
    assert out.log_prob.dtype == jnp.float64
    assert out.settings.dtype == "float64"
    with jax.enable_x64(True):
        wide = jax.tree.map(
            lambda a: a.astype(jnp.float64) if eqx.is_inexact_array(a) else a, model
        )
        want = sd.log_likelihood(
            KEY, sde, wide, x.astype(jnp.float64), **(options | {"rtol": 1e-11, "atol": 1e-11})
        )
    np.testing.assert_allclose(np.asarray(out.log_prob), np.asarray(want.log_prob), atol=1e-8)
    bits = sd.bits_per_dim(out.log_prob, 2)  # and stays
    np.testing.assert_allclose(
        np.asarray(bits), 7 - np.asarray(out.log_prob) / (2 * np.log(2)), rtol=1e-14
    )
    assert sd.gaps(KEY, sde, model, x, out).truncation.dtype == jnp.float64
    low = sd.DiTConfig(patch=1, width=8, depth=1, num_heads=1, dtype="bfloat16").build(
        (2, 2, 1), rngs=nnx.Rngs(0)
    )
    with pytest.raises(ValueError, match="the network computes in bfloat16"):
        sd.log_likelihood(
            KEY, sde, sd.ScoreModel(sde, low, sd.EDM()), jnp.full((1, 2, 2, 1), 0.5), float64=True
        )
    assert sd.log_likelihood(KEY, sde, model, x).log_prob.dtype == jnp.float32


def test_settings_say_the_precision_of_the_solve(mixture, unchecked):
    """NumPy's float64 without x64 is solved in float32."""
    x = np.random.default_rng(0).normal(size=(3, 2))
    out = sd.log_likelihood(KEY, sd.VP(), mixture.score(sd.VP()), x)
    assert (out.log_prob.dtype, out.settings.dtype) == (jnp.float32, "float32")


def test_half_precision_data_are_solved_in_float32(mixture, unchecked):
    """As the same numbers in float32 are."""
    x = mixture.sample(KEY, 3).astype(jnp.bfloat16)
    score = mixture.score(sd.VP())
    half, full = (sd.log_likelihood(KEY, sd.VP(), score, a) for a in (x, x.astype(jnp.float32)))
    np.testing.assert_array_equal(half.log_prob, full.log_prob)
    assert half.settings.dtype == "float32"


@pytest.mark.parametrize(
    ("solver", "steps"),
    [
        (diffrax.Tsit5(), None),
        (diffrax.ReversibleHeun(), None),
        (diffrax.Kvaerno5(), None),
        (diffrax.Euler(), 800),
        (diffrax.LeapfrogMidpoint(), 800),
    ],
    ids=lambda value: type(value).__name__,
)
def test_any_solver_of_diffrax(solver, steps):
    """N(0, 0.49), whose density is known, to the tolerance or to the order of given steps.

    Evaluations are as counted, or -1 for an implicit solver.
    """
    sde = sd.VP()
    data = sd.GaussianMixture(jnp.zeros((1, 1)), jnp.asarray([0.49]))
    ends = -sde.log_snr(jnp.asarray([1e-5, 1.0]))
    controller = (
        None if steps is None else diffrax.StepTo(jnp.linspace(ends[0], ends[1], steps + 1))
    )
    score, count = counting(data.score(sde))
    x = jnp.asarray([[0.3]])
    out = sd.log_likelihood(
        KEY,
        sde,
        score,
        x,
        divergence=sd.ExactDivergence(),
        solver=solver,
        controller=controller,
        variable=sd.variables.InLogSNR(),
        prior_log_prob=end_marginal(data, sde),
    )
    jax.effects_barrier()
    assert bool(out.success.all())
    assert out.settings.flow_solver.controller is controller
    np.testing.assert_allclose(
        out.log_prob, data.log_prob(sde, x, 1e-5), atol=2e-2 if controller else 2e-3
    )
    assert int(out.nfe[0]) == (-1 if isinstance(solver, diffrax.Kvaerno5) else count[0])


@pytest.mark.usefixtures("unchecked")
def test_settings_may_be_arrays_of_one_number_but_not_tracers(mixture):
    sde = sd.VP()
    score = mixture.score(sde)
    x0 = mixture.sample(KEY, 2)

    def likelihood(tolerance, t_min):
        return sd.log_likelihood(
            KEY, sde, score, x0, rtol=tolerance, atol=tolerance, t_min=t_min
        ).log_prob

    want = likelihood(1e-2, 1e-3)
    np.testing.assert_allclose(likelihood(np.float64(1e-2), np.float64(1e-3)), want)
    np.testing.assert_allclose(
        likelihood(jnp.asarray(1e-2), jnp.asarray(1e-3)), want, rtol=1e-4, atol=1e-4
    )
    for name, call in (
        ("rtol", lambda value: likelihood(value, 1e-3)),
        ("t_min", lambda value: likelihood(1e-2, value)),
    ):
        with pytest.raises(TypeError, match=f"{name} is a tracer, but it is fixed before"):
            jax.jit(call)(1e-2)
