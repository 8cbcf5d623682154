"""Latent codes: the probability flow from data to the prior and back, and paths between two codes.

    dx/dt = f x - 1/2 g^2 score(x, t)                                                    (Eq. 1)
    between codes a and b, at w in [0, 1], cos omega = <a, b> / |a||b|:
    sin((1 - w) omega) / sin(omega) a + sin(w omega) / sin(omega) b                      (Eq. 2)

Song et al. 2021 (arXiv:2011.13456), Sec. 4.3 and App. D.5; spherical interpolation: Shoemake 1985.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from scoresde import checks
from scoresde.checks import is_concrete
from scoresde.parallel.per_example import per_example
from scoresde.precision import at_least_float32, full_precision, precision_of
from scoresde.sampling.base import Sample, check_times, finish, in_data_units
from scoresde.sampling.flow_solver import MAX_STEPS, FlowSolver
from scoresde.sampling.variables import InNoiseToSignal, Variable
from scoresde.sde.base import SDE, check_sde
from scoresde.sde.bound_score import bind
from scoresde.sde.flow import flow
from scoresde.sde.pure_noise import check_denoises_noise
from scoresde.standardization import to_model_units
from scoresde.types import Cond, ScoreFn, right_pad, sum_data


def encode(
    sde: SDE,
    score: ScoreFn,
    x0: Float[Array | np.ndarray, " batch *data"],
    cond: Cond = None,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    t_min: float = 1e-5,
    *,
    solver: Any = None,
    controller: Any = None,
    variable: Variable = InNoiseToSignal(),
    max_steps: int = MAX_STEPS,
    float64: bool = False,
    batch_size: int | None = None,
) -> Sample:
    """Returns the code x_1 of x0, taken as a state at t_min: the end of the flow (Eq. 1), in `.x`.

    Codes are in the model's units, and x0 is in the data's, where the model standardises them.
    It is the inverse of `decode`; `log_likelihood(...).latent` is the same at the price of the
    divergence. Settings, failures and errors are those of `log_likelihood`.
    """
    check_sde(sde)
    t_min = checks.fixed("t_min", t_min)
    flow_solver = FlowSolver(solver, rtol, atol, variable, controller, max_steps)
    _check(x0, "x0", sde, score, flow_solver, t_min)
    x = to_model_units(score, x0, float64)
    return _flow(Ends(flow_solver, t_min, 1.0), sde, score, x, cond, float64, batch_size)


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
    variable: Variable = InNoiseToSignal(),
    max_steps: int = MAX_STEPS,
    float64: bool = False,
    batch_size: int | None = None,
) -> Sample:
    """Returns x at t_min from the code x_1, without a last denoising: the flow (Eq. 1) backwards.

    `decode(encode(x0).x)` is x0 up to the solver's error, which grows as the flow spreads out
    towards the data: at the default tolerance x0 comes back within 3e-3 (exact scores) or 3e-2
    (trained networks); within 1e-5 with float64=True, rtol=1e-9 and atol=1e-9 in both calls.

    temperature: multiplies the code (Song et al. 2021, App. D.5; Kingma & Dhariwal 2018). Draws
    from the prior scaled below 1 lead to likelier, less diverse data.

    Raises:
        ValueError: if temperature < 0; otherwise as `log_likelihood`.
    """
    check_sde(sde)
    t_min = checks.fixed("t_min", t_min)
    flow_solver = FlowSolver(solver, rtol, atol, variable, controller, max_steps)
    checks.setting("temperature", temperature, "[0, inf)")
    _check(x1, "x1", sde, score, flow_solver, t_min)
    x = at_least_float32(x1, float64)
    with precision_of(x):
        x = temperature * x
    out = _flow(Ends(flow_solver, 1.0, t_min), sde, score, x, cond, float64, batch_size)
    return in_data_units(score, out)


def interpolate(
    a: Float[Array, " batch *data"], b: Float[Array, " batch *data"], num: int
) -> Float[Array, " batch num *data"]:
    """Returns `num` points of the spherical interpolation from a to b (Eq. 2), both included.

    Two draws from the prior are nearly orthogonal and of one length in many dimensions, and so are
    all points between them.

    Raises:
        ValueError: if a and b differ in shape, num < 2, or a is -c b with c > 0, where no great
            circle is the shortest.
    """
    checks.batch(a, "a")
    checks.count("num", num, 2)
    if a.shape != b.shape:
        raise ValueError(
            f"a has shape {a.shape}, b has {b.shape}: wanted codes of one shape, a pair in "
            "each row."
        )

    lengths = jnp.sqrt(sum_data(a**2) * sum_data(b**2))
    cosine = jnp.clip(sum_data(a * b) / jnp.where(lengths > 0.0, lengths, 1.0), -1.0, 1.0)
    if is_concrete(cosine) and bool(jnp.any(cosine < -1.0 + 1e-6)):
        raise ValueError(
            f"row {int(jnp.argmin(cosine))}: a and b point in opposite directions, so no path "
            "between them is the shortest. Go through a third code."
        )

    omega = jnp.arccos(cosine)
    sine = jnp.sin(omega)
    parallel = jnp.abs(sine) < 1e-6  # there sin(w omega) / sin(omega) → w
    safe_sine = jnp.where(parallel, 1.0, sine)

    def weight(part):
        return jnp.where(parallel, part, jnp.sin(part * omega) / safe_sine)

    def at(w):
        return right_pad(weight(1.0 - w), a) * a + right_pad(weight(w), b) * b  # Eq. 2

    return jnp.moveaxis(jax.vmap(at)(jnp.linspace(0.0, 1.0, num, dtype=cosine.dtype)), 0, 1)


# --- The solve ---


class Ends(NamedTuple):
    """How and between which times the flow is integrated: the static argument of the program."""

    flow_solver: FlowSolver
    start: float
    end: float


def _flow(
    settings: Ends,
    sde: SDE,
    score: ScoreFn,
    x: Array,
    cond: Cond,
    float64: bool,
    batch_size: int | None,
) -> Sample:
    return per_example(
        _integrate,
        settings,
        None,
        sde,
        score,
        x,
        cond,
        x.shape[0],
        float64=float64,
        batch_size=batch_size,
        what="flows",
        goal="their end",
    )


@eqx.filter_jit
def _integrate(
    settings: Ends, sde: SDE, score: ScoreFn, keys: None, x: Array, cond: Cond
) -> Sample:
    def field(sde, score, cond, x, t):
        return flow(sde, bind(sde, score, cond), x, t)  # Eq. 1

    with full_precision():
        solution = settings.flow_solver.solve(
            field, sde, score, cond, x, settings.start, settings.end
        )
    return finish(solution.y, solution.success, solution.nfe, None)


def _check(
    x: Any, name: str, sde: SDE, score: ScoreFn, flow_solver: FlowSolver, t_min: float
) -> None:
    """Checks what only a flow knows."""
    checks.batch(x, name)
    check_times(t_min)
    flow_solver.check_start(sde, t_min)
    check_denoises_noise(sde, score, 1.0)
