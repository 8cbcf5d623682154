"""Increments, derivatives and roots against their closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scoresde.sde.calculus import derivative, increment, sqrt_or_zero


@pytest.mark.parametrize("moves_by", [1e-12, 1e-3, 0.5, 0.999, 1.001, 5.0])
def test_an_increment_of_a_logarithm_keeps_its_digits(moves_by, x64):
    """log(t) - log(s) = moves_by for t = s exp(moves_by), down to s where the logarithm ends."""
    s = jnp.asarray([1e-6, 1e-3, 0.006])
    t = s * jnp.exp(moves_by)
    want = np.log1p(np.asarray((t - s) / s))
    np.testing.assert_allclose(increment(jnp.log, s, t), want, rtol=1e-13)

    # The same at the other end, as log alpha has where alpha(1) = 0.
    early = 1.0 - t
    late = 1.0 - s
    want = np.log1p(np.asarray((early - late) / (1.0 - early)))
    np.testing.assert_allclose(increment(lambda u: jnp.log(1.0 - u), early, late), want, rtol=1e-9)


def test_no_increment_is_zero_even_where_the_function_is_infinite():
    assert float(increment(jnp.log, jnp.asarray(0.0), jnp.asarray(0.0))) == 0.0


def test_the_derivative_is_elementwise(x64):
    t = jnp.linspace(0.1, 2.0, 5)
    np.testing.assert_allclose(derivative(jnp.sin, t), jnp.cos(t), rtol=1e-14)


def test_the_root_of_zero_has_a_finite_derivative():
    """And a negative variance, which no rounding explains, is not hidden."""
    np.testing.assert_array_equal(
        sqrt_or_zero(jnp.asarray([0.0, 4.0, -1.0])), np.array([0.0, 2.0, np.nan])
    )
    assert float(jax.grad(sqrt_or_zero)(0.0)) == 0.0
    assert float(jax.grad(sqrt_or_zero)(4.0)) == 0.25
