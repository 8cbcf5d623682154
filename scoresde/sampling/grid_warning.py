"""A warning for stochastic multistep solvers on grids that do not suit them."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from scoresde.sampling.grid_sampler import FixedGrid
from scoresde.sampling.time_grid import Times, UniformLogSNR, on_grid
from scoresde.sde.base import SDE


def warn_of_grid(
    settings: FixedGrid, sde: SDE, times: Times, order: int, coefficients: Callable[..., Any]
) -> None:
    """Steps of very unequal length in log SNR, over which a noisy multistep solver extrapolates too far, are told.

    The measure is the solver's own law on Gaussian data: no bound on the steps' ratio tells good grids from bad ones.
    """

    def excess(times):
        return excess_variance(sde, times, on_grid(sde, coefficients, times[:-1], times[1:]))

    own = excess(times)
    if abs(own) < 0.1:
        return
    even = excess(UniformLogSNR()(sde, settings.num_steps, float(times[-1]), settings.start))
    if abs(even) > 0.5 * abs(own):  # steps too long on any grid
        return
    frame, level = sys._getframe(), 1
    while (
        frame.f_back is not None and frame.f_globals.get("__name__", "").split(".")[0] in INTERNAL
    ):
        frame, level = frame.f_back, level + 1
    warnings.warn(
        f"order {order} with eta > 0 on the steps of {settings.grid}: on data N(0, 1/4) their variance is {own:+.0%} "
        f"off, and {even:+.0%} on as many equal steps of log SNR. Write grid=sd.grids.UniformLogSNR().",
        stacklevel=level,
    )


INTERNAL = ("scoresde", "jax", "equinox", "jaxtyping", "beartype", "contextlib")
"""Packages between a sampler and whoever called it."""


def excess_variance(sde: SDE, times: Times, rows: Any) -> float:
    """How far the variance is off after the last step, in parts, on data N(0, 1/4).

    E[x_0 | x] is a multiple of x there and the solver linear: its covariance, of x, base and the last D, is followed.
    """
    alpha, variance = on_grid(sde, lambda t: (sde.alpha(t), sde.variance(t)), times)
    total = 0.25 * alpha**2 + variance
    order, corrected = rows.weights.shape[1], rows.correction.shape[1]
    nodes = max(order, corrected)
    cov = np.zeros((2 + nodes, 2 + nodes))
    cov[:2, :2] = total[0]
    for i in range(len(times) - 1):
        step = np.eye(2 + nodes)
        step[2:] = np.eye(nodes, 2 + nodes, k=1)  # each D takes the place of an older one
        step[2] = 0.25 * alpha[i] / total[i] * np.eye(2 + nodes)[0]
        if corrected:
            step[0] = step[1] + rows.correction[i] @ step[2:]
        step[1] = rows.keep[i] * step[0]
        step[0] = step[1] + rows.weights[i] @ step[2 : 2 + order]
        cov = step @ cov @ step.T
        cov[:2, :2] += rows.spread[i] ** 2
    return float(cov[0, 0] / total[-1] - 1.0)
