"""Exact log-likelihoods by the instantaneous change of variables along the probability-flow ODE."""

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
from scoresde.keys import example_keys
from scoresde.likelihood.divergence import Divergence, Hutchinson, check_divergence
from scoresde.parallel.arguments import as_argument
from scoresde.parallel.per_example import check_score, in_chunks, warn_of_failures
from scoresde.precision import at_least_float32, check_float64, full_precision, in_float64
from scoresde.sampling.flow_solver import (
    MAX_STEPS,
    InLogSNR,
    InTime,
    Solution,
    check_solver,
    check_variable,
    solve,
)
from scoresde.sde.base import SDE, check_sde
from scoresde.types import Cond, Key, ScoreFn, call_score, data_dim, pytree_dataclass, right_pad

# The terms grow to hundreds of nats, of which a relative tolerance would forgive many, and are one entry among D of the
# solver's mean: their error has a norm of its own, in nats. diffrax divides errors by atol + rtol |y|, so the terms are
# integrated times a power of two that leaves atol alone there. (In nats per dimension, with rtol: 5 times less exact.)
TINY = 2.0**-40


@dataclasses.dataclass(frozen=True)
class LikelihoodSettings:
    """How a likelihood was computed: what decides its error, and must be equal where two are compared."""

    divergence: Divergence
    solver: Any
    variable: InTime | InLogSNR
    rtol: float
    atol: float
    t_min: float
    max_steps: int
    joint_steps: bool
    """One step size for the whole chunk, or each example its own."""
    dtype: str
    """The precision of the solve."""
    own_prior: bool = False
    """Whether x_1 was held against a `prior_log_prob` of the caller's."""
    controller: Any = dataclasses.field(default=None, hash=False)  # may hold arrays
    """Of the steps; None: a PIDController of the tolerances."""


@pytree_dataclass("settings")
class Likelihood:
    """log_prob in nats and its standard error over probes; latent is x at t = 1; NaN where success is False."""

    log_prob: Float[Array, " batch"]
    stderr: Float[Array, " batch"]
    latent: Float[Array, " batch *data"]
    nfe: Int[Array, " batch"]
    success: Bool[Array, " batch"]
    settings: LikelihoodSettings

    @property
    def failed(self) -> np.ndarray:
        """The rows whose solve did not reach t = 1, to be counted and named, never averaged in."""
        return np.flatnonzero(~np.asarray(self.success))


# Probes that share bits with the dequantisation noise of x0 bias the estimate (digits: by 0.18 bits/dim), so their keys
# are set apart from those that the same key gives elsewhere.
PROBES = 0x70726F62


def log_likelihood(
    key: Key,
    sde: SDE,
    score: ScoreFn,
    x0: Float[Array, " batch *data"],
    cond: Cond = None,
    divergence: Divergence = Hutchinson(num_probes=1),
    rtol: float = 1e-5,
    atol: float = 1e-5,
    t_min: float = 1e-5,
    prior_log_prob: Callable[[Array], Array] | None = None,
    *,
    solver: Any = None,
    controller: Any = None,
    variable: InTime | InLogSNR = InLogSNR(),
    max_steps: int = MAX_STEPS,
    joint_steps: bool = False,
    float64: bool = False,
    batch_size: int | None = None,
    progress: bool = False,
) -> Likelihood:
    """log p(x0) in nats, one per example, each with its own step control:

        log p_{t_min}(x0) = log p_1(x_1) + ∫ div F dt over [t_min, 1],   dx/dt = F = f x - 1/2 g^2 score

    (Song et al. 2021, arXiv:2011.13456, Eq. 39; Chen et al. 2018). div(f x) = f D is exact; only the score is probed.
    Two gaps to log p_0 remain and are not hidden in it: x0 is taken as a draw at t_min, and the prior stands for p_1
    unless `prior_log_prob` (x_1 → (batch,)) gives the end marginal: `gaps` has both. Example i's probes depend on
    (key, i) alone.

    x0: (batch, *data). cond: leaves (batch, ...). rtol, atol: per step, of x; of log p, atol + rtol D nats. Over a
    whole solve errors add up: exact scores in float32 come out within 5e-4 bits/dim at 1e-5, 1e-4 at 1e-6. solver,
    controller: diffrax's, Dopri5 and a PIDController of the tolerances if None; a controller's steps are `variable`'s.
    joint_steps: one step size for a whole chunk, by its mean error, as in the published code: rows then depend on
    each other, to the tolerance, and one that fails takes its chunk along. float64: solve in it, weights cast; the
    result is float64. batch_size: examples a chunk. Compiled once per shape, with the score's weights as arguments;
    a plain function is static.

    Raises:
        ValueError: if x0 has no batch axis, holds NaN, or whole numbers only, or a setting is out of range, as atol far
            below rtol is.
        TypeError: if x0 does not hold floating-point numbers.
    """
    if float64:
        check_float64(score, x0)
        with jax.enable_x64(True):
            sde, score, x0, cond = in_float64((sde, score, x0, cond))
            return log_likelihood(
                key,
                sde,
                score,
                x0,
                cond,
                divergence,
                rtol,
                atol,
                t_min,
                prior_log_prob,
                solver=solver,
                controller=controller,
                variable=variable,
                max_steps=max_steps,
                joint_steps=joint_steps,
                batch_size=batch_size,
                progress=progress,
            )
    check_sde(sde)
    check_divergence(divergence)
    checks.batch(x0, "x0")
    checks.condition(cond, x0.shape[0])
    check_score(sde, score, cond)
    if 0.0 < atol < 1e-8 * rtol:
        raise ValueError(
            f"atol = {atol:g} is tiny beside rtol = {rtol:g}: write at least {1e-8 * rtol:g}."
        )
    checks.setting("t_min", t_min, "[0, 1)")
    check_real_valued(x0, "x0")
    x0 = at_least_float32(x0)
    check_variable(variable, sde, t_min)
    settings = LikelihoodSettings(
        divergence,
        check_solver(solver, rtol, atol, controller),
        variable,
        rtol,
        atol,
        t_min,
        max_steps,
        joint_steps,
        str(x0.dtype),
        prior_log_prob is not None,
        controller,
    )
    terms, stderr, latent, nfe, success = in_chunks(
        lambda shared, rows: _solve_chunk(shared, rows, settings),
        (sde, as_argument(score)),
        (example_keys(key, x0.shape[0]), x0, cond),
        x0.shape[0],
        batch_size,
        "likelihood" if progress else None,
    )
    log_prior = (sde.prior_log_prob if prior_log_prob is None else prior_log_prob)(latent)
    if jnp.shape(log_prior) != x0.shape[:1]:
        raise ValueError(
            f"prior_log_prob returned shape {jnp.shape(log_prior)}: wanted one value per example."
        )
    out = Likelihood(
        jnp.where(success, log_prior + terms, jnp.nan), stderr, latent, nfe, success, settings
    )
    warn_of_failures(success, "likelihoods", "t = 1")
    return out


@eqx.filter_jit
def _solve_chunk(
    shared: tuple[SDE, ScoreFn], rows: tuple[Key, Array, Cond], settings: LikelihoodSettings
) -> tuple[Array, ...]:
    """∫ div F dt with its standard error, the latent, evaluations and success, per example."""
    (sde, score), (keys, x0, cond), divergence = shared, rows, settings.divergence
    probes = jax.vmap(lambda key, x: divergence.probes(jax.random.fold_in(key, PROBES), x))(
        keys, x0
    )

    def field(t, state, probes, c):
        """dx/dt of one example, and the rates of its terms."""
        x, _ = state
        c = jax.tree.map(lambda leaf: leaf[None], c)

        def score_at(x):
            return call_score(score, x[None], t[None], c)[0]

        def products(
            probes,
        ):  # one forward-mode product per probe; the score itself is computed once for all
            if (
                len(probes) == 1
            ):  # an axis of one costs a fifth more on a CPU where the score is small
                s, jv = jax.jvp(score_at, (x,), (probes[0],))
                return s, jv[None]
            return jax.vmap(lambda v: jax.jvp(score_at, (x,), (v,)), out_axes=(None, 0))(probes)

        f, half_g2 = sde.drift_rate(t), 0.5 * sde.squared_diffusion(t)
        s, terms = divergence.terms(products, probes)
        return f * x - half_g2 * s, -half_g2 * TINY * terms

    def integrate(field, state) -> Solution:
        return solve(
            field,
            state,
            sde,
            settings.t_min,
            1.0,
            solver=settings.solver,
            variable=settings.variable,
            rtol=settings.rtol,
            atol=settings.atol,
            max_steps=settings.max_steps,
            controller=settings.controller,
            norm=norm,
        )

    num_terms = jax.eval_shape(
        lambda x, probes: divergence.terms(lambda v: (x, v), probes)[1], x0[0], probes[0]
    ).shape[0]
    start = (x0, jnp.zeros((x0.shape[0], num_terms), x0.dtype))
    nats = settings.atol + settings.rtol * data_dim(x0)

    def norm(scaled):
        """The larger of the errors of x, to its tolerance, and of the terms, rtol D + atol nats each, and combined: the
        exact divergence sums D of them."""
        x, terms = scaled
        combined = jax.vmap(lambda terms: divergence.combine(terms)[0])(jnp.atleast_2d(terms))
        nats_off = jnp.maximum(optx.rms_norm(terms), optx.rms_norm(combined))
        return jnp.maximum(optx.rms_norm(x), nats_off * (settings.atol / TINY / nats))

    with full_precision():
        if settings.joint_steps:
            together = lambda t, state: jax.vmap(field, (None, 0, 0, 0))(t, state, probes, cond)  # noqa: E731
            solution = integrate(together, start)
        else:
            alone = lambda state, probes, c: integrate(
                lambda t, state: field(t, state, probes, c), state
            )  # noqa: E731
            solution = jax.vmap(alone)(start, probes, cond)
    latent, terms = solution.y[0], solution.y[1] / TINY
    score_part, stderr = jax.vmap(divergence.combine)(terms)
    # ∫ f D dt = D (log alpha(1) - log alpha(t_min)), exactly.
    ends = jnp.asarray([settings.t_min, 1.0], x0.dtype)
    linear_part = data_dim(x0) * jnp.diff(sde.log_alpha(ends))[0]
    success = jnp.broadcast_to(solution.success, x0.shape[:1])
    return (
        linear_part + score_part,
        jnp.where(success, stderr, jnp.nan),
        jnp.where(right_pad(success, latent), latent, jnp.nan),
        jnp.broadcast_to(solution.nfe, x0.shape[:1]),
        success,
    )
