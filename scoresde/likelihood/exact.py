"""Exact log-likelihoods, by the instantaneous change of variables along the probability-flow ODE.

    dx/dt = F(x, t) = f x - 1/2 g^2 score(x, t)                                    (Eq. 1)
    log p_{t_min}(x_0) = log p_1(x_1) + ∫ div F dt over [t_min, 1]                 (Eq. 2)
    F = (log n)' x + R(x, t),   n^2 = alpha^2 + sigma^2                            (Eq. 3)
    ∫ div F dt = D (log n(1) - log n(t_min)) + ∫ div R dt                          (Eq. 4)

The linear part, all of F for data N(0, I), is exact; only the divergence of R is probed
(divergence.py). Song et al. 2021 (arXiv:2011.13456), Eq. 39; Chen et al. 2018.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
from jax import Array
from jaxtyping import Bool, Float, Int

from scoresde import checks
from scoresde.data.real_valued import check_real_valued
from scoresde.keys import fold_in_examples
from scoresde.likelihood.divergence import (
    Divergence,
    ExactDivergence,
    Hutchinson,
    check_divergence,
    jacobian_products,
)
from scoresde.parallel.per_example import per_example
from scoresde.precision import full_precision, precision_of
from scoresde.sampling.flow_solver import MAX_STEPS, FlowSolver
from scoresde.sampling.variables import InNoiseToSignal, Variable
from scoresde.sde.base import SDE, check_sde
from scoresde.sde.bound_score import bind
from scoresde.sde.flow import flow, log_norm, norm_growth
from scoresde.sde.pure_noise import check_denoises_noise
from scoresde.standardization import log_volume, to_model_units
from scoresde.types import Cond, Key, ScoreFn, data_dim, pytree_dataclass, right_pad


@dataclasses.dataclass(frozen=True)
class LikelihoodSettings:
    """How a likelihood was computed: what decides its error, and must be equal where two are
    compared."""

    divergence: Divergence
    flow_solver: FlowSolver
    t_min: float
    joint_steps: bool
    """Whether a chunk has one step size, or each example its own."""
    dtype: str
    """The precision of the solve."""
    own_prior: bool = False
    """Whether a `prior_log_prob` was passed for the law of x_1."""


@pytree_dataclass("settings")
class Likelihood:
    """Log-likelihoods of a batch; rows are NaN where success is False."""

    log_prob: Float[Array, " batch"]
    """Nats."""
    stderr: Float[Array, " batch"] | None
    """Its standard error over probes: None with one probe, 0 for the exact divergence."""
    latent: Float[Array, " batch *data"]
    """x at t = 1."""
    nfe: Int[Array, " batch"]
    """Evaluations of the score and its products; -1 where a solver does not count them."""
    success: Bool[Array, " batch"]
    settings: LikelihoodSettings

    @property
    def failed(self) -> np.ndarray:
        """The rows whose solve did not reach t = 1, to be counted and named, and never averaged
        in."""
        return np.flatnonzero(~np.asarray(self.success))


def log_likelihood(
    key: Key,
    sde: SDE,
    score: ScoreFn,
    x0: Float[Array | np.ndarray, " batch *data"],
    cond: Cond = None,
    divergence: Divergence = Hutchinson(num_probes=1),
    rtol: float = 1e-5,
    atol: float = 1e-5,
    t_min: float = 1e-5,
    prior_log_prob: Callable[[Array], Array] | None = None,
    *,
    solver: Any = None,
    controller: Any = None,
    variable: Variable = InNoiseToSignal(),
    max_steps: int = MAX_STEPS,
    joint_steps: bool = False,
    float64: bool = False,
    batch_size: int | None = None,
    progress: bool = False,
) -> Likelihood:
    """Returns log p(x0) in nats, one per example (Eq. 2), each with its own step control.

    Two gaps to log p_0 remain, and are not hidden in it: x0 is taken as a draw at t_min, and the
    prior replaces p_1 unless `prior_log_prob` (x_1 → (batch,)) gives the end marginal. `gaps`
    returns both. Example i's probes depend on (key, i) alone.

    x0: (batch, *data), in the data's own units, as is the density of log_prob: a model of
        standardised data accounts for the volume. latent is in the model's. cond: leaves
        (batch, ...).
    rtol, atol: per step, of x; the tolerance of log p is atol + rtol D nats. Errors add up over a
        solve: exact scores in float32 come out within 2e-4 bits/dim at 1e-5, and 2e-5 at 1e-6.
    solver, controller: diffrax's; None means Dopri5, and a PIDController of the tolerances. The
        steps of a controller are in `variable`.
    joint_steps: whether a chunk has one step size, by its mean error, as in the published code.
        Rows then depend on each other, to the tolerance, and one that fails fails its chunk.
    float64: whether to solve in it, with the weights cast; the result is float64 too.
    batch_size: examples a chunk. The program is compiled once per shape, with the score's weights
        as arguments; a plain function is static.

    Raises:
        ValueError: if x0 has no batch axis, holds NaN, or whole numbers only, or a setting is out
            of range, as an atol far below rtol is.
        TypeError: if x0 does not hold floating-point numbers, or sde, divergence or solver is not
            one.
    """
    check_sde(sde)
    t_min = checks.fixed("t_min", t_min)
    flow_solver = FlowSolver(solver, rtol, atol, variable, controller, max_steps)
    _check(x0, sde, score, divergence, flow_solver, t_min)
    x0 = to_model_units(score, x0, float64)
    dtype = "float64" if float64 else str(x0.dtype)
    own_prior = prior_log_prob is not None
    settings = LikelihoodSettings(divergence, flow_solver, t_min, joint_steps, dtype, own_prior)

    flow = per_example(
        _integrate,
        settings,
        key,
        sde,
        score,
        x0,
        cond,
        x0.shape[0],
        float64=float64,
        batch_size=batch_size,
        progress=progress,
        what="likelihoods",
        goal="t = 1",
    )

    with precision_of(flow.latent):
        log_prior = (prior_log_prob or sde.prior_log_prob)(flow.latent)
        checks.one_per_example(log_prior, x0, "prior_log_prob")
        log_prob = log_prior + flow.terms - log_volume(score, flow.latent)
        log_prob = jnp.where(flow.success, log_prob, jnp.nan)
    return Likelihood(log_prob, flow.stderr, flow.latent, flow.nfe, flow.success, settings)


def _check(
    x0: Any, sde: SDE, score: ScoreFn, divergence: Any, flow_solver: FlowSolver, t_min: float
) -> None:
    """Checks what only a likelihood knows."""
    check_divergence(divergence)
    checks.batch(x0, "x0")
    checks.setting("t_min", t_min, "[0, 1)")
    check_real_valued(x0, "x0")
    flow_solver.check_start(sde, t_min)
    check_denoises_noise(sde, score, 1.0)
    if flow_solver.atol < 1e-8 * flow_solver.rtol:
        raise ValueError(
            f"atol = {flow_solver.atol:g} is tiny beside rtol = {flow_solver.rtol:g}: write at "
            f"least {1e-8 * flow_solver.rtol:g}."
        )


# --- The solve ---

# Probes that share bits with the dequantisation noise of x0 bias the estimate (digits: by 0.18
# bits/dim), so this number separates their keys from those that the same key gives elsewhere.
PROBES = 0x70726F62

# The terms grow to hundreds of nats, of which a relative tolerance would forgive many, and they are
# one entry among D of the solver's mean: their error has a norm of its own, in nats. diffrax
# divides errors by atol + rtol |y|, so the terms are integrated times a power of two, which leaves
# atol alone there. (In nats per dimension, with rtol, the result is 5 times less exact.)
TINY = 2.0**-40


@pytree_dataclass()
class Flow:
    """The integral of div F, with its standard error, and the end of the flow, per example."""

    terms: Float[Array, " batch"]
    stderr: Float[Array, " batch"] | None
    latent: Float[Array, " batch *data"]
    nfe: Int[Array, " batch"]
    success: Bool[Array, " batch"]


@eqx.filter_jit
def _integrate(
    settings: LikelihoodSettings,
    sde: SDE,
    score: ScoreFn,
    keys: Array,
    x0: Float[Array, " batch *data"],
    cond: Cond,
) -> Flow:
    """Integrates x and the terms of its divergence from t_min to 1 (Eq. 1 and 2)."""
    divergence = settings.divergence
    probes = divergence.probes(fold_in_examples(keys, PROBES), x0)

    def field(sde, score, rows, state, t):
        probes, cond = rows
        x, _ = state
        bound = bind(sde, score, cond)
        growth = right_pad(norm_growth(sde, t), x)

        products = jacobian_products(lambda x: flow(sde, bound, x, t) - growth * x, x)
        residual, terms = divergence.terms(products, probes)
        return growth * x + residual, TINY * terms  # Eq. 3 and 4

    with full_precision():
        solution = settings.flow_solver.solve(
            field,
            sde,
            score,
            (probes, cond),
            (x0, _no_terms(divergence, x0, probes)),
            settings.t_min,
            1.0,
            joint=settings.joint_steps,
            norm=_norm(settings, data_dim(x0)),
        )

    latent, terms = solution.y
    score_part, stderr = divergence.combine(terms / TINY)
    ends = jnp.asarray([settings.t_min, 1.0], x0.dtype)
    linear_part = data_dim(x0) * jnp.diff(log_norm(sde, ends))[0]  # Eq. 4

    success = solution.success
    return Flow(
        terms=linear_part + score_part,
        stderr=None if stderr is None else jnp.where(success, stderr, jnp.nan),
        latent=jnp.where(right_pad(success, latent), latent, jnp.nan),
        nfe=solution.nfe,
        success=success,
    )


def _no_terms(divergence: Divergence, x0: Array, probes: Array) -> Array:
    """Returns zeros of the shape of the terms, (batch, n)."""
    _, terms = jax.eval_shape(lambda probes: divergence.terms(lambda v: (x0, v), probes), probes)
    return jnp.zeros(terms.shape, x0.dtype)


def _norm(settings: LikelihoodSettings, dim: int) -> Callable[[Any], Array]:
    """Returns the norm of a step's error: the larger of that of x, to its tolerance, and that of
    the terms, to atol + rtol D nats, each by itself and combined (the exact divergence sums D of
    them).

    The exact divergence leaves no error but the solver's, and is held to a third of the tolerances:
    for a fifth more evaluations the largest error falls to a quarter.
    """
    flow_solver = settings.flow_solver
    nats = flow_solver.atol + flow_solver.rtol * dim
    strictness = 3.0 if isinstance(settings.divergence, ExactDivergence) else 1.0

    def norm(scaled):
        x, terms = scaled
        combined, _ = settings.divergence.combine(jnp.atleast_2d(terms))
        error_of_terms = jnp.maximum(optx.rms_norm(terms), optx.rms_norm(combined))
        in_nats = error_of_terms * (flow_solver.atol / TINY / nats)
        return strictness * jnp.maximum(optx.rms_norm(x), in_nats)

    return norm
