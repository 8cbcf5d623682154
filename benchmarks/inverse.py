"""What posterior scores cost in a sampler's loop, beside the evaluations and backward passes that
they cannot do without.

    python benchmarks/inverse.py

Hardware: a CPU. Goal: at most 1.15 in each row that has one.

Digits' U-Net (0.3 M parameters), batch 64, half of the pixels measured, 20 steps of DDIM in one
compiled loop. Measured is CPU time, as ratios within one run.

DPS, PiGDM   sampling with the posterior score over a jitted call, outside any loop, of one
             evaluation of the denoiser and one backward pass, as many times as there are steps
MMPS         sampling with 3 conjugate gradients over a jitted call of one evaluation and 4 backward
             passes

Memory is that of the compiled program, over twice the examples: at most 2, and a part that does not
grow.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import bench
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import scoresde as sd

KEY = jax.random.key(0)
SDE = sd.VP()
SHAPE = (8, 8, 1)
ITERATIONS = 3
GOAL = 1.15


def main() -> None:
    args = bench.parse(__doc__, repeats=9)
    batch, steps = (4, 3) if args.quick else (64, 20)
    settings = {"batch": batch, "steps": steps, "repeats": args.repeats}
    report = bench.Report("inverse", args.quick, settings)

    config = sd.MLPConfig(width=8) if args.quick else sd.UNetConfig(channels=32, num_blocks=1)
    net = config.build(SHAPE, rngs=nnx.Rngs(0))
    model = sd.ScoreModel(SDE, net, sd.EDM(0.6))
    sampler = sd.DDIM(num_steps=steps, denoise=False)
    scores = posterior_scores(model)

    def sampling(score: Any) -> Callable[[], Any]:
        return lambda: sd.sample(KEY, sampler, SDE, score, (batch, *SHAPE)).x

    parts: dict[str, Callable[[], Any]] = {
        "without y": sampling(model),
        **{name: sampling(score) for name, score in scores.items()},
        "evaluations and 1 backward pass": products(model, batch, steps, 1),
        f"evaluations and {ITERATIONS + 1} backward passes": products(
            model, batch, steps, ITERATIONS + 1
        ),
    }
    times = {name: part.cpu for name, part in bench.interleaved(parts, args.repeats).items()}
    for name, seconds in times.items():
        report.time(name, seconds)

    one = "evaluations and 1 backward pass"
    several = f"evaluations and {ITERATIONS + 1} backward passes"
    for name, bottom in (("DPS", one), ("PiGDM", one), ("MMPS", several)):
        report.ratio(f"{name} / {bottom}", times[name], times[bottom], GOAL)
    for name in scores:
        report.ratio(f"{name} / without y", times[name], times["without y"])
    for name, score in scores.items():
        few, many = (memory(score, sampler, n) for n in (batch, 2 * batch))
        report.ratio(f"{name}: memory of twice the batch", np.array([many]), np.array([few]), 2.1)
    report.finish()


def posterior_scores(model: sd.ScoreModel) -> dict[str, Any]:
    """Returns the three posterior scores of one measurement: half of the pixels."""
    mask = np.random.default_rng(0).random((1, *SHAPE)) < 0.5
    y = jax.random.normal(KEY, (1, *SHAPE))
    arguments = (model, SDE, sd.inverse.Mask(mask), y, 0.5)
    return {
        "DPS": sd.inverse.DPS(*arguments),
        "PiGDM": sd.inverse.PiGDM(*arguments),
        "MMPS": sd.inverse.MMPS(*arguments, iterations=ITERATIONS, tolerance=0.0),
    }


def products(model: sd.ScoreModel, batch: int, steps: int, count: int) -> Callable[[], Any]:
    """Returns a function that makes `steps` evaluations of the denoiser, each call on its own, with
    `count` backward passes one after the other."""

    @eqx.filter_jit
    def call(model, x, t):
        x0, back = jax.vjp(lambda x: model.denoise(x, t), x)
        v = x0
        for _ in range(count):
            (v,) = back(v)
        return v

    x = jax.random.normal(KEY, (batch, *SHAPE))
    t = jnp.full(batch, 0.5)

    def run():
        out = x
        for _ in range(steps):
            out = x + 1e-3 * call(model, out, t)
        return out

    return run


def memory(score: Any, sampler: Any, batch: int) -> float:
    """Returns the bytes that the compiled sampler takes beside its arguments and results."""
    x1 = jnp.zeros((batch, *SHAPE))

    @eqx.filter_jit
    def run(score, x1):
        return sampler(KEY, SDE, score, x1).x

    return float(run.lower(score, x1).compile().compiled.memory_analysis().temp_size_in_bytes)


if __name__ == "__main__":
    main()
