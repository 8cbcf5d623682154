"""Latent codes: the probability flow from data to the prior and back, and ways between two codes."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from scoresde.calls import as_argument, check_score, full_precision, in_chunks
from scoresde.ode import MAX_STEPS, InLogSNR, InTime, check_solver, check_variable, solve
from scoresde.sampling.base import Sample, check_times, finish
from scoresde.sde.base import SDE, check_sde, reverse_drift
from scoresde.types import Cond, ScoreFn, check_batch, check_cond, check_count, check_setting, right_pad, sum_data


def encode(
    sde: SDE,
    score: ScoreFn,
    x0: Float[Array, " batch *data"],
    cond: Cond = None,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    t_min: float = 1e-5,
    *,
    solver: Any = None,
    variable: InTime | InLogSNR = InLogSNR(),
    batch_size: int | None = None,
) -> Sample:
    """x_1 at the end of dx/dt = f x - 1/2 g^2 score from x0, taken as of t_min: `.x`, with evaluations and success.

    The inverse of `decode` (Song et al. 2021, arXiv:2011.13456, Sec. 4.3); `log_likelihood(...).latent` is the same at
    the price of the divergence. Raises as `log_likelihood`.
    """
    return _flow(sde, score, x0, cond, (t_min, 1.0), rtol, atol, solver, variable, batch_size)


def decode(
    sde: SDE,
    score: ScoreFn,
    x1: Float[Array, " batch *data"],
    cond: Cond = None,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    t_min: float = 1e-5,
    *,
    temperature: float = 1.0,
    solver: Any = None,
    variable: InTime | InLogSNR = InLogSNR(),
    batch_size: int | None = None,
) -> Sample:
    """x at t_min from the code x_1, without a last denoising: `decode(encode(x0).x)` is x0 to the tolerance.

    temperature: multiplies the code (Song et al. 2021, App. D.5; Kingma & Dhariwal 2018): draws of the prior scaled
    below 1 lead to likelier, less various data. Raises as `log_likelihood`, and ValueError if temperature < 0.
    """
    check_setting("temperature", temperature, 0.0)
    return _flow(sde, score, temperature * x1, cond, (1.0, t_min), rtol, atol, solver, variable, batch_size)


def interpolate(
    a: Float[Array, " batch *data"], b: Float[Array, " batch *data"], num: int
) -> Float[Array, " batch num *data"]:
    """Spherical interpolation of codes (Shoemake 1985), num points from a to b, both included.

        sin((1 - w) omega) / sin(omega) a + sin(w omega) / sin(omega) b,   cos omega = <a, b> / |a||b|

    Two draws of the prior are nearly orthogonal and of one length in many dimensions; so are all points between.

    Raises:
        ValueError: if a and b differ in shape, or num < 2.
    """
    check_batch(a, "a")
    check_count("num", num, 2)
    if a.shape != b.shape:
        raise ValueError(f"a has shape {a.shape}, b has {b.shape}: wanted codes of the same shape, one pair a row.")
    lengths = jnp.sqrt(sum_data(a**2) * sum_data(b**2))
    omega = jnp.arccos(jnp.clip(sum_data(a * b) / jnp.where(lengths > 0.0, lengths, 1.0), -1.0, 1.0))
    sine, w = jnp.sin(omega), jnp.linspace(0.0, 1.0, num)
    straight = jnp.abs(sine) < 1e-6  # along one line: sin(w omega) / sin(omega) → w
    safe = jnp.where(straight, 1.0, sine)

    def at(w):
        ways = (jnp.where(straight, part, jnp.sin(part * omega) / safe) for part in (1.0 - w, w))
        return sum(right_pad(way, a) * x for way, x in zip(ways, (a, b), strict=True))

    return jnp.moveaxis(jax.vmap(at)(w), 0, 1)


def _flow(
    sde: SDE,
    score: ScoreFn,
    x: Array,
    cond: Cond,
    ends: tuple[float, float],
    rtol: float,
    atol: float,
    solver: Any,
    variable: InTime | InLogSNR,
    batch_size: int | None,
) -> Sample:
    check_sde(sde)
    check_batch(x)
    check_cond(cond, x.shape[0])
    check_score(sde, score, cond)
    check_times(min(ends))
    check_variable(variable, sde, min(ends))
    settings = (check_solver(solver, rtol, atol), variable, rtol, atol, ends)
    return in_chunks(
        lambda shared, rows: _flow_chunk(shared, rows, settings),
        (sde, as_argument(score)),
        (jnp.asarray(x), cond),
        x.shape[0],
        batch_size,
    )


@eqx.filter_jit
def _flow_chunk(shared: tuple[SDE, ScoreFn], rows: tuple[Array, Cond], settings: tuple) -> Sample:
    (sde, score), (solver, variable, rtol, atol, (start, end)) = shared, settings

    def one(x, c):
        c = jax.tree.map(lambda leaf: leaf[None], c)
        field = lambda t, x: reverse_drift(sde, score, x[None], t, c, weight=0.5)[0]  # noqa: E731
        return solve(field, x, sde, start, end, solver=solver, variable=variable, rtol=rtol, atol=atol,
                     max_steps=MAX_STEPS)  # fmt: skip

    with full_precision():
        solution = jax.vmap(one)(*rows)
    return finish(solution.y, solution.success, solution.nfe, None)
