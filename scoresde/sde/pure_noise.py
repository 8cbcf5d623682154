"""What an SDE that ends in pure noise asks of samplers, likelihoods and losses.

    alpha(1) = 0:   log SNR is -infinity at t = 1, f and g are infinite, and the denoiser of a
                    score, (x + sigma^2 score) / alpha, is 0 / 0
    G(log SNR) = softplus(log SNR + 10)                                              (Eq. 1)

The probability flow and the exponential solvers ask a denoiser there, which is finite (flow.py);
what needs f, g or 1 / alpha begins a little below. EDM's label stops at that of log SNR -10. G is
what is even where log SNR would be: log SNR itself above -10, and finite in all.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

START = 0.999

PURE_NOISE = -60.0
"""The log SNR that stands for that of pure noise, -infinity: e^-60 is 0 beside 1 in float64."""

LITTLE_SIGNAL = -10.0
"""The log SNR that even steps of it begin at after pure noise, about that of VP at t = 1."""


def finite_log_snr(sde: Any, t: Array, lowest: float = PURE_NOISE) -> Array:
    """Returns log SNR, where the SDE ends in pure noise at least `lowest`; like t."""
    if not sde.ends_in_noise:
        return sde.log_snr(t)
    signal = sde.alpha(t) > 0.0
    log_snr = sde.log_snr(jnp.where(signal, t, 0.5))  # so that it has a derivative
    return jnp.where(signal, jnp.maximum(log_snr, lowest), lowest)


def even(sde: Any, log_snr: Array) -> Array:
    """Returns what is evenly spread where log SNR would be: itself, or G (Eq. 1); like log SNR."""
    return jax.nn.softplus(log_snr - LITTLE_SIGNAL) if sde.ends_in_noise else log_snr


def log_snr_of_even(sde: Any, value: Array) -> Array:
    """Returns the log SNR at which `even` has this value; like it."""
    if not sde.ends_in_noise:
        return value
    return LITTLE_SIGNAL + value + jnp.log(-jnp.expm1(-value))


def evenness(sde: Any, log_snr: Array) -> Array:
    """Returns the derivative of `even`, 1 or that of Eq. 1; like log SNR."""
    if not sde.ends_in_noise:
        return jnp.ones_like(log_snr)
    return jax.nn.sigmoid(log_snr - LITTLE_SIGNAL)


def denoises_noise(score: Any) -> bool:
    """Whether a score offers a denoiser that is finite at t = 1: its own attribute of this name, or
    whether it has `denoise`."""
    own = getattr(score, "denoises_noise", None)
    if own is None:
        return getattr(score, "denoise", None) is not None
    return own


def check_denoises_noise(sde: Any, score: Any, start: float) -> None:
    """Refuses to begin or end at t = 1 without a denoiser there, where the SDE ends in pure noise.

    Raises:
        ValueError: if the score has none.
    """
    if sde.ends_in_noise and start == 1.0 and not denoises_noise(score):
        kind = getattr(score, "parameterization", None)
        name = type(score).__name__
        if kind is None and hasattr(score, "denoise"):
            raise ValueError(
                f"{sde} ends in pure noise, alpha(1) = 0, and the denoiser of {name} is infinite "
                f"there: begin below 1, {begin_below()}."
            )
        what = f"{name} has no `denoise`" if kind is None else f"{kind} does not say"
        raise ValueError(
            f"{sde} ends in pure noise, alpha(1) = 0, so x_0 must be known at t = 1, and {what}: "
            f"use a network whose output says it, sd.Flow(), sd.Velocity(), sd.EDM() or sd.Data(), "
            f"or a score with `denoise`. A sampler may begin below 1 instead: {begin_below()}."
        )


def check_coefficients(sde: Any, name: str, start: float) -> None:
    """Refuses to begin at t = 1 with f and g, where the SDE ends in pure noise.

    Raises:
        ValueError: if it does.
    """
    if sde.ends_in_noise and start == 1.0:
        raise ValueError(
            f"{sde} ends in pure noise, alpha(1) = 0, and {name} needs f and g, which are infinite "
            f"at t = 1: take sd.DDIM, sd.DPMSolverPP, sd.UniPC, sd.Exponential or "
            f"sd.ProbabilityFlow, or begin below 1, {begin_below()}."
        )


def begin_below() -> str:
    """Returns how to begin below t = 1."""
    return f"start={START} with x1=sde.sigma({START}) * sde.prior_sample(key, shape)"
