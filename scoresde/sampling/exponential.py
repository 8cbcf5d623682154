"""The exponential integrator in log SNR: one solver whose settings are DDIM, DPM-Solver++ and UniPC."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from scoresde import checks
from scoresde.checks import is_concrete
from scoresde.keys import normal_like
from scoresde.sampling.adams import adams_weights, midpoint_weights
from scoresde.sampling.base import Sample, traced
from scoresde.sampling.grid_sampler import (
    FixedGrid,
    GridSettings,
    check_log_snr,
    integrate,
    step_times,
)
from scoresde.sampling.grid_warning import warn_of_grid
from scoresde.sampling.time_grid import AnyGrid, UniformLogSNR
from scoresde.sde.base import SDE, denoise
from scoresde.types import Cond, Key, ScoreFn

Weights = Literal["exact", "midpoint"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogSNRSettings(GridSettings):
    """The settings of samplers that step in log SNR."""

    grid: AnyGrid = UniformLogSNR()
    """Where the steps lie."""


@dataclasses.dataclass(frozen=True)
class Exponential(LogSNRSettings):
    """The exponential Adams method in lambda = log(alpha / sigma), step t → s, h = lambda_s - lambda_t > 0:

        x_s = (sigma_s / sigma_t) e^{-eta h} x_t + alpha_s sum_j c_j D_j + sigma_s sqrt(1 - e^{-2 eta h}) z
        c_j = int_{lambda_t}^{lambda_s} (1 + eta) e^{-(1 + eta)(lambda_s - u)} l_j(u) du

    D_j = E[x_0 | x] at the last `order` times, l_j the Lagrange polynomials through them; the law is that of
    dx = [f x - (1 + eta)/2 g^2 score] dt + sqrt(eta) g dw. Lu et al. 2022 (arXiv:2211.01095), Zhao et al. 2023
    (arXiv:2302.04867), Xue et al. 2023 (arXiv:2309.05019). The first steps have as many D as there are, and their lower
    order: it does not show where sampling starts at the prior, and E[x_0 | x] hardly moves.

    corrector: the step t → s once more, with D at the predicted x_s among the nodes: one order higher for no
    evaluation, as the next step needs it anyway; a path holds the states as predicted. weights "midpoint" (order 2):
    D_t + (D_t - D_prev) h / (2 h_prev) at every u, as in the official DPM-Solver++(2M); the same order. Evaluations:
    num_steps, one more with `denoise`.

    Raises:
        ValueError: if order is not 1, 2 or 3, eta lies outside [0, 1], weights is neither, "midpoint" is asked of
            another order than 2 or of a corrector, num_steps < 1, not 0 <= t_min < start <= 1, or log SNR is infinite
            at t_min.
    """

    num_steps: int = 20
    """Steps from start to t_min, an evaluation each."""
    order: int = 2
    """Nodes of a step: 1, 2 or 3."""
    eta: float = 0.0
    """0: the probability-flow ODE. 1: the reverse-time SDE."""
    corrector: bool = False
    """Correct each step with the evaluation at its end."""
    weights: Weights = "exact"
    """Of order 2: the integrals, or their midpoint rule."""

    def __post_init__(self):
        super().__post_init__()
        check_solver(self.order, self.eta, self.weights, self.corrector)

    def __call__(
        self,
        key: Key,
        sde: SDE,
        score: ScoreFn,
        x1: Float[Array, " batch *data"],
        cond: Cond = None,
    ) -> Sample:
        """Integrate x1 at t = start down to t_min. key: one, or one per example; cond: leaves (batch, ...).

        Raises:
            ValueError: if x1 has no batch axis, or a key or condition does not match it.
        """
        check_log_snr(self, sde)
        return exponential(
            self,
            key,
            sde,
            score,
            x1,
            cond,
            self.order,
            lambda h: self.eta,
            is_noisy(self.eta),
            self.corrector,
            self.weights,
        )


def shared(settings: LogSNRSettings) -> dict:
    """num_steps and the settings of every sampler in log SNR, as keywords."""
    names = ("num_steps", *(field.name for field in dataclasses.fields(LogSNRSettings)))
    return {name: getattr(settings, name) for name in names}


def is_noisy(eta: float) -> bool:
    """Whether steps draw noise; with a traced eta they do, scaled by what it is."""
    return not is_concrete(eta) or float(eta) > 0.0


# --- Checks ---


def check_solver(order: int, eta: float, weights: str = "exact", corrector: bool = False) -> None:
    """Order 1, 2 or 3; eta in [0, 1]; midpoint weights for what has them."""
    checks.count("order", order)
    if order > 3:
        raise ValueError(
            f"order = {order}: wanted 1, 2 or 3. Higher orders of multistep methods are not stable here."
        )
    checks.setting("eta", eta, "[0, 1]")
    if weights not in ("exact", "midpoint"):
        raise ValueError(f"weights is {weights!r}: wanted 'exact' or 'midpoint'.")
    if weights == "midpoint" and (order != 2 or corrector):
        raise ValueError(
            f"midpoint weights are those of order 2 without corrector, not of order {order}"
            f"{' with one' if corrector else ''}: write weights='exact'."
        )


# --- The solver ---


class Row(NamedTuple):
    """What a step t → s multiplies: x, the D at its nodes, the noise; and the D that correct the step before."""

    keep: Array
    weights: Array
    spread: Array
    correction: Array


def exponential(
    settings: FixedGrid,
    key: Key,
    sde: SDE,
    score: ScoreFn,
    x1: Array,
    cond: Cond,
    order: int,
    eta: Callable[[Array], Array | float],
    noisy: bool,
    corrector: bool = False,
    weights: Weights = "exact",
) -> Sample:
    """The scan: settings give grid and end, eta is a function of the steps h."""

    def coefficients(t, s):
        start, end = 0.5 * sde.log_snr(t), 0.5 * sde.log_snr(s)
        h = end - start
        level = jnp.broadcast_to(eta(h), h.shape)
        rate, alpha, sigma = 1.0 + level, sde.alpha(s)[:, None], sde.sigma(s)
        find = midpoint_weights if weights == "midpoint" else adams_weights
        correction = jnp.zeros((len(h), 0))
        if corrector:  # of the step before: the first step has none
            found = alpha * adams_weights(start, end, rate, order, end)
            correction = jnp.concatenate([jnp.zeros((1, order + 1)), found[:-1]])
        return Row(
            keep=jnp.exp(-level * h) * sigma / sde.sigma(t),
            weights=alpha * find(start, end, rate, order),
            spread=sigma * jnp.sqrt(-jnp.expm1(-2.0 * level * h)),
            correction=correction,
        )

    def step(score, keys, state, t, s, row):
        x, (base, known) = state  # base: x without what D added to it in the step before
        known = [denoise(sde, score, x, t, cond), *known]
        if corrector:
            x = base + combine(row.correction, known)
        base = row.keep * x
        if noisy:
            base = base + row.spread * normal_like(keys, x)
        return base + combine(row.weights, known), (base if corrector else None, known[:remembered])

    times = step_times(settings, sde)
    if (
        noisy
        and order + corrector > 1
        and is_concrete(*jax.tree.leaves(sde), times)
        and not traced(settings)
    ):
        warn_of_grid(settings, sde, times, order, coefficients)
    remembered = order - 1 + corrector
    memory = lambda x: (x if corrector else None, [jnp.zeros_like(x)] * remembered)  # noqa: E731
    return integrate(settings, key, sde, score, x1, cond, coefficients, step, 1, times, memory)


def combine(weights: Array, states: list[Array]) -> Array:
    """sum_j weights_j states_j, for as many as there are weights."""
    return sum((weights[j] * states[j] for j in range(weights.shape[0])), jnp.zeros_like(states[0]))
