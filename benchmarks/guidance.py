"""What guidance costs in a sampler's loop, beside the evaluations that it cannot do without.

    python benchmarks/guidance.py

Hardware: a CPU. Goal: at most 1.1 in each row that has one.

Digits' U-Net (0.3 M parameters) and a classifier of half its size, batch 64, 20 steps of DDIM in
one compiled loop. Measured is CPU time, as ratios within one run.

classifier-free  sampling with `ClassifierFreeGuidance` over sampling twice as many examples without
                 guidance: two evaluations, batched
classifier       sampling with `ClassifierGuidance` over a jitted call, outside any loop, of one
                 evaluation of the network and one gradient of the classifier in its input, as many
                 times as there are steps. XLA computes gradients of convolutions slowly in loops
                 (jax issue 12868), which nets/convolution.py avoids.
autoguidance     sampling with `Autoguidance` over sampling twice as many examples
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import bench
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import scoresde as sd

KEY = jax.random.key(0)
SDE = sd.VP()
SHAPE = (8, 8, 1)
GOAL = 1.1


def main() -> None:
    args = bench.parse(__doc__, repeats=9)
    batch, steps = (4, 3) if args.quick else (64, 20)
    settings = {"batch": batch, "steps": steps, "repeats": args.repeats}
    report = bench.Report("guidance", args.quick, settings)

    model, classifier = networks(args.quick)
    sampler = sd.DDIM(num_steps=steps, denoise=False)
    labels = np.arange(batch) % 10
    twice = np.arange(2 * batch) % 10

    def sampling(score: Any, labels: np.ndarray) -> Callable[[], Any]:
        shape = (len(labels), *SHAPE)
        return lambda: sd.sample(KEY, sampler, SDE, sd.conditioned(score, labels), shape).x

    free = sd.ClassifierFreeGuidance(model, 2.0)
    auto = sd.Autoguidance(model, model, 2.0)
    by_classifier = sd.ClassifierGuidance(model, classifier, labels, 2.0)
    parts: dict[str, Callable[[], Any]] = {
        "unguided": sampling(model, labels),
        "unguided, twice as many": sampling(model, twice),
        "classifier-free": sampling(free, labels),
        "autoguidance": sampling(auto, labels),
        "classifier": sampling(by_classifier, labels),
        "evaluations and gradients": evaluations_and_gradients(model, classifier, labels, steps),
    }
    times = {name: part.cpu for name, part in bench.interleaved(parts, args.repeats).items()}
    for name, seconds in times.items():
        report.time(name, seconds)

    pairs = [
        ("classifier-free", "unguided, twice as many", GOAL),
        ("autoguidance", "unguided, twice as many", GOAL),
        ("classifier", "evaluations and gradients", GOAL),
        ("classifier-free", "unguided", None),
        ("classifier", "unguided", None),
    ]
    for top, bottom, goal in pairs:
        report.ratio(f"{top} / {bottom}", times[top], times[bottom], goal)
    report.finish()


def networks(quick: bool) -> tuple[sd.ScoreModel, sd.ClassifierModel]:
    """Returns a conditional score and a classifier, with random weights."""
    channels = 4 if quick else 32
    config = sd.UNetConfig(channels=channels, num_blocks=1, num_classes=10)
    net = config.build(SHAPE, rngs=nnx.Rngs(0))
    small = sd.nets.ClassifierConfig(num_classes=10, channels=max(4, channels // 2))
    return (
        sd.ScoreModel(SDE, net, sd.EDM(0.6)),
        sd.ClassifierModel(SDE, small.build(SHAPE, rngs=nnx.Rngs(1))),
    )


def evaluations_and_gradients(
    model: sd.ScoreModel, classifier: sd.ClassifierModel, labels: np.ndarray, steps: int
) -> Callable[[], Any]:
    """Returns a function that makes `steps` evaluations and gradients, each call on its own."""
    label = jnp.asarray(labels)

    @nnx.jit
    def call(model, classifier, x, t):
        def log_prob(x):
            return jnp.sum(jnp.take_along_axis(classifier(x, t), label[:, None], axis=-1))

        return model(x, t, label) + 2.0 * jax.grad(log_prob)(x)

    x = jax.random.normal(KEY, (len(labels), *SHAPE))
    t = jnp.full(len(labels), 0.5)

    def run():
        out = x
        for _ in range(steps):
            out = x + 1e-3 * call(model, classifier, out, t)
        return out

    return run


if __name__ == "__main__":
    main()
