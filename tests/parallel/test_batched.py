"""A function of a batch inside a per-example solve: one call, with the plain derivatives."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import scoresde as sd
from scoresde.parallel.batched import called_for_batch

KEY = jax.random.key(0)


def field(weights, rows):
    """tanh(x W) scaled by t, example by example."""
    x, t = rows
    return t[:, None] * jnp.tanh(x @ weights)


def inputs():
    key_weights, key_x = jax.random.split(KEY)
    return jax.random.normal(key_weights, (2, 2)), jax.random.normal(key_x, (5, 2))


def test_vmap_is_one_call_on_the_batch():
    weights, x = inputs()
    t = jnp.linspace(0.1, 1.0, 5)
    shapes = []

    def seen(weights, rows):
        shapes.append(rows[0].shape)
        return field(weights, rows)

    one = called_for_batch(seen, weights, (x, t))
    out = jax.vmap(lambda x, t: one((x, t)))(x, t)
    np.testing.assert_allclose(out, field(weights, (x, t)), rtol=1e-6)
    assert (5, 2) in shapes


def test_what_all_examples_share_is_broadcast():
    weights, x = inputs()
    one = called_for_batch(field, weights, (x, jnp.zeros(5)))
    out = jax.vmap(lambda x: one((x, jnp.asarray(0.3))))(x)
    np.testing.assert_allclose(out, field(weights, (x, jnp.full(5, 0.3))), rtol=1e-6)


def test_a_vmap_over_the_weights_is_the_plain_one():
    weights, x = inputs()
    several = jnp.stack([weights, 2.0 * weights])
    t = jnp.ones(5)

    def of_weights(w):
        one = called_for_batch(field, w, (x, t))
        return jax.vmap(lambda x, t: one((x, t)))(x, t)

    out = jax.vmap(of_weights)(several)
    for got, w in zip(out, several, strict=True):
        np.testing.assert_allclose(got, field(w, (x, t)), rtol=1e-6)


def test_derivatives_are_those_of_the_plain_form():
    weights, x = inputs()
    t = jnp.ones(5)

    def total(weights, x):
        one = called_for_batch(field, weights, (x, t))
        return jnp.sum(jax.vmap(lambda x, t: one((x, t)))(x, t) ** 2)

    def plain(weights, x):
        return jnp.sum(field(weights, (x, t)) ** 2)

    for got, want in zip(
        jax.grad(total, (0, 1))(weights, x), jax.grad(plain, (0, 1))(weights, x), strict=True
    ):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


ADAPTIVE = {
    "likelihood": lambda sde, score, x: (
        sd.log_likelihood(KEY, sde, score, x, rtol=1e-2, atol=1e-2).log_prob
    ),
    "joint-steps": lambda sde, score, x: (
        sd.log_likelihood(KEY, sde, score, x, rtol=1e-2, atol=1e-2, joint_steps=True).log_prob
    ),
    "encode": lambda sde, score, x: sd.encode(sde, score, x, rtol=1e-2, atol=1e-2).x,
    "flow": lambda sde, score, x: sd.ProbabilityFlow(rtol=1e-2, atol=1e-2)(KEY, sde, score, x).x,
    "adaptive": lambda sde, score, x: sd.AdaptiveSDE(rtol=0.5, atol=0.5)(KEY, sde, score, x).x,
    "shark": lambda sde, score, x: (
        sd.AdaptiveSDE(rtol=0.5, atol=0.5, solver=diffrax.ShARK())(KEY, sde, score, x).x
    ),
}
"""Every solve with a step size per example, and the likelihood with one for the batch."""


@pytest.mark.parametrize("solve", ADAPTIVE.values(), ids=ADAPTIVE)
def test_a_score_sees_the_batch_inside_every_adaptive_solve(solve):
    """Where a score is evaluated as it runs, its x is (batch, *data), never (1, *data)."""
    batches = set()

    def score(x, t):
        jax.debug.callback(lambda rows: batches.add(rows.shape), x)
        return -x

    solve(sd.VP(), score, jnp.ones((4, 2)))
    jax.effects_barrier()
    assert batches == {(4, 2)}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name == "likelihood" else [pytest.mark.slow])
        for name in ADAPTIVE
    ],
)
def test_a_score_may_capture_what_a_caller_traces(name, x64):
    """Weights of a caller's jit and vmap, captured by a plain function, are as the numbers are.

    In float64, where rounding does not turn the decision to accept a step; but diffrax's Brownian
    tree moves with it even there.
    """
    sde = sd.VP()
    x = jax.random.normal(KEY, (4, 2), jnp.float64)
    atol = 0.1 if name == "shark" else 1e-6

    def of_scale(scale):
        return ADAPTIVE[name](sde, lambda x, t: -scale * x, x)

    scales = jnp.array([0.5, 1.25])
    want = [of_scale(0.5), of_scale(1.25)]
    assert float(jnp.abs(want[0] - want[1]).max()) > 0.5  # so that the scale decides
    np.testing.assert_allclose(jax.jit(of_scale)(scales[0]), want[0], atol=atol)
    np.testing.assert_allclose(jax.vmap(of_scale)(scales), want, atol=atol)


@pytest.mark.parametrize(
    "name",
    [
        "flow",
        pytest.param("encode", marks=pytest.mark.slow),
        pytest.param("likelihood", marks=pytest.mark.slow),
    ],
)
def test_compiled_gradients_reach_what_a_score_captures(name, x64):
    """Under grad, and under jit of grad, they are those of a weight that is an argument."""
    sde = sd.VP()
    x = jax.random.normal(KEY, (4, 2), jnp.float64)

    def score_of(scale, x, t):
        return -scale * x

    def captured(scale):
        return jnp.sum(ADAPTIVE[name](sde, lambda x, t: score_of(scale, x, t), x) ** 2)

    def as_argument(scale):
        return jnp.sum(ADAPTIVE[name](sde, jax.tree_util.Partial(score_of, scale), x) ** 2)

    scale = jnp.asarray(0.9)
    want = jax.grad(as_argument)(scale)
    assert abs(float(want)) > 0.1
    np.testing.assert_allclose(jax.grad(captured)(scale), want, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(jax.grad(captured))(scale), want, rtol=1e-6)
