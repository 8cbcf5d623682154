"""The variables of the flow's solvers: inverses and derivatives, against automatic ones."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import scoresde as sd
from scoresde.sde.calculus import derivative

VARIABLES = {
    "in_time": sd.variables.InTime(),
    "in_log_snr": sd.variables.InLogSNR(),
    "in_noise_to_signal": sd.variables.InNoiseToSignal(),
    "scaled": sd.variables.InNoiseToSignal(scale=0.1),
}


@pytest.mark.parametrize("float64", [False, True], ids=["float32", "float64"])
@pytest.mark.parametrize("variable", VARIABLES.values(), ids=VARIABLES.keys())
def test_time_inverts_the_variable_and_has_its_derivative(any_sde, variable, float64):
    """From t_min = 1e-5 to both sides of t = 1; u rises."""
    with jax.enable_x64(float64):
        dtype = jnp.float64 if float64 else jnp.float32
        rtol = 1e-9 if float64 else 2e-4
        t = jnp.asarray([1e-5, 1e-4, 1e-3, 0.01, 0.1, 0.3, 0.6, 0.9, 0.99, 1.0], dtype)

        if any_sde.ends_in_noise and isinstance(variable, sd.variables.InLogSNR):
            t = t[:-1]  # log SNR is infinite there

        u = variable.at(any_sde, t)
        assert u.dtype == dtype
        assert bool(jnp.all(jnp.diff(u) > 0.0))

        again, dt_du = variable.time(any_sde, u)
        np.testing.assert_allclose(again, t, rtol=rtol, atol=1e-6 if not float64 else 0.0)
        du_dt = derivative(lambda t: variable.at(any_sde, t), t)
        np.testing.assert_allclose(dt_du * du_dt, 1.0, rtol=10 * rtol)


def test_noise_to_signal_is_even_in_the_ratio_below_its_scale_and_in_the_logarithm_above():
    """asinh(r / scale): r / scale within its cube's sixth, and log(2 r / scale)."""
    sde = sd.VE(sigma_min=1e-3, sigma_max=1e3)
    variable = sd.variables.InNoiseToSignal(scale=0.5)
    small, large = variable.at(sde, jnp.asarray([0.0, 1.0]))
    np.testing.assert_allclose(small, 2e-3, rtol=1e-5)
    np.testing.assert_allclose(large, np.log(4e3), rtol=1e-5)


@pytest.mark.usefixtures("unchecked")
def test_a_variable_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="scale"):
        sd.variables.InNoiseToSignal(scale=0.0)
    anything: Any = "t"
    with pytest.raises(TypeError, match=r"one of sd\.variables"):
        sd.ProbabilityFlow(variable=anything)
    with pytest.raises(ValueError, match="infinite log SNR"):
        sd.encode(
            sd.VP(), lambda x, t: -x, jnp.ones((2, 2)), t_min=0.0
        )  # the default variable is finite there, its derivative is not
