"""Truncated-normal dequantisation: the paper's constants, the warning's advice, refusals.

That draws follow their density is tested for both dequantisations in tests/data.
"""

import jax
import jax.numpy as jnp
import pytest

import scoresde as sd

KEY = jax.random.key(0)


def test_truncated_normal_has_zhengs_constants():
    """8-bit data on [-1, 1]: centres 2(k + 1/2)/256 - 1, tau = alpha / (256 sigma)."""
    dequantize = sd.TruncatedNormalDequantization(sd.VP(), 1e-5)
    z = dequantize(KEY, jnp.asarray([[0.0], [255.0]]))
    alpha = float(sd.VP().alpha(1e-5))
    sigma = float(sd.VP().sigma(1e-5))
    tau = alpha / (256 * sigma)
    assert abs(float(z[0, 0]) + alpha * 255 / 256) <= sigma * tau * 1.001
    assert abs(float(z[1, 0]) - alpha * 255 / 256) <= sigma * tau * 1.001


@pytest.mark.parametrize("sde", [sd.VP(), sd.SubVP(), sd.VE()], ids=["vp", "subvp", "ve"])
def test_the_warning_of_spikes_names_a_t_min_that_works(sde, recwarn):
    """17 levels at t_min = 1e-5.

    At the t_min that is named, to its one digit, half a bin is about 3 standard deviations.
    """
    sd.TruncatedNormalDequantization(sde, 1e-5, 17)
    (warning,) = recwarn
    t_min = float(str(warning.message).split("t_min = ")[-1].split()[0])

    recwarn.clear()
    sd.TruncatedNormalDequantization(sde, t_min, 17)
    assert not list(recwarn)
    assert float(sde.alpha(t_min) / sde.sigma(t_min)) / 17 == pytest.approx(3.0, rel=0.5)


def test_many_levels_stay_in_their_bins():
    """10 000 levels, where the rounding of z is a part of the bin: every log q is finite."""
    dequantize = sd.TruncatedNormalDequantization(sd.VP(), levels=10_000)
    k = jnp.arange(0, 10_000, 7)[:, None]
    assert bool(jnp.isfinite(dequantize.log_prob(dequantize(KEY, k), k)).all())


@pytest.mark.usefixtures("unchecked")
def test_bad_calls_are_refused():
    with pytest.raises(ValueError, match="t_min"):
        sd.TruncatedNormalDequantization(sd.VP(), 0.0)
    with pytest.raises(ValueError, match="levels"):
        sd.TruncatedNormalDequantization(sd.VP(), levels=1)
    with pytest.raises(ValueError, match="not below"):
        sd.TruncatedNormalDequantization(sd.VP(), low=1.0, high=0.0)

    dequantize = sd.TruncatedNormalDequantization(sd.VP(), 3e-3, 16)
    with pytest.raises(ValueError, match="0 … 15"):
        dequantize(KEY, jnp.full((2, 1), 16.0))
