"""Latent codes: the probability flow from data to the prior and back, and ways between two codes."""

from __future__ import annotations

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from scoresde import checks
from scoresde.checks import is_concrete
from scoresde.parallel.arguments import as_argument
from scoresde.parallel.per_example import check_score, in_chunks, warn_of_failures
from scoresde.precision import at_least_float32, check_float64, full_precision, in_float64
from scoresde.sampling.base import Sample, check_times, finish
from scoresde.sampling.flow_solver import (
    MAX_STEPS,
    InLogSNR,
    InTime,
    check_solver,
    check_variable,
    solve,
)
from scoresde.sde.base import SDE, check_sde, reverse_drift
from scoresde.types import Cond, ScoreFn, right_pad, sum_data


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
    controller: Any = None,
    variable: InTime | InLogSNR = InLogSNR(),
    max_steps: int = MAX_STEPS,
    float64: bool = False,
    batch_size: int | None = None,
) -> Sample:
    """x_1 at the end of dx/dt = f x - 1/2 g^2 score from x0, taken as of t_min: `.x`, with evaluations and success.

    The inverse of `decode` (Song et al. 2021, arXiv:2011.13456, Sec. 4.3); `log_likelihood(...).latent` is the same at
    the price of the divergence. Settings, failures and what is raised are those of `log_likelihood`.
    """
    settings = Flow((t_min, 1.0), rtol, atol, solver, controller, variable, max_steps)
    return _flow(sde, score, x0, "x0", cond, settings, float64, batch_size)


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
    controller: Any = None,
    variable: InTime | InLogSNR = InLogSNR(),
    max_steps: int = MAX_STEPS,
    float64: bool = False,
    batch_size: int | None = None,
) -> Sample:
    """x at t_min from the code x_1, without a last denoising: `decode(encode(x0).x)` is x0, but for the solver's error.

    The flow spreads out towards the data, and an error with it: at the default tolerance x0 comes back within 3e-3
    (exact scores) or 3e-2 (trained networks); within 1e-5 by float64=True, rtol=1e-9, atol=1e-9 in both calls.

    temperature: multiplies the code (Song et al. 2021, App. D.5; Kingma & Dhariwal 2018): draws of the prior scaled
    below 1 lead to likelier, less various data. Raises as `log_likelihood`, and ValueError if temperature < 0.
    """
    checks.setting("temperature", temperature, "[0, inf)")
    settings = Flow((1.0, t_min), rtol, atol, solver, controller, variable, max_steps)
    return _flow(sde, score, x1, "x1", cond, settings, float64, batch_size, temperature)


def interpolate(
    a: Float[Array, " batch *data"], b: Float[Array, " batch *data"], num: int
) -> Float[Array, " batch num *data"]:
    """Spherical interpolation of codes (Shoemake 1985), num points from a to b, both included.

        sin((1 - w) omega) / sin(omega) a + sin(w omega) / sin(omega) b,   cos omega = <a, b> / |a||b|

    Two draws of the prior are nearly orthogonal and of one length in many dimensions; so are all points between.

    Raises:
        ValueError: if a and b differ in shape, num < 2, or a is -c b, c > 0: every great circle through both is a way.
    """
    checks.batch(a, "a")
    checks.count("num", num, 2)
    if a.shape != b.shape:
        raise ValueError(
            f"a has shape {a.shape}, b has {b.shape}: wanted codes of the same shape, one pair a row."
        )
    lengths = jnp.sqrt(sum_data(a**2) * sum_data(b**2))
    cosine = jnp.clip(sum_data(a * b) / jnp.where(lengths > 0.0, lengths, 1.0), -1.0, 1.0)
    if is_concrete(cosine) and bool(jnp.any(cosine < -1.0 + 1e-6)):
        raise ValueError(
            f"row {int(jnp.argmin(cosine))}: a and b point opposite ways, and no way between is shortest: "
            f"go by a third code."
        )
    omega = jnp.arccos(cosine)
    sine, w = jnp.sin(omega), jnp.linspace(0.0, 1.0, num)
    straight = jnp.abs(sine) < 1e-6  # along one line: sin(w omega) / sin(omega) → w
    safe = jnp.where(straight, 1.0, sine)

    def at(w):
        ways = (jnp.where(straight, part, jnp.sin(part * omega) / safe) for part in (1.0 - w, w))
        return sum(right_pad(way, a) * x for way, x in zip(ways, (a, b), strict=True))

    return jnp.moveaxis(jax.vmap(at)(w), 0, 1)


@dataclasses.dataclass(frozen=True)
class Flow:
    """From one time to another along the probability flow, and how."""

    ends: tuple[float, float]
    rtol: float
    atol: float
    solver: Any
    controller: Any = dataclasses.field(hash=False)  # may hold arrays
    variable: InTime | InLogSNR
    max_steps: int


def _flow(
    sde: SDE,
    score: ScoreFn,
    x: Array,
    name: str,
    cond: Cond,
    settings: Flow,
    float64: bool,
    batch_size: int | None,
    scale: float = 1.0,
) -> Sample:
    if float64:
        check_float64(score, x)
        with jax.enable_x64(True):
            sde, score, x, cond = in_float64((sde, score, x, cond))
            return _flow(sde, score, x, name, cond, settings, False, batch_size, scale)
    check_sde(sde)
    checks.batch(x, name)
    checks.condition(cond, x.shape[0])
    check_score(sde, score, cond)
    check_times(min(settings.ends))
    check_variable(settings.variable, sde, min(settings.ends))
    solver = check_solver(settings.solver, settings.rtol, settings.atol, settings.controller)
    settings = dataclasses.replace(settings, solver=solver)
    x = scale * at_least_float32(x)
    out = in_chunks(
        lambda shared, rows: _flow_chunk(shared, rows, settings),
        (sde, as_argument(score)),
        (x, cond),
        x.shape[0],
        batch_size,
    )
    warn_of_failures(out.success, "flows", "their end", stacklevel=4)
    return out


@eqx.filter_jit
def _flow_chunk(shared: tuple[SDE, ScoreFn], rows: tuple[Array, Cond], settings: Flow) -> Sample:
    (sde, score), (start, end) = shared, settings.ends

    def one(x, c):
        c = jax.tree.map(lambda leaf: leaf[None], c)
        field = lambda t, x: reverse_drift(sde, score, x[None], t, c, weight=0.5)[0]  # noqa: E731
        return solve(
            field,
            x,
            sde,
            start,
            end,
            solver=settings.solver,
            variable=settings.variable,
            rtol=settings.rtol,
            atol=settings.atol,
            max_steps=settings.max_steps,
            controller=settings.controller,
        )

    with full_precision():
        solution = jax.vmap(one)(*rows)
    return finish(solution.y, solution.success, solution.nfe, None)
