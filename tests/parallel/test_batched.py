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

    one = called_for_batch(seen)
    out = jax.vmap(lambda x, t: one(weights, (x, t)))(x, t)
    np.testing.assert_allclose(out, field(weights, (x, t)), rtol=1e-6)
    assert shapes[-1] == (5, 2)


def test_what_all_examples_share_is_broadcast():
    weights, x = inputs()
    one = called_for_batch(field)
    out = jax.vmap(lambda x: one(weights, (x, jnp.asarray(0.3))))(x)
    np.testing.assert_allclose(out, field(weights, (x, jnp.full(5, 0.3))), rtol=1e-6)


def test_a_vmap_over_the_weights_is_the_plain_one():
    weights, x = inputs()
    several = jnp.stack([weights, 2.0 * weights])
    t = jnp.ones(5)
    one = called_for_batch(field)
    out = jax.vmap(lambda w: jax.vmap(lambda x, t: one(w, (x, t)))(x, t))(several)
    for got, w in zip(out, several, strict=True):
        np.testing.assert_allclose(got, field(w, (x, t)), rtol=1e-6)


def test_derivatives_are_those_of_the_plain_form():
    weights, x = inputs()
    t = jnp.ones(5)
    one = called_for_batch(field)

    def total(weights, x):
        return jnp.sum(jax.vmap(lambda x, t: one(weights, (x, t)))(x, t) ** 2)

    def plain(weights, x):
        return jnp.sum(field(weights, (x, t)) ** 2)

    for got, want in zip(
        jax.grad(total, (0, 1))(weights, x), jax.grad(plain, (0, 1))(weights, x), strict=True
    ):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "solve",
    [
        lambda sde, score, x: sd.log_likelihood(KEY, sde, score, x, rtol=1e-2, atol=1e-2),
        lambda sde, score, x: sd.log_likelihood(
            KEY, sde, score, x, rtol=1e-2, atol=1e-2, joint_steps=True
        ),
        lambda sde, score, x: sd.encode(sde, score, x, rtol=1e-2, atol=1e-2),
        lambda sde, score, x: sd.ProbabilityFlow(rtol=1e-2, atol=1e-2)(KEY, sde, score, x),
        lambda sde, score, x: sd.AdaptiveSDE(rtol=0.5, atol=0.5)(KEY, sde, score, x),
        lambda sde, score, x: sd.AdaptiveSDE(rtol=0.5, atol=0.5, solver=diffrax.ShARK())(
            KEY, sde, score, x
        ),
    ],
    ids=["likelihood", "joint-steps", "encode", "flow", "adaptive", "shark"],
)
def test_a_score_sees_the_batch_inside_every_adaptive_solve(solve):
    """Where a score is evaluated as it runs, its x is (batch, *data), never (1, *data)."""
    batches = set()

    def score(x, t):
        jax.debug.callback(lambda rows: batches.add(rows.shape), x)
        return -x

    solve(sd.VP(), score, jnp.ones((4, 2)))
    jax.effects_barrier()
    assert batches == {(4, 2)}
