"""The training step's floating-point rate, over that of the same convolutions alone.

    python benchmarks/train_step.py                   # --seconds 270: a real training of that long as well

The digits U-Net (32 channels, one block a level, 8×8×1, batch 128), sharded over the cores as `sd.fit` does. The rate
counts the convolutions only, padding included: 2 · outputs · window · input channels forward, and twice that backward
(once for the first, whose input needs no gradient). Everything else the step does, norms, attention, dense layers,
Adam, the moving average, is overhead here. Compared are the step, one a dispatch and several (in a scan, as in `fit`),
and a jitted function that does nothing but `jax.lax.conv_general_dilated` on the same shapes, sharded alike, forward
and backward. The ratio of rates is the share of the step's CPU time that its convolutions need by themselves; 1 is the
bound.

Updates in 270 s: as the step's wall time implies, start-up and compilation left out. With --seconds they are counted,
in a process of their own from its start to a Ctrl-C, so imports, initialisation and compilation are in it. A PyTorch
U-Net of this size made 1712 in 270 s on two cores.
"""

from __future__ import annotations

import math
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import bench
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

import scoresde as sd
from scoresde.parallel.mesh import data_mesh, replicate, shard_batch
from scoresde.train.state import Skeleton, init_state
from scoresde.train.step import make_step

Shapes = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
"""Of one convolution: input (n, h, w, c), kernel (3, 3, c, o), output (n, h', w', o)."""

LEVELS = sd.UniformDequantization(levels=17)
TINY = sd.UNetConfig(channels=4, num_blocks=1, multipliers=(1,), attention_levels=())


# --- The convolutions ---


def convolutions(function: Callable[..., Any], *args: Any) -> list[Shapes]:
    """Of every convolution in the trace of function(*args): whatever has two operands and strides."""
    return list(_walk(jax.make_jaxpr(function)(*args).jaxpr))


def _walk(jaxpr: Any) -> Iterator[Shapes]:
    for equation in jaxpr.eqns:
        if len(equation.invars) == 2 and {"strides", "window_strides"} & set(equation.params):
            x, kernel, out = (v.aval.shape for v in (*equation.invars, *equation.outvars))
            yield x, kernel, out
            continue
        for value in equation.params.values():
            for inner in value if isinstance(value, (tuple, list)) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from _walk(inner)


def operations(convolutions: list[Shapes]) -> float:
    """Floating-point operations forward and backward; the first one's input needs no gradient."""
    forward = [2.0 * math.prod(out) * math.prod(kernel[:-1]) for _, kernel, out in convolutions]
    return 3.0 * sum(forward) - forward[0]


@partial(jax.jit, static_argnames="strides")
def forward_and_backward(
    xs: list[Array], kernels: list[Array], gs: list[Array], strides: tuple
) -> list:
    """Outputs, and the gradients that training needs, of independent convolutions; gs: their outputs' gradients."""
    results = []
    for i, (x, kernel, g, stride) in enumerate(zip(xs, kernels, gs, strides, strict=True)):

        def convolve(kernel, x=x, stride=stride):
            return jax.lax.conv_general_dilated(
                x, kernel, stride, "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )

        out, pull = jax.vjp(convolve, *((kernel, x) if i > 0 else (kernel,)))
        results.append((out, pull(g)))
    return results


def convolutions_alone(found: list[Shapes], batch: int) -> Callable[[], Any]:
    """`forward_and_backward` on random numbers of these shapes, sharded as in training."""
    rng, mesh = np.random.default_rng(0), data_mesh(batch)
    xs, kernels, gs = (
        [rng.standard_normal(shapes[i], np.float32) for shapes in found] for i in range(3)
    )
    strides = tuple(
        tuple(-(-n // m) for n, m in zip(x[1:-1], out[1:-1], strict=True)) for x, _, out in found
    )
    xs, gs, kernels = shard_batch(xs, mesh), shard_batch(gs, mesh), replicate(kernels, mesh)
    return lambda: forward_and_backward(xs, kernels, gs, strides)


# --- The training ---


def images() -> np.ndarray:
    """1500 of the digits' shape and range: speed does not depend on what they show."""
    return np.random.default_rng(0).integers(0, 17, (1500, 8, 8, 1)).astype(np.int32)


def build(quick: bool) -> sd.ScoreModel:
    """The model of experiments/digits_vp.py."""
    config = TINY if quick else sd.UNetConfig(channels=32, num_blocks=1)
    return sd.ScoreModel(sd.VP(), config.build((8, 8, 1), rngs=nnx.Rngs(0)), sd.EDM(sigma_data=0.6))


class Stepper:
    """A state of its own and the compiled step, `count` of them a dispatch."""

    def __init__(self, model: sd.ScoreModel, batch: int, count: int):
        training, mesh = sd.Training(batch_size=batch, learning_rate=2e-3), data_mesh(batch)
        skeleton, *arrays = Skeleton.split(model)
        params, constants = jax.tree.map(jnp.copy, arrays)  # the state is donated
        self.state = replicate(init_state(params, constants, training.optimizer()), mesh)
        step = make_step(skeleton, training, LEVELS)
        rows = np.arange(count * batch).reshape(count, batch) % 1500
        if count == 1:
            self.step, self.batch = step, shard_batch((images()[rows[0]], None), mesh)
        else:
            self.step = lambda state, key, batches: jax.lax.scan(
                lambda s, b: step(s, key, b), state, batches
            )
            self.batch = shard_batch((images()[rows], None), mesh, axis=1)
        self.step = jax.jit(self.step, donate_argnums=0)

    def __call__(self) -> Any:
        self.state, metrics = self.step(self.state, jax.random.key(1), self.batch)
        return metrics


def train(quick: bool) -> None:
    """Train until Ctrl-C; the last line printed is the number of updates."""
    sd.use_cpu_cores()
    training = sd.Training(steps=10**6, learning_rate=2e-3, validate_every=600)
    fit = sd.fit(
        jax.random.key(0),
        build(quick),
        images(),
        validation=0.15,
        prepare=LEVELS,
        training=training,
        progress=False,
    )
    print(fit.step)


def count_updates(seconds: float, quick: bool) -> int:
    """Updates that `train` makes in a process of its own, from its start on; 0 if it did not come to the first."""
    command = [sys.executable, "-c", f"import train_step; train_step.train({quick})"]
    with subprocess.Popen(
        command, cwd=Path(__file__).parent, stdout=subprocess.PIPE, text=True
    ) as process:
        time.sleep(seconds)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate()
    return int(out.split()[-1]) if process.returncode == 0 else 0


def main() -> None:
    args = bench.parse(
        __doc__,
        repeats=9,
        flags={
            "--seconds": {
                "type": float,
                "help": "train for real as well, so long from process start, and count updates",
            },
            "--several": {
                "type": int,
                "default": 5,
                "help": "steps of the dispatch with several (default 5)",
            },
        },
    )
    updates = None if args.seconds is None else count_updates(args.seconds, args.quick)
    sd.use_cpu_cores()
    batch, several = 8 if args.quick else 128, args.several
    model = build(args.quick)
    found = convolutions(model.net, jnp.zeros((batch, 8, 8, 1)), jnp.full(batch, 0.5))
    one, many, alone = (
        Stepper(model, batch, 1),
        Stepper(model, batch, several),
        convolutions_alone(found, batch),
    )
    times = bench.interleaved(
        {
            "step": lambda: [one() for _ in range(several)],
            f"step, {several} a dispatch": many,
            "convolutions alone": lambda: [alone() for _ in range(several)],
        },
        args.repeats,
    )

    settings = {"batch": batch, "repeats": args.repeats, "devices": jax.local_device_count()}
    report = bench.Report("train_step", args.quick, settings)
    gigaflops = operations(found) / 1e9
    report.figures |= {"convolutions": len(found), "GFLOP a step": gigaflops}
    for name, part in times.items():
        for clock, seconds in (("CPU", part.cpu / several), ("wall", part.wall / several)):
            report.time(f"{name}, {clock}", seconds)
            report.figures[f"{name}, GFLOP/s, {clock}"] = bench.median(gigaflops / seconds)
    for name in list(times)[:2]:
        report.ratio(
            f"rate of {name} / convolutions alone, CPU",
            times["convolutions alone"].cpu,
            times[name].cpu,
        )
        report.ratio(
            f"rate of {name} / convolutions alone, wall",
            times["convolutions alone"].wall,
            times[name].wall,
        )
        report.figures[f"{name}, updates in 270 s implied"] = int(
            270 * several / np.median(times[name].wall)
        )
    if updates is not None:
        report.figures[f"sd.fit, updates in {args.seconds:g} s"] = updates
    report.finish()


if __name__ == "__main__":
    main()
