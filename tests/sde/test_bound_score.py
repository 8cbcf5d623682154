"""A bound score: its condition, its precision, Tweedie's formula, and the shapes it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import scoresde as sd
from scoresde.sde.bound_score import bind

KEY = jax.random.key(0)


def test_tweedie_is_the_exact_denoiser(any_sde, mixture):
    """The mixture's own denoiser is Gaussian conditioning; here the score alone is given."""
    x = mixture.sample(KEY, 16)
    exact = mixture.score(any_sde)
    t = jnp.linspace(0.05, 0.9, 16)
    bound = bind(any_sde, lambda x, t: exact(x, t))
    np.testing.assert_allclose(bound.denoise(x, t), exact.denoise(x, t), rtol=2e-3, atol=2e-3)


def test_the_offered_denoiser_comes_first():
    class Offering:
        def __call__(self, x, t):
            return -x

        def denoise(self, x, t):
            return x + 7.0

    x = jnp.ones((2, 3))
    np.testing.assert_array_equal(bind(sd.VP(), Offering()).denoise(x, jnp.ones(2)), x + 7.0)


def test_a_condition_is_bound_and_none_is_not_passed():
    x = jnp.ones((2, 3))
    t = jnp.ones(2)
    np.testing.assert_array_equal(bind(sd.VP(), lambda x, t: -x)(x, t), -x)
    scale = jnp.asarray([1.0, 2.0])
    score = bind(sd.VP(), lambda x, t, cond: cond[:, None] * x, scale)
    np.testing.assert_array_equal(score(x, t), scale[:, None] * x)


def test_a_narrow_score_sees_its_own_precision_and_returns_that_of_the_state():
    seen = []

    def score(x, t):
        seen.append(x.dtype)
        return -x

    out = bind(sd.VP(), score, dtype=jnp.bfloat16)(jnp.ones((2, 3)), jnp.ones(2))
    assert seen == [jnp.bfloat16]
    assert out.dtype == jnp.float32


def test_another_shape_is_refused(unchecked):
    score = bind(sd.VP(), lambda x, t: x[:, :1])
    with pytest.raises(ValueError, match=r"the score returned shape \(2, 1\).*reshape"):
        score(jnp.ones((2, 2)), jnp.ones(2))
