"""A warning for stochastic multistep solvers on grids over which they extrapolate too far.

The measure is the solver's own law on Gaussian data, where E[x_0 | x] is a multiple of x and the
solver is linear. No bound on the ratio of neighbouring steps tells good grids from bad ones.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jax import Array

from scoresde import checks
from scoresde.sampling.on_grid import Times, on_grid
from scoresde.sampling.time_grid import UniformLogSNR
from scoresde.sde.base import SDE

DATA_VARIANCE = 0.25


def warn_of_grid(sampler: Any, sde: SDE, times: Times, order: int) -> None:
    """Warns if the sampler's grid makes the variance of its samples wrong, and equal steps of log
    SNR would not."""
    own = _excess(sampler, sde, times)
    if abs(own) < 0.1:
        return

    grid = UniformLogSNR()
    even = _excess(sampler, sde, grid(sde, len(times) - 1, float(times[-1]), sampler.start))
    if abs(even) > 0.5 * abs(own):  # the steps are too long on any grid
        return

    checks.warn(
        f"order {order} with eta > 0 on the steps of {sampler.grid}: on data N(0, 1/4) the "
        f"variance of its samples is {own:+.0%} off, and {even:+.0%} on as many equal steps of "
        "log SNR. Write grid=sd.grids.UniformLogSNR()."
    )


def _excess(sampler: Any, sde: SDE, times: Times) -> float:
    rows = on_grid(type(sampler).coefficients, (sampler,), sde, times[:-1], times[1:])
    return excess_variance(sde, times, rows)


def _alpha_and_variance(sde: SDE, t: Array) -> tuple[Array, Array]:
    return sde.alpha(t), sde.variance(t)


def excess_variance(sde: SDE, times: Times, rows: Any) -> float:
    """Returns by how much the variance is off after the last step, relative to the exact one.

    rows: the steps' coefficients (`exponential.Row`). The covariance that is followed is that of x,
    of the last step without its D, and of the last D.
    """
    alpha, variance = on_grid(_alpha_and_variance, (), sde, times)
    total = DATA_VARIANCE * alpha**2 + variance

    order = rows.data_coefs.shape[1]
    corrected = rows.correction.shape[1]
    nodes = max(order, corrected)
    size = 2 + nodes

    cov = np.zeros((size, size))
    cov[:2, :2] = total[0]
    for i in range(len(times) - 1):
        step = np.eye(size)
        step[2:] = np.eye(nodes, size, k=1)  # each D takes the place of an older one
        step[2] = DATA_VARIANCE * alpha[i] / total[i] * np.eye(size)[0]
        if corrected:
            step[0] = step[1] + rows.correction[i] @ step[2:]
        step[1] = rows.x_coef[i] * step[0]
        step[0] = step[1] + rows.data_coefs[i] @ step[2 : 2 + order]

        cov = step @ cov @ step.T
        cov[:2, :2] += rows.noise_std[i] ** 2
    return float(cov[0, 0] / total[-1] - 1.0)
