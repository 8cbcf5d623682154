"""The probability flow by an adaptive solver."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gaussian import gaussian_score

import scoresde as sd

KEY = jax.random.key(0)


def test_probability_flow_is_the_exact_map_on_gaussian_data(long_sde, x64):
    """It is linear: alpha m + (x_1 - alpha_1 m) sqrt(total(t_min) / total(1))."""
    m = 0.7
    v = 0.25
    t_min = 1e-3
    x1 = long_sde.prior_sample(jax.random.key(0), (16, 3))
    alpha = long_sde.alpha(jnp.asarray([t_min, 1.0]))
    sigma2 = long_sde.variance(jnp.asarray([t_min, 1.0]))
    total = alpha**2 * v + sigma2
    want = alpha[0] * m + (x1 - alpha[1] * m) * jnp.sqrt(total[0] / total[1])
    variable = sd.variables.InLogSNR()
    if isinstance(long_sde, sd.VP | sd.VE):
        variable = sd.variables.InTime()
    if long_sde.ends_in_noise:
        variable = sd.variables.InNoiseToSignal()
    sampler = sd.ProbabilityFlow(
        rtol=1e-10, atol=1e-10, t_min=t_min, denoise=False, variable=variable
    )
    out = sampler(jax.random.key(0), long_sde, gaussian_score(long_sde, m, v), x1)
    np.testing.assert_allclose(out.x, want, atol=1e-8)


def test_too_few_steps_allowed_is_a_failure_not_a_plausible_state(mixture):
    sde = sd.VP()
    with pytest.warns(UserWarning, match="did not reach"):
        out = sd.sample(
            jax.random.key(0), sd.ProbabilityFlow(max_steps=3), sde, mixture.score(sde), (4, 2)
        )
    assert not out.success.any()
    assert jnp.isnan(out.x).all()


def test_infinite_log_snr_is_refused(mixture):
    with pytest.raises(ValueError, match="infinite log SNR"):
        sd.sample(
            KEY,
            sd.ProbabilityFlow(t_min=0.0, variable=sd.variables.InLogSNR()),
            sd.VP(),
            mixture.score(sd.VP()),
            (3, 2),
        )


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: sd.ProbabilityFlow(rtol=0.0), ValueError, "rtol"),
        (lambda: sd.ProbabilityFlow(t_min=-0.1), ValueError, "t_min"),
    ],
)
def test_bad_calls_are_refused_with_the_reason(call, error, message, unchecked):
    with pytest.raises(error, match=message):
        call()
