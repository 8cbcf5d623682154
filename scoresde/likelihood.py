"""Exact log-likelihoods by the instantaneous change of variables along the probability-flow ODE."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int

from scoresde.calls import as_argument, full_precision, in_chunks
from scoresde.ode import MAX_STEPS, InLogSNR, InTime, check_solver, check_variable, solve
from scoresde.sde.base import SDE, check_sde
from scoresde.types import (
    Cond,
    Key,
    ScoreFn,
    call_score,
    check_batch,
    check_cond,
    check_count,
    check_setting,
    example_keys,
    is_concrete,
    pytree_dataclass,
)


@pytree_dataclass()
class Likelihood:
    """log_prob in nats and its standard error over probes; latent is x at t = 1; NaN where success is False."""

    log_prob: Float[Array, " batch"]
    stderr: Float[Array, " batch"]
    latent: Float[Array, " batch *data"]
    nfe: Int[Array, " batch"]
    success: Bool[Array, " batch"]


# --- The divergence of the score, by forward mode ---


@runtime_checkable
class Divergence(Protocol):
    """Probes v_k, fixed along a solve, and the estimates v_k^T (ds/dx) v_k."""

    def probes(self, key: Key, x: Float[Array, " *data"]) -> Float[Array, " probes *data"]: ...

    def combine(self, terms: Float[Array, " probes"]) -> tuple[Array, Array]: ...


@dataclasses.dataclass(frozen=True)
class Rademacher:
    """Probes of independent signs: the least variance among probes with independent entries."""

    def draw(self, key: Key, shape: tuple[int, ...], dtype: Any) -> Array:
        """±1 with equal probability."""
        return jax.random.rademacher(key, shape, dtype)


@dataclasses.dataclass(frozen=True)
class Gaussian:
    """Standard normal probes."""

    def draw(self, key: Key, shape: tuple[int, ...], dtype: Any) -> Array:
        """N(0, I)."""
        return jax.random.normal(key, shape, dtype)


@dataclasses.dataclass(frozen=True)
class Hutchinson:
    """tr J = E[v^T J v] for E[v v^T] = I (Hutchinson 1990): unbiased, with an error that falls as num_probes^-1/2.

    Raises:
        ValueError: if num_probes < 1.
    """

    num_probes: int = 1
    distribution: Rademacher | Gaussian = Rademacher()

    def __post_init__(self):
        check_count("num_probes", self.num_probes)

    def probes(self, key: Key, x: Float[Array, " *data"]) -> Float[Array, " probes *data"]:
        """(num_probes, *data)."""
        return self.distribution.draw(key, (self.num_probes, *x.shape), x.dtype)

    def combine(self, terms: Float[Array, " probes"]) -> tuple[Array, Array]:
        """Mean over probes and its standard error, NaN from one probe."""
        if self.num_probes == 1:
            return terms[0], jnp.full_like(terms[0], jnp.nan)
        return jnp.mean(terms), jnp.std(terms, ddof=1) / math.sqrt(self.num_probes)


@dataclasses.dataclass(frozen=True)
class ExactDivergence:
    """tr J = sum_i e_i^T J e_i: one forward-mode product per data dimension, no sampling error.

    Raises:
        ValueError: if block_size < 1.
    """

    block_size: int = 256
    """Products at a time: memory grows with it, and each block evaluates the score anew."""

    def __post_init__(self):
        check_count("block_size", self.block_size)

    def probes(self, key: Key, x: Float[Array, " *data"]) -> Float[Array, " probes *data"]:
        """The D unit vectors, (D, *data)."""
        return jnp.eye(x.size, dtype=x.dtype).reshape(x.size, *x.shape)

    def combine(self, terms: Float[Array, " probes"]) -> tuple[Array, Array]:
        """The sum, with standard error 0."""
        return jnp.sum(terms), jnp.zeros_like(terms[0])


# --- The likelihood ---

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
    variable: InTime | InLogSNR = InLogSNR(),
    max_steps: int = MAX_STEPS,
    batch_size: int | None = None,
    progress: bool = False,
) -> Likelihood:
    """log p(x0) in nats, one per example, each with its own step control:

        log p_{t_min}(x0) = log p_1(x_1) + ∫ div F dt over [t_min, 1],   dx/dt = F = f x - 1/2 g^2 score

    (Song et al. 2021, arXiv:2011.13456, Eq. 39; Chen et al. 2018). div(f x) = f D is exact; only the score is probed.
    Two gaps to log p_0 remain and are not hidden in it: x0 is taken as a draw at t_min, and the prior stands for p_1
    unless `prior_log_prob` (x_1 → (batch,)) gives the end marginal. Example i's probes depend on (key, i) alone.

    x0: (batch, *data). cond: leaves (batch, ...). rtol, atol: per step. batch_size: examples a chunk.
    Compiled once per shape, with the score's weights as arguments; a plain function is static.

    Raises:
        ValueError: if x0 has no batch axis or holds NaN, or a setting is out of range.
        TypeError: if x0 does not hold floating-point numbers.
    """
    check_sde(sde)
    check_batch(x0, "x0")
    check_cond(cond, x0.shape[0])
    check_setting("t_min", t_min, 0.0, 1.0)
    if is_concrete(x0) and not bool(jnp.all(jnp.isfinite(x0))):
        raise ValueError("x0 holds NaN or infinity: drop those examples, e.g. x0[jnp.isfinite(x0).all(axis=...)].")
    check_variable(variable, sde, t_min)
    settings = _Settings(check_solver(solver, rtol, atol), variable, rtol, atol, t_min, max_steps)
    terms, stderr, latent, nfe, success = in_chunks(
        lambda shared, rows: _solve_chunk(shared, rows, divergence, settings),
        (sde, as_argument(score)),
        (example_keys(key, x0.shape[0]), jnp.asarray(x0), cond),
        x0.shape[0],
        batch_size,
        "likelihood" if progress else None,
    )
    log_prior = (sde.prior_log_prob if prior_log_prob is None else prior_log_prob)(latent)
    if jnp.shape(log_prior) != x0.shape[:1]:
        raise ValueError(f"prior_log_prob returned shape {jnp.shape(log_prior)}: wanted one value per example.")
    if is_concrete(success) and not np.all(success):
        warnings.warn(
            f"{int(np.sum(~np.asarray(success)))} of {x0.shape[0]} likelihoods did not reach t = 1: they are NaN and "
            f"success is False. Try a looser tolerance, more max_steps, or check the score for NaN.",
            stacklevel=2,
        )
    log_prob = jnp.where(success, log_prior + terms, jnp.nan)
    return Likelihood(log_prob=log_prob, stderr=stderr, latent=latent, nfe=nfe, success=success)


@dataclasses.dataclass(frozen=True)
class _Settings:
    solver: Any
    variable: InTime | InLogSNR
    rtol: float
    atol: float
    t_min: float
    max_steps: int


@eqx.filter_jit
def _solve_chunk(
    shared: tuple[SDE, ScoreFn], rows: tuple[Key, Array, Cond], divergence: Divergence, settings: _Settings
) -> tuple[Array, ...]:
    """∫ div F dt with its standard error, the latent, evaluations and success, per example."""
    sde, score = shared

    def one(key, x, c):
        c = None if c is None else jax.tree.map(lambda leaf: leaf[None], c)
        probes = divergence.probes(jax.random.fold_in(key, PROBES), x)

        def field(t, state):
            x, _ = state

            def score_at(x):
                return call_score(score, x[None], t[None], c)[0]

            def products(probes):  # one forward-mode product per probe; the score itself is computed once for all
                s, ds = jax.vmap(lambda v: jax.jvp(score_at, (x,), (v,)), out_axes=(None, 0))(probes)
                return s, jnp.sum((probes * ds).reshape(len(probes), -1), axis=1)

            f, half_g2 = sde.drift_rate(t), 0.5 * sde.squared_diffusion(t)
            s, terms = _in_blocks(products, probes, getattr(divergence, "block_size", None))
            return f * x - half_g2 * s, -half_g2 * terms

        solution = solve(
            field,
            (x, jnp.zeros(len(probes), x.dtype)),
            sde,
            settings.t_min,
            1.0,
            solver=settings.solver,
            variable=settings.variable,
            rtol=settings.rtol,
            atol=settings.atol,
            max_steps=settings.max_steps,
        )
        latent, terms = solution.y
        score_part, stderr = divergence.combine(terms)
        # ∫ f D dt = D (log alpha(1) - log alpha(t_min)), exactly.
        ends = jnp.asarray([settings.t_min, 1.0], x.dtype)
        linear_part = x.size * jnp.diff(sde.log_alpha(ends))[0]
        success = solution.success
        return (
            linear_part + score_part,
            jnp.where(success, stderr, jnp.nan),
            jnp.where(success, latent, jnp.nan),
            solution.nfe,
            success,
        )

    with full_precision():
        return jax.vmap(one)(*rows)


def _in_blocks(products: Callable[[Array], tuple[Array, Array]], probes: Array, block: int | None) -> tuple:
    """The score and v^T (ds/dx) v of every probe, `block` probes at a time."""
    count = len(probes)
    if block is None or count <= block:
        return products(probes)
    padded = jnp.concatenate([probes, jnp.zeros((-count % block, *probes.shape[1:]), probes.dtype)])
    s, terms = jax.lax.map(products, padded.reshape(-1, block, *probes.shape[1:]))
    return s[0], terms.reshape(-1)[:count]


def bits_per_dim(
    log_prob: Float[Array, ...], dim: int, levels: int | None = 256, low: float = -1.0, high: float = 1.0
) -> Float[Array, ...]:
    """-log p / (D ln 2) + log2(levels |du/dx|), u the data on [0, 1], x = low + (high - low) u.

    For uniformly dequantised data with `levels` values scaled to [low, high]: +7 for 8-bit images in [-1, 1], +8 in
    [0, 1]. levels=None: real-valued data, no offset. log_prob: nats; dim: D, all data dimensions, channels included.

    Raises:
        ValueError: if dim or levels is not a whole number large enough, or low >= high.
    """
    check_count("dim", dim)
    if low >= high:
        raise ValueError(f"low = {low} is not below high = {high}: they are the ends of the data's range.")
    bits = -jnp.asarray(log_prob) / (dim * math.log(2.0))
    if levels is None:
        return bits
    check_count("levels", levels, 2)
    return bits + math.log2(levels / (high - low))
