"""`sd.sample`: one compilation, chunks, conditions, starts, and what it refuses."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import scoresde as sd
from scoresde.types import right_pad


def IDENTITY(x, t):
    return x


KEY = jax.random.key(0)


# --- Compilations and chunks ---


def test_the_same_call_twice_compiles_once(looped_sampler, mixture):
    """The score's Python body runs only while tracing."""
    sampler = looped_sampler
    sde = sd.VP()
    traces = [0]
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
    sampler = looped_sampler
    sde = sd.VP()
    score = mixture.score(sd.VP())
    # Another batch size rounds differently: adaptive steps differ, and results by their tolerance.
    atol = 1e-3 if isinstance(sampler, sd.ProbabilityFlow) else 1e-5
    whole = sd.sample(jax.random.key(7), sampler, sde, score, (64, 2))
    chunked = sd.sample(jax.random.key(7), sampler, sde, score, (64, 2), batch_size=7)
    assert chunked.x.shape == (64, 2)
    np.testing.assert_allclose(chunked.x, whole.x, atol=atol)
    few = sd.sample(jax.random.key(7), sampler, sde, score, (5, 2))
    np.testing.assert_allclose(few.x, whole.x[:5], atol=atol)
    assert float(jnp.abs(whole.x[0] - whole.x[1]).max()) > 1e-3


def test_conditions_travel_with_their_examples(looped_sampler):
    """Label c moves the data to c: row 0's condition used for all would put everything at one
    place.
    """
    sampler = looped_sampler
    sde = sd.VP()

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


def test_sample_inside_jit_and_vmap(mixture):
    """In chunks, with NumPy's arrays among conditions and starts, and under vmap."""
    sde = sd.VP()
    exact = mixture.score(sd.VP())
    sampler = sd.EulerMaruyama(5)
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


def test_settings_that_are_arrays_are_numbers_to_sample(mixture):
    """VP(beta_max=array) and a table of DDPM have float64 coefficients, and serve every sampler."""
    score = mixture.score(sd.VP())
    for sampler in (sd.UniPC(3, 30), sd.Restart(10, (sd.Interval(0.1, 1.0, 2, 1),))):
        plain = sd.sample(KEY, sampler, sd.VP(), score, (4, 2)).x
        for value in (jnp.asarray(20.0), np.float64(20.0)):
            np.testing.assert_array_equal(
                sd.sample(KEY, sampler, sd.VP(beta_max=value), score, (4, 2)).x, plain
            )
    model = sd.DDPM.cosine(50).model(lambda x, i: 0.1 * x)
    out = sd.sample(KEY, sd.Restart(8, (sd.Interval(0.1, 1.0, 2, 1),)), model.sde, model, (2, 2))
    assert bool(out.success.all())


# --- Starts ---


def test_less_noise_edits_less(mixture):
    sde = sd.VP()
    x0 = mixture.sample(jax.random.key(1), 500)
    moved = []
    for start in (0.05, 0.2, 0.8):
        sampler = sd.DPMSolverPP(num_steps=20, eta=1.0, start=start)
        x = sd.sample(
            jax.random.key(0), sampler, sde, mixture.score(sde), (500, 2), x0=x0, batch_size=128
        ).x
        moved.append(float(jnp.mean((x - x0) ** 2)))
    assert moved[0] < 0.5 * moved[1] < 0.25 * moved[2]


def test_states_of_ones_own_are_where_sampling_begins(mixture):
    sde = sd.VP()
    score = mixture.score(sd.VP())
    x1 = 0.5 * jnp.ones((7, 2)) * jnp.arange(7.0)[:, None]
    sampler = sd.UniPC(2, 8, start=0.6)
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
        ({}, "give x1, states at that time, or x0"),
        ({"x1": jnp.ones((4, 2)), "x0": jnp.ones((4, 2))}, "both given"),
        ({"x1": jnp.ones((5, 2))}, r"x1 has shape \(5, 2\)"),
        ({"x0": jnp.ones((4, 3))}, r"x0 has shape \(4, 3\)"),
    ],
)
def test_starts_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        sd.sample(KEY, sd.DDIM(start=0.5), sd.VP(), IDENTITY, (4, 2), **options)


# --- Failures ---


def test_failures_are_reported_per_example_and_never_returned_as_good(sampler, mixture):
    """A score that is NaN for one example must not touch its neighbours."""
    sde = sd.VP()
    exact = mixture.score(sd.VP())

    def score(x, t, cond):
        return jnp.where(cond[:, None] > 0, jnp.nan, exact(x, t))

    bad = jnp.zeros(6).at[2].set(1.0)
    with pytest.warns(UserWarning, match="1 of 6 samples did not reach"):
        out = sd.sample(jax.random.key(0), sampler, sde, score, (6, 2), cond=bad)
    np.testing.assert_array_equal(out.success, bad == 0)
    assert bool(jnp.all(jnp.isnan(out.x[2])))
    whole = sd.sample(jax.random.key(0), sampler, sde, score, (6, 2), cond=jnp.zeros(6))
    np.testing.assert_allclose(out.x[out.success], whole.x[out.success], atol=1e-3)


def draw(*shape, **options):
    return sd.sample(
        jax.random.key(0), sd.EulerMaruyama(2), sd.VP(), lambda x, t: x, shape, **options
    )


def integrate(key, sde, score, x1):
    return sd.EulerMaruyama(2)(key, sde, score, x1)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
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
            "and the score after it",
        ),
        (lambda: integrate(0, sd.VP(), IDENTITY, jnp.ones((4, 2))), TypeError, "random key"),
    ],
)
def test_bad_calls_are_refused_with_the_reason(call, error, message, unchecked):
    with pytest.raises(error, match=message):
        call()
