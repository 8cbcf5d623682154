"""Weightings: one law for the likelihood's, and it is counted once."""

import warnings

import jax
import jax.numpy as jnp
import pytest
from gaussian import exact_loss
from scipy import integrate

import scoresde as sd

N = 40_000
D = 3
V = 0.25


def test_likelihood_weighting_is_uniform_log_snr_with_the_plain_loss(sde):
    """(1/2) ∫ g^2 |s - s*|^2 dt = (1/2) ∫ |eps error|^2 d gamma, by quadrature of the closed-form
    loss.
    """
    with jax.enable_x64(True):
        t_min = 1e-3
        plain = lambda t: float(exact_loss(D, sde, t, V))  # noqa: E731
        weight = lambda t: float(sd.weightings.Likelihood()(sde, jnp.asarray([t]))[0])  # noqa: E731
        in_time = integrate.quad(lambda t: weight(t) * plain(t), t_min, 1.0, limit=200)[0]
        ends = [-float(sde.log_snr(t)) for t in (t_min, 1.0)]
        in_log_snr = integrate.quad(
            lambda g: plain(float(sde.time_from_log_snr(-g))), *ends, limit=200
        )[0]
    assert in_time == pytest.approx(in_log_snr, rel=1e-6)


def test_the_likelihood_weighting_is_not_counted_twice():
    """By the times and the weighting: 1e4 times the loss for VP, all of it next to t_min."""
    with pytest.warns(UserWarning, match="counts it twice"):
        sd.Training(times=sd.times.LogSNR(), weighting=sd.weightings.Likelihood())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sd.Training(times=sd.times.LogSNR())
        sd.Training(weighting=sd.weightings.Likelihood())
