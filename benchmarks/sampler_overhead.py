"""What a sampler costs beyond its evaluations of the score and its draws of noise.

    python benchmarks/sampler_overhead.py

Hardware: a CPU. Goal: at most 1.10 times the evaluations and draws, dispatched as calls.

Measured is the CPU time of `sd.sample` for a 2-D mixture of five components with its exact score,
batch 4096. It is divided by the time of two baselines without a sampler:

calls   evaluations × one jitted call of score(x, t), and draws × one jitted call that draws the
        noise, both dispatched without waiting
loop    a jitted scan of nothing but the evaluations, each at a point that depends on the one
        before, and one of nothing but the draws: stricter, because a score this small costs less
        in a loop

Evaluations are those of `Sample.nfe`; for the probability flow those of the slowest example,
because the batch runs until it is done. A draw is one normal per entry of x; each example has a
key, which is folded with the number of the draw, as the samplers promise.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import bench
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import scoresde as sd
from scoresde.keys import example_keys, fold_in_examples, normal_like
from scoresde.sde.mixture import ring

GOAL = 1.1
OF_EACH_KIND = (
    "Euler-Maruyama",
    "predictor-corrector",
    "annealed Langevin",
    "UniPC-3",
    "Restart",
)
"""The samplers of --quick, where compilation takes all the time."""


def main() -> None:
    args = bench.parse(__doc__, repeats=9)
    batch = 64 if args.quick else 4096
    steps = 10 if args.quick else 500
    settings = {"batch": batch, "steps": steps, "repeats": args.repeats}
    report = bench.Report("sampler_overhead", args.quick, settings)

    sde = sd.VP()
    score = ring().score(sde)
    key = jax.random.key(0)
    samplers = samplers_with_draws(steps)
    if args.quick:
        samplers = {name: samplers[name] for name in OF_EACH_KIND}

    # Times of samplers and baselines.
    sample = {}
    for name, (sampler, _) in samplers.items():
        sample[name] = partial(sd.sample, key, sampler, sde, score, (batch, 2))
    parts: dict[str, Callable[[], Any]] = {
        name: lambda run=run: run().x for name, run in sample.items()
    }
    parts |= baselines(sde, score, key, batch, steps)
    times = {name: part.cpu for name, part in bench.interleaved(parts, args.repeats).items()}
    for name, seconds in times.items():
        report.time(name if name in samplers else f"{steps} {name}", seconds)

    # Their ratios.
    for name, (_, draws) in samplers.items():
        evaluations = int(np.max(sample[name]().nfe))
        report.figures[f"{name}, evaluations"] = evaluations
        for kind in ("calls", "loop"):
            per_evaluation = times[f"evaluations, {kind}"] / steps
            per_draw = times[f"draws, {kind}"] / steps
            needed = evaluations * per_evaluation + draws * per_draw
            goal = GOAL if kind == "calls" and name != "probability flow" else None
            report.ratio(f"{name} / {kind}", times[name], needed, goal)
    report.finish()


def samplers_with_draws(steps: int) -> dict[str, tuple[Any, int]]:
    """Returns every sampler with the number of its draws of noise."""
    restart = sd.Restart(steps, (sd.Interval(0.3, 1.0, 5, 2),))
    return {
        "Euler-Maruyama": (sd.EulerMaruyama(num_steps=steps), steps),
        "predictor-corrector": (sd.PredictorCorrector(num_steps=steps), 2 * steps),
        "ancestral": (sd.Ancestral(num_steps=steps), steps),
        "annealed Langevin": (sd.AnnealedLangevin(steps // 5, 5, t_min=1e-3), steps),
        "DDIM": (sd.DDIM(num_steps=steps), 0),
        "DPM-Solver++2M": (sd.DPMSolverPP(num_steps=steps), 0),
        "SDE-DPM-Solver++2M": (sd.DPMSolverPP(num_steps=steps, eta=1.0), steps),
        "UniPC-3": (sd.UniPC(3, num_steps=steps), 0),
        "Heun": (sd.Heun(num_steps=steps), 0),
        "Restart": (restart, steps + 10),  # one draw in each step of its scan
        "probability flow": (sd.ProbabilityFlow(), 0),
    }


# --- The baselines ---


def baselines(
    sde: sd.SDE, score: Any, key: Array, batch: int, steps: int
) -> dict[str, Callable[[], Any]]:
    """Returns `steps` evaluations and `steps` draws, as calls and in a loop."""
    keys = example_keys(key, batch)
    x = sde.prior_sample(key, (batch, 2))
    t = jnp.full(batch, 0.5)
    return {
        "evaluations, calls": lambda: [evaluate(score, x, t) for _ in range(steps)][-1],
        "evaluations, loop": lambda: evaluate_in_loop(score, x, steps),
        "draws, calls": lambda: [draw(keys, x, i) for i in range(steps)][-1],
        "draws, loop": lambda: draw_in_loop(keys, x, steps),
    }


@jax.jit
def evaluate(score: Any, x: Array, t: Array) -> Array:
    """Evaluates the score once."""
    return score(x, t)


@jax.jit
def draw(keys: Array, x: Array, i: Array | int) -> Array:
    """Draws noise once."""
    return normal_like(fold_in_examples(keys, i), x)


@partial(jax.jit, static_argnames="count")
def evaluate_in_loop(score: Any, x: Array, count: int) -> Array:
    """Evaluates the score `count` times from t = 1 down, each time after the one before."""

    def body(point, t):
        return x + 1e-3 * score(point, jnp.full(len(x), t)), None

    return jax.lax.scan(body, x, jnp.linspace(1.0, 1e-3, count))[0]


@partial(jax.jit, static_argnames="count")
def draw_in_loop(keys: Array, x: Array, count: int) -> Array:
    """Draws noise `count` times."""

    def body(_, i):
        return normal_like(fold_in_examples(keys, i), x), None

    return jax.lax.scan(body, x, jnp.arange(count))[0]


if __name__ == "__main__":
    main()
