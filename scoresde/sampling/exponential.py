"""The exponential integrator in log SNR: one solver whose settings are DDIM, DPM-Solver++ and UniPC."""

from __future__ import annotations

import dataclasses
import sys
import warnings
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from scoresde.sampling.base import Sample, traced
from scoresde.sampling.fixed_grid import (
    FixedGrid,
    GridSettings,
    check_log_snr,
    integrate,
    step_times,
)
from scoresde.sampling.time_grid import AnyGrid, Times, UniformLogSNR, on_grid
from scoresde.sde.base import SDE, denoise
from scoresde.types import Cond, Key, ScoreFn, check_count, check_setting, is_concrete, normal_like

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


@dataclasses.dataclass(frozen=True)
class DDIM(LogSNRSettings):
    """DDIM (Song et al. 2021, arXiv:2010.02502, Eq. 12), between the deterministic sampler and the ancestral one:

        x_s = alpha_s D + sqrt(sigma_s^2 - v) eps_hat + sqrt(v) z,   v = eta^2 (1 - e^{-2h}) sigma_s^2

    D = E[x_0 | x_t] and eps_hat = (x_t - alpha_t D) / sigma_t. eta = 1 is `Ancestral` with its posterior variance. The
    exponential integrator of order 1. Evaluations: num_steps, one more with `denoise`.

    Raises:
        ValueError: if eta lies outside [0, 1], num_steps < 1, not 0 <= t_min < start <= 1, or log SNR is infinite at
            t_min.
    """

    eta: float = 0.0
    """0: deterministic. 1: ancestral."""
    num_steps: int = 20
    """Steps from start to t_min, an evaluation each."""

    def __post_init__(self):
        super().__post_init__()
        check_solver(1, self.eta)

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

        def eta(h):  # of the exponential integrator: e^{-2 eta h} = 1 - eta_D^2 + eta_D^2 e^{-2h}
            return -jnp.logaddexp(jnp.log1p(-(self.eta**2)), 2.0 * jnp.log(self.eta) - 2.0 * h) / (
                2.0 * h
            )

        return exponential(self, key, sde, score, x1, cond, 1, eta, is_noisy(self.eta))


@dataclasses.dataclass(frozen=True)
class DPMSolverPP(LogSNRSettings):
    """DPM-Solver++ (Lu et al. 2022, arXiv:2211.01095), multistep: `Exponential` of this order, without corrector.

    order 2, weights "midpoint": the official 2M, and its SDE form with eta = 1. order 3 is the integral itself: the
    official 3M halves the quadratic term and is of order 2. Evaluations: num_steps, one more with `denoise`.

    Raises:
        ValueError: as `Exponential`.
    """

    order: int = 2
    """1, 2 or 3."""
    num_steps: int = 20
    """Steps from start to t_min, an evaluation each."""
    eta: float = 0.0
    """0: DPM-Solver++. 1: SDE-DPM-Solver++."""
    weights: Weights = "exact"
    """Of order 2: the integrals, or their midpoint rule."""

    def __post_init__(self):
        super().__post_init__()
        _ = self.solver

    @property
    def solver(self) -> Exponential:
        """The exponential integrator that this is."""
        return Exponential(order=self.order, eta=self.eta, weights=self.weights, **shared(self))

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
        return self.solver(key, sde, score, x1, cond)


@dataclasses.dataclass(frozen=True)
class UniPC(LogSNRSettings):
    """UniPC (Zhao et al. 2023, arXiv:2302.04867): `Exponential` of this order for the ODE, with corrector.

    Order p + 1. The weights are the integrals: the paper's, whose B(h) cancels wherever it solves for all of them (its
    code rounds one to 1/2 at p = 1 and 2). Evaluations: num_steps, one more with `denoise`.

    Raises:
        ValueError: as `Exponential`.
    """

    order: int = 2
    """p, of the predictor: 1, 2 or 3."""
    num_steps: int = 20
    """Steps from start to t_min, an evaluation each."""

    def __post_init__(self):
        super().__post_init__()
        _ = self.solver

    @property
    def solver(self) -> Exponential:
        """The exponential integrator that this is."""
        return Exponential(order=self.order, corrector=True, **shared(self))

    def __call__(
        self,
        key: Key,
        sde: SDE,
        score: ScoreFn,
        x1: Float[Array, " batch *data"],
        cond: Cond = None,
    ) -> Sample:
        """Integrate x1 at t = start down to t_min; the key is not used. cond: leaves (batch, ...).

        Raises:
            ValueError: if x1 has no batch axis, or a condition does not match it.
        """
        return self.solver(key, sde, score, x1, cond)


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
    check_count("order", order)
    if order > 3:
        raise ValueError(
            f"order = {order}: wanted 1, 2 or 3. Higher orders of multistep methods are not stable here."
        )
    check_setting("eta", eta, 0.0)
    if is_concrete(eta) and eta > 1.0:
        raise ValueError(
            f"eta = {eta}: wanted it in [0, 1], 0 for the ODE and 1 for the reverse-time SDE."
        )
    if weights not in ("exact", "midpoint"):
        raise ValueError(f"weights is {weights!r}: wanted 'exact' or 'midpoint'.")
    if weights == "midpoint" and (order != 2 or corrector):
        raise ValueError(
            f"midpoint weights are those of order 2 without corrector, not of order {order}"
            f"{' with one' if corrector else ''}: write weights='exact'."
        )


def warn_of_grid(
    settings: FixedGrid, sde: SDE, times: Times, order: int, coefficients: Callable[..., Row]
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
        f"off, and {even:+.0%} on as many equal steps of log SNR. Write grid=sd.UniformLogSNR().",
        stacklevel=level,
    )


INTERNAL = ("scoresde", "jax", "equinox", "jaxtyping", "beartype", "contextlib")
"""Packages between a sampler and whoever called it."""


def excess_variance(sde: SDE, times: Times, rows: Row) -> float:
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


_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(64)


def adams_weights(
    start: Array, end: Array, rate: Array, order: int, new: Array | None = None
) -> Array:
    """c_j = int_start^end rate e^{-rate (end - u)} l_j(u) du of every step, (steps, order), by Gauss-Legendre.

    start, end, rate: (steps,), lambda at a step's ends and 1 + eta. Nodes: lambda at the last `order` starts, newest
    first; as many as there are, the other weights zero. new: one more node, before them.
    """
    steps, extra = len(start), 0 if new is None else 1
    u = 0.5 * (
        _NODES + 1.0
    )  # on [0, 1]; the quadrature keeps every digit, closed forms cancel for short steps
    h = end - start
    kernel = 0.5 * _WEIGHTS * (rate * h)[:, None] * jnp.exp(-(rate * h)[:, None] * (1.0 - u))
    places = start[:, None] + h[:, None] * u
    rows = []
    for count in range(
        1, order + 1
    ):  # steps that have `count` nodes: the first ones fewer than order
        of = np.arange(count - 1, min(count, steps) if count < order else steps)
        nodes = [start[of - j] for j in range(count)]
        nodes = nodes if new is None else [new[of], *nodes]
        found = []
        for j, node in enumerate(nodes):
            others = [other for m, other in enumerate(nodes) if m != j]
            basis = jnp.ones_like(places[of])
            for other in others:
                basis = basis * (places[of] - other[:, None]) / (node - other)[:, None]
            found.append(jnp.sum(kernel[of] * basis, axis=1))
        row = jnp.stack(found, axis=1)
        rows.append(jnp.pad(row, ((0, 0), (0, order + extra - row.shape[1]))))
    return jnp.concatenate(rows)


def midpoint_weights(start: Array, end: Array, rate: Array, order: int) -> Array:
    """Of order 2: D_t + (D_t - D_prev) / (2 r), r = h_prev / h, times 1 - e^{-rate h}; the first step has D_t alone."""
    h = end - start
    ratio = jnp.concatenate([jnp.zeros(1), h[1:] / h[:-1]])
    total = -jnp.expm1(-rate * h)
    return jnp.stack([total * (1.0 + 0.5 * ratio), -0.5 * total * ratio], axis=1)
