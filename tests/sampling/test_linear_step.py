"""The linear step: its formula, and the terms that it leaves out."""

import jax
import jax.numpy as jnp
import numpy as np

from scoresde.keys import example_keys, normal_like
from scoresde.sampling.linear_step import LinearStep, linear_step

KEYS = example_keys(jax.random.key(0), 3)
X = jnp.arange(6.0).reshape(3, 2)
T = jnp.full(3, 0.5)


def fail(x, t):
    raise AssertionError("the score was evaluated")


def test_all_three_terms():
    step = LinearStep(x_coef=2.0, score_coef=3.0, noise_std=0.5)
    got = linear_step(None, None, lambda x, t: -x, KEYS, X, T, T, step)
    np.testing.assert_allclose(got, 2.0 * X - 3.0 * X + 0.5 * normal_like(KEYS, X), rtol=1e-6)


def test_none_leaves_a_term_out():
    identity = LinearStep(x_coef=None, score_coef=None, noise_std=None)
    np.testing.assert_array_equal(linear_step(None, None, fail, KEYS, X, T, T, identity), X)
    noise = LinearStep(x_coef=None, score_coef=None, noise_std=2.0)
    got = linear_step(None, None, fail, KEYS, X, T, T, noise)
    np.testing.assert_allclose(got, X + 2.0 * normal_like(KEYS, X), rtol=1e-6)
