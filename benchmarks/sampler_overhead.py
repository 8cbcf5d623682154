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

Two samplers are also divided by their own arithmetic, written by hand as one jitted scan: Euler-
Maruyama, and the predictor-corrector with the original's step rule, whose norms over the batch are
neither evaluations nor draws.

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
    "batch-mean corrector",
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
    parts |= {
        "Euler-Maruyama, by hand": lambda: euler_maruyama_by_hand(score, key, batch, steps),
        "batch-mean corrector, by hand": lambda: corrector_by_hand(score, key, batch, steps),
    }
    times = {name: part.cpu for name, part in bench.interleaved(parts, args.repeats).items()}
    for name, seconds in times.items():
        counted = name.startswith(("evaluations", "draws"))
        report.time(f"{steps} {name}" if counted else name, seconds)

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
    for name in ("Euler-Maruyama", "batch-mean corrector"):
        report.ratio(f"{name} / by hand", times[name], times[f"{name}, by hand"], GOAL)
    report.finish()


def samplers_with_draws(steps: int) -> dict[str, tuple[Any, int]]:
    """Returns every sampler with the number of its draws of noise."""
    restart = sd.Restart(steps, (sd.Interval(0.3, 1.0, 5, 2),))
    batch_means = sd.PredictorCorrector(
        corrector=sd.correctors.Langevin(rule=sd.correctors.BatchMeanStep()), num_steps=steps
    )
    return {
        "Euler-Maruyama": (sd.EulerMaruyama(num_steps=steps), steps),
        "predictor-corrector": (sd.PredictorCorrector(num_steps=steps), 2 * steps),
        "batch-mean corrector": (batch_means, 2 * steps),
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


# --- Two samplers written by hand ---

T_MIN = 1e-3
SNR = 0.16


def rates(steps: int) -> tuple[Array, Array, Array, Array]:
    """Returns t, dt, beta(t) and the integral of beta over the step, for each of a uniform grid."""
    t = jnp.linspace(1.0, T_MIN, steps + 1)
    integral = 0.1 * t + 0.5 * 19.9 * t**2
    return t[:-1], jnp.diff(t), 0.1 + 19.9 * t[:-1], integral[:-1] - integral[1:]


def denoised(score: Any, x: Array) -> Array:
    """Returns E[x_0 | x] at t_min under VP (Tweedie's formula)."""
    alpha = jnp.exp(-0.5 * (0.1 * T_MIN + 0.5 * 19.9 * T_MIN**2))
    return (x + (1.0 - alpha**2) * score(x, jnp.full(len(x), T_MIN))) / alpha


@partial(jax.jit, static_argnames=("batch", "steps"))
def euler_maruyama_by_hand(score: Any, key: Array, batch: int, steps: int) -> Array:
    """Draws samples under VP by Song et al. 2021, Eq. 6, one step of Euler-Maruyama a scan's."""
    keys = example_keys(key, batch)

    def body(x, inputs):
        i, t, dt, beta, _ = inputs
        noise = normal_like(fold_in_examples(keys, i), x)
        drift = -0.5 * beta * x - beta * score(x, jnp.full(batch, t))
        return x + drift * dt + jnp.sqrt(-beta * dt) * noise, None

    x1 = normal_like(fold_in_examples(keys, steps), jnp.zeros((batch, 2)))
    x, _ = jax.lax.scan(body, x1, (jnp.arange(steps), *rates(steps)))
    return denoised(score, x)


@partial(jax.jit, static_argnames=("batch", "steps"))
def corrector_by_hand(score: Any, key: Array, batch: int, steps: int) -> Array:
    """Draws samples under VP by Song et al. 2021, Alg. 5, with their code's step size."""
    keys = example_keys(key, batch)

    def mean_norm(v):
        return jnp.mean(jnp.sqrt(jnp.sum(v**2, axis=-1)))

    def body(x, inputs):
        i, t, _, _, integral = inputs
        t = jnp.full(batch, t)
        step_keys = fold_in_examples(keys, i)

        # The corrector.
        noise = normal_like(fold_in_examples(step_keys, 0), x)
        s = score(x, t)
        eps = 2.0 * jnp.exp(-integral) * (SNR * mean_norm(noise) / mean_norm(s)) ** 2
        x = x + eps * s + jnp.sqrt(2.0 * eps) * noise

        # The predictor: reverse diffusion.
        beta = -jnp.expm1(-integral)
        noise = normal_like(fold_in_examples(step_keys, 1), x)
        x = (2.0 - jnp.sqrt(1.0 - beta)) * x + beta * score(x, t) + jnp.sqrt(beta) * noise
        return x, None

    x1 = normal_like(fold_in_examples(keys, steps), jnp.zeros((batch, 2)))
    x, _ = jax.lax.scan(body, x1, (jnp.arange(steps), *rates(steps)))
    return denoised(score, x)


if __name__ == "__main__":
    main()
