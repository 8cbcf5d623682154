"""VE: its settings."""

import jax
import jax.numpy as jnp
import pytest

import scoresde as sd


def test_settings_pass_through_jit():
    t = jnp.asarray(0.4)
    sigma = jax.jit(lambda sde: sde.sigma(t))(sd.VE(0.1, 10.0))
    assert float(sigma) == pytest.approx(0.1 * 100**0.4, rel=1e-6)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: sd.VE(sigma_min=0.0), "sigma_min"),
        (lambda: sd.VE(sigma_min=50.0, sigma_max=50.0), "not below sigma_max"),
    ],
)
def test_bad_settings_are_refused_with_the_reason(build, message, unchecked):
    with pytest.raises(ValueError, match=message):
        build()
