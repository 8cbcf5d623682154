"""VP: its settings, and the SDE through a table of DDPM."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import scoresde as sd


def test_settings_are_differentiable():
    """A gradient may be negative: rebuilding never checks ranges."""
    t = jnp.asarray(0.4)
    slope = jax.grad(lambda sde: sde.log_alpha(t))(sd.VP())
    assert isinstance(slope, sd.VP)
    want = [-(t - t**2 / 2) / 2, -(t**2) / 4]
    np.testing.assert_allclose([slope.beta_min, slope.beta_max], want, rtol=1e-6)
    assert dataclasses.replace(sd.VP(), beta_max=15.0) == sd.VP(0.1, 15.0)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: sd.VP(beta_min=-0.1), "beta_min = -0.1 is out of range"),
        (lambda: sd.VP(beta_min=30.0), "above beta_max"),
        (lambda: sd.VP(beta_max=0.0), "beta_max"),
    ],
)
def test_bad_settings_are_refused_with_the_reason(build, message, unchecked):
    with pytest.raises(ValueError, match=message):
        build()


def test_the_tabulated_sde_is_one(x64):
    """beta is the derivative of B, and transitions compose across the table's cells.

    Short transitions in float32 keep their digits.
    """
    sde = sd.DDPM.cosine(20).to_sde()
    t = jnp.linspace(0.013, 0.987, 40)  # none on a cell's edge
    s = jnp.full(40, 0.003)
    r = 0.5 * (t + 0.003)
    beta, slope = jax.jit(lambda t: (sde.rate.beta(t), jax.vmap(jax.grad(sde.rate.integral))(t)))(t)
    np.testing.assert_allclose(beta, slope, rtol=1e-9)
    transition = jax.jit(sde.transition)
    (c1, v1), (c2, v2), (c, v) = transition(s, r), transition(r, t), transition(s, t)
    np.testing.assert_allclose(c1 * c2, c, rtol=1e-12)
    np.testing.assert_allclose(c2**2 * v1**2 + v2**2, v**2, rtol=1e-10)
    short = transition(jnp.float32(0.41), jnp.float32(0.41 + 1e-5))[1]
    gap = float(jnp.float32(0.41 + 1e-5) - jnp.float32(0.41))
    assert float(short) == pytest.approx(
        np.sqrt(-np.expm1(-float(sde.rate.beta(0.41)) * gap)), rel=1e-4
    )
