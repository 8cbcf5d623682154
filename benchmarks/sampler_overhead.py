"""How much a sampler costs beyond the score evaluations and the noise that it cannot do without.

    python benchmarks/sampler_overhead.py

CPU time of `sd.sample` (2-D mixture of five components with its exact score, batch 4096) over that of its evaluations
of the score and its draws of noise. Two baselines, both without any sampler around them:

calls   evaluations × one jitted call of score(x, t) + draws × one jitted call that draws the noise, both dispatched
        without waiting. Goal: at most 1.10.
loops   a jitted scan of nothing but the evaluations, each on a point that depends on the one before, and one of nothing
        but the draws. Stricter: a score this small costs less in a loop than in calls.

Evaluations are those of `Sample.nfe` (the probability flow's: the slowest example's, until which the batch runs). A
draw is one normal per entry of x, example i from its own key, folded in anew for each draw as the samplers promise.
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


@jax.jit
def evaluate(score: Any, x: Array, t: Array) -> Array:
    """One evaluation of the score."""
    return score(x, t)


@jax.jit
def draw(keys: Array, x: Array, i: Array) -> Array:
    """One draw of noise."""
    return normal_like(fold_in_examples(keys, i), x)


@partial(jax.jit, static_argnames="count")
def evaluate_in_loop(score: Any, x: Array, count: int) -> Array:
    """`count` evaluations, from t = 1 down; each waits for the one before."""

    def body(point, t):
        return x + 1e-3 * score(point, jnp.full(len(x), t)), None

    return jax.lax.scan(body, x, jnp.linspace(1.0, 1e-3, count))[0]


@partial(jax.jit, static_argnames="count")
def draw_in_loop(keys: Array, x: Array, count: int) -> Array:
    """`count` draws."""
    return jax.lax.scan(
        lambda _, i: (normal_like(fold_in_examples(keys, i), x), None), x, jnp.arange(count)
    )[0]


def repeat(part: Callable[[int], Any], count: int) -> Callable[[], Any]:
    """All calls dispatched, one result at the end."""
    return lambda: [part(i) for i in range(count)][-1]


def main() -> None:
    args = bench.parse(__doc__, repeats=9)
    batch, steps = (64, 10) if args.quick else (4096, 500)
    sde, score = sd.VP(), ring().score(sd.VP())
    key = jax.random.key(0)
    samplers = {  # with their draws of noise
        "Euler-Maruyama": (sd.EulerMaruyama(num_steps=steps), steps),
        "predictor-corrector": (sd.PredictorCorrector(num_steps=steps), 2 * steps),
        "ancestral": (sd.Ancestral(num_steps=steps), steps),
        "annealed Langevin": (sd.AnnealedLangevin(steps // 5, 5, t_min=1e-3), steps),
        "DDIM": (sd.DDIM(num_steps=steps), 0),
        "DPM-Solver++2M": (sd.DPMSolverPP(num_steps=steps), 0),
        "SDE-DPM-Solver++2M": (sd.DPMSolverPP(num_steps=steps, eta=1.0), steps),
        "UniPC-3": (sd.UniPC(3, num_steps=steps), 0),
        "Heun": (sd.Heun(num_steps=steps), 0),
        "Restart": (
            sd.Restart(steps, (sd.Interval(0.3, 1.0, 5, 2),)),
            steps + 10,
        ),  # one draw in each step of its scan
        "probability flow": (sd.ProbabilityFlow(), 0),
    }
    if args.quick:  # a sampler of each kind: compiling takes all the time
        kinds = ("Euler-Maruyama", "predictor-corrector", "annealed Langevin", "UniPC-3", "Restart")
        samplers = {name: samplers[name] for name in kinds}
    sample = {
        name: partial(sd.sample, key, sampler, sde, score, (batch, 2))
        for name, (sampler, _) in samplers.items()
    }
    keys, x, t = example_keys(key, batch), sde.prior_sample(key, (batch, 2)), jnp.full(batch, 0.5)
    parts = {name: lambda run=run: run().x for name, run in sample.items()} | {
        "evaluations, calls": repeat(lambda i: evaluate(score, x, t), steps),
        "evaluations, loop": lambda: evaluate_in_loop(score, x, steps),
        "draws, calls": repeat(lambda i: draw(keys, x, i), steps),
        "draws, loop": lambda: draw_in_loop(keys, x, steps),
    }
    times = {name: part.cpu for name, part in bench.interleaved(parts, args.repeats).items()}

    report = bench.Report(
        "sampler_overhead", args.quick, {"batch": batch, "steps": steps, "repeats": args.repeats}
    )
    for name, seconds in times.items():
        report.time(f"{steps} {name}" if name not in samplers else name, seconds)
    for name, (_, draws) in samplers.items():
        evaluations = int(np.max(sample[name]().nfe))
        report.figures[f"{name}, evaluations"] = evaluations
        for kind, goal in (("calls", 1.1), ("loop", None)):
            needed = (
                evaluations * times[f"evaluations, {kind}"] + draws * times[f"draws, {kind}"]
            ) / steps
            report.ratio(
                f"{name} / {kind}",
                times[name],
                needed,
                None if name == "probability flow" else goal,
            )
    report.finish()


if __name__ == "__main__":
    main()
