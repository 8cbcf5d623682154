"""The standard error of a mean likelihood, split into its sources by one-way analysis of variance.

    y_ir = mean + e_i + d_ir + p_ir                                            (Eq. 1)
    mean_i var_r(y_ir) = v_d + v_p                                             (Eq. 2)
    v_p = mean(probe_stderr^2)                                                 (Eq. 3)
    var_i(mean_r y_ir) = v_e + (v_d + v_p) / R                                 (Eq. 4)
    stderr^2 = var_i(mean_r y_ir) / n = v_e / n + v_d / (n R) + v_p / (n R)    (Eq. 5)

y_ir is the value of example i of n in repeat r of R. Its error has a part e_i of the example,
d_ir of the dequantisation and p_ir of the probes, with variances v_e, v_d and v_p.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from jaxtyping import Float


@dataclasses.dataclass(frozen=True)
class ErrorSplit:
    """A mean over examples and repeats, its standard error, and the parts of that error.

    stderr^2 is the sum of the squared parts (Eq. 5). A part is None if the draws cannot tell:
    one repeat does not separate dequantisation from examples, and one probe does not separate
    the probes from dequantisation.
    """

    mean: float
    stderr: float
    examples: float | None
    """The part that comes from the finite number of examples."""
    dequantization: float | None
    """The part that comes from dequantising each example a finite number of times."""
    probes: float | None
    """The part that comes from probing the divergence."""


def split_error(
    values: Float[np.ndarray, "examples repeats"],
    probe_stderr: Float[np.ndarray, "examples repeats"] | None,
    dequantized: bool = True,
) -> ErrorSplit:
    """Returns the mean of the values and its standard error, split by Eq. 5.

    A variance that is estimated below zero counts as zero, and the others share what is left.

    Args:
        values: y_ir, without the examples that failed.
        probe_stderr: the standard error of each value over probes; None if it is not known.
        dequantized: whether the examples were dequantised; if not, v_d is zero.

    Raises:
        ValueError: if there is no example, or a value is NaN or infinite.
    """
    n = len(values)
    if n < 1 or not np.all(np.isfinite(values)):
        raise ValueError(
            f"values have shape {values.shape}: wanted at least one example, and none that failed. "
            f"Write values[np.isfinite(values).all(axis=1)]."
        )

    means = values.mean(axis=1)
    total = float(np.var(means, ddof=1)) if n > 1 else math.nan  # Eq. 4

    # (v_d + v_p) / R and v_p / R, each at most what it is a part of.
    within = _within(values)
    if within is not None and n > 1:
        within = min(within, total)
    probes = _probes(probe_stderr)
    if probes is not None and within is not None:
        probes = min(probes, within)
    elif probes is not None and n > 1:
        probes = min(probes, total)

    # Without dequantisation, whatever varies within an example comes from the probes.
    if not dequantized:
        within = probes if within is None else within
        probes = within

    draws = None if within is None or probes is None else within - probes
    examples = None if within is None or n == 1 else total - within
    return ErrorSplit(
        mean=float(means.mean()),
        stderr=math.sqrt(total / n),
        examples=_part(examples, n),
        dequantization=_part(draws, n) if dequantized else 0.0,
        probes=_part(probes, n),
    )


def _within(values: np.ndarray) -> float | None:
    """(v_d + v_p) / R (Eq. 2), or None if there is one repeat."""
    repeats = values.shape[1]
    if repeats == 1:
        return None
    return float(np.mean(np.var(values, axis=1, ddof=1))) / repeats


def _probes(probe_stderr: np.ndarray | None) -> float | None:
    """v_p / R (Eq. 3), or None if the error over probes is not known."""
    if probe_stderr is None:
        return None
    return float(np.mean(probe_stderr**2)) / probe_stderr.shape[1]


def _part(variance: float | None, n: int) -> float | None:
    """The part of the standard error that belongs to a variance in Eq. 4."""
    return None if variance is None else math.sqrt(variance / n)
