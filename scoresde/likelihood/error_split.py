"""The standard error of a mean likelihood, split into its sources."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from jaxtyping import Float

# --- Where the error comes from ---


@dataclasses.dataclass(frozen=True)
class ErrorSplit:
    """A mean over examples and repeats, its standard error, and the shares of that error: stderr^2 is their sum.

    None where the draws do not tell: one repeat does not separate dequantisation from examples, nor one probe from
    dequantisation.
    """

    mean: float
    stderr: float
    examples: float | None
    """Because the set is finite: another set of examples."""
    dequantization: float | None
    """Because each example is dequantised a finite number of times."""
    probes: float | None
    """Because the divergence is probed."""


def split_error(
    values: Float[np.ndarray, "examples repeats"],
    probe_stderr: Float[np.ndarray, "examples repeats"],
    dequantized: bool = True,
) -> ErrorSplit:
    """Variance components of y_ir = mean + example_i + dequantization_ir + probe_ir, by one-way analysis of variance:

        within = mean_i var_r(y_ir) = v_d + v_p,   v_p = mean(probe_stderr^2),   var_i(mean_r y_ir) = v_e + within / R
        stderr^2 = var_i(mean_r y_ir) / n = v_e / n + v_d / (n R) + v_p / (n R)

    A variance estimated below zero counts as zero, and the others as what is left.

    dequantized: whether v_d is there at all. Failed examples (NaN) are to be left out before.

    Raises:
        ValueError: if there is no example, or a value is NaN.
    """
    n, repeats = values.shape
    if n < 1 or not np.all(np.isfinite(values)):
        raise ValueError(
            f"values have shape {values.shape}: wanted at least one example, and none that failed."
        )
    means = values.mean(axis=1)
    total = float(np.var(means, ddof=1)) if n > 1 else math.nan
    most = total if n > 1 else math.inf
    within = (
        min(float(np.mean(np.var(values, axis=1, ddof=1))) / repeats, most) if repeats > 1 else None
    )
    known = np.all(np.isfinite(probe_stderr))
    probe = (
        min(float(np.mean(probe_stderr**2)) / repeats, most if within is None else within)
        if known
        else None
    )
    if not dequantized:  # whatever varies within an example is the probes'
        within = probe = probe if within is None else within
    draws = None if within is None or probe is None else within - probe
    example = None if within is None or n < 2 else total - within
    share = lambda v: None if v is None else math.sqrt(v / n)  # noqa: E731
    return ErrorSplit(
        mean=float(means.mean()),
        stderr=math.sqrt(total / n),
        examples=share(example),
        dequantization=share(draws) if dequantized else 0.0,
        probes=share(probe),
    )
