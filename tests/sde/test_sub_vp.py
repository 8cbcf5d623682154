"""Sub-VP: its range of log SNR, and its settings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import scoresde as sd


def test_its_range_of_log_snr_is_the_reference_sheets():
    """The total mass of the likelihood weighting on [1e-5, 1], as computed elsewhere."""
    sde = sd.SubVP()
    mass = float(sde.log_snr(1e-5) - sde.log_snr(1.0))
    assert mass == pytest.approx(37.6789, abs=2e-4)


def test_settings_pass_through_vmap():
    t = jnp.asarray(0.4)
    many = jax.vmap(lambda b: sd.SubVP(beta_max=b).sigma(t))(jnp.asarray([5.0, 10.0]))
    one_by_one = [sd.SubVP(beta_max=b).sigma(t) for b in (5.0, 10.0)]
    np.testing.assert_allclose(many, one_by_one, rtol=1e-6)


def test_bad_settings_are_refused_with_the_reason(unchecked):
    with pytest.raises(ValueError, match="beta_max"):
        sd.SubVP(beta_max=float("nan"))
