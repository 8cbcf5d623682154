"""Sub-VP: its settings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import scoresde as sd


def test_settings_pass_through_vmap():
    t = jnp.asarray(0.4)
    many = jax.vmap(lambda b: sd.SubVP(beta_max=b).sigma(t))(jnp.asarray([5.0, 10.0]))
    one_by_one = [sd.SubVP(beta_max=b).sigma(t) for b in (5.0, 10.0)]
    np.testing.assert_allclose(many, one_by_one, rtol=1e-6)


def test_bad_settings_are_refused_with_the_reason(unchecked):
    with pytest.raises(ValueError, match="beta_max"):
        sd.SubVP(beta_max=float("nan"))
