"""The training step's floating-point rate, over that of the same convolutions alone.

    python benchmarks/train_step.py
    python benchmarks/train_step.py --seconds 270     # and a real training of that length

Hardware: a CPU. Bound: a ratio of 1.

Measured is the digits U-Net (32 channels, one block per level, 8×8×1, batch 128), sharded over
the cores as `sd.fit` does. The rate counts the convolutions only, padding included: 2 · outputs ·
window · input channels forward, and twice that backward (once for the first, whose input needs no
gradient). Everything else in the step (norms, attention, dense layers, Adam, the moving average)
is overhead.

Compared are the step, one per dispatch and several (in a scan, as in `fit`), and a jitted
function that does nothing but `jax.lax.conv_general_dilated` on the same shapes, sharded alike,
forward and backward. The ratio of the rates is the share of the step's CPU time that its
convolutions need.

Updates in 270 s follow from the step's wall time, without start-up and compilation. With
--seconds they are counted in a process of their own, from its start to a Ctrl-C, so that imports,
initialisation and compilation are included. A PyTorch U-Net of this size made 1712 in 270 s on
two cores.
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
"""The shapes of a convolution: input (n, h, w, c), kernel (3, 3, c, o), output (n, h', w', o)."""

LEVELS = sd.UniformDequantization(levels=17)
TINY = sd.UNetConfig(channels=4, num_blocks=1, multipliers=(1,), attention_levels=())
USUAL = sd.UNetConfig(channels=32, num_blocks=1)
"""The network of experiments/digits_vp.py."""

FLAGS = {
    "--seconds": {
        "type": float,
        "help": "also train this long, counted from the start of a process, and count updates",
    },
    "--several": {
        "type": int,
        "default": 5,
        "help": "steps of the dispatch with several (default 5)",
    },
}


def main() -> None:
    args = bench.parse(__doc__, repeats=9, flags=FLAGS)
    updates = None if args.seconds is None else count_updates(args.seconds, args.quick)

    sd.use_cpu_cores()
    batch = 8 if args.quick else 128
    several = args.several
    settings = {"batch": batch, "repeats": args.repeats, "devices": jax.local_device_count()}
    report = bench.Report("train_step", args.quick, settings)

    # What is compared, `several` steps each.
    model = build(args.quick)
    found = convolutions(model.net, jnp.zeros((batch, 8, 8, 1)), jnp.full(batch, 0.5))
    one = Stepper(model, batch, 1)
    many = Stepper(model, batch, several)
    alone = convolutions_alone(found, batch)
    parts = {
        "step": lambda: [one() for _ in range(several)],
        f"step, {several} a dispatch": many,
        "convolutions alone": lambda: [alone() for _ in range(several)],
    }
    times = bench.interleaved(parts, args.repeats)

    # Times and rates.
    gigaflops = operations(found) / 1e9
    report.figures |= {"convolutions": len(found), "GFLOP a step": gigaflops}
    for name, part in times.items():
        for clock, seconds in (("CPU", part.cpu / several), ("wall", part.wall / several)):
            report.time(f"{name}, {clock}", seconds)
            report.figures[f"{name}, GFLOP/s, {clock}"] = bench.median(gigaflops / seconds)

    # Ratios, and updates.
    base = times.pop("convolutions alone")
    for name, part in times.items():
        label = f"rate of {name} / convolutions alone"
        report.ratio(f"{label}, CPU", base.cpu, part.cpu)
        report.ratio(f"{label}, wall", base.wall, part.wall)
        implied = 270 * several / np.median(part.wall)
        report.figures[f"{name}, updates in 270 s implied"] = int(implied)
    if updates is not None:
        report.figures[f"sd.fit, updates in {args.seconds:g} s"] = updates
    report.finish()


# --- The convolutions ---


def convolutions(function: Callable[..., Any], *args: Any) -> list[Shapes]:
    """Returns the shapes of every convolution in the trace of function(*args)."""
    return list(_walk(jax.make_jaxpr(function)(*args).jaxpr))


def _walk(jaxpr: Any) -> Iterator[Shapes]:
    """Yields the shapes of convolutions: of whatever has two operands and strides."""
    for equation in jaxpr.eqns:
        has_strides = {"strides", "window_strides"} & set(equation.params)
        if len(equation.invars) == 2 and has_strides:
            x, kernel = (variable.aval.shape for variable in equation.invars)
            (out,) = (variable.aval.shape for variable in equation.outvars)
            yield x, kernel, out
            continue

        for value in equation.params.values():
            for inner in value if isinstance(value, (tuple, list)) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from _walk(inner)


def operations(convolutions: list[Shapes]) -> float:
    """Returns the floating-point operations forward and backward.

    The input of the first convolution needs no gradient.
    """
    forward = [2.0 * math.prod(out) * math.prod(kernel[:-1]) for _, kernel, out in convolutions]
    return 3.0 * sum(forward) - forward[0]


@partial(jax.jit, static_argnames="strides")
def forward_and_backward(
    xs: list[Array], kernels: list[Array], gs: list[Array], strides: tuple
) -> list:
    """Returns outputs, and the gradients that training needs, of independent convolutions.

    gs: the gradients of their outputs.
    """
    results = []
    for i, (x, kernel, g, stride) in enumerate(zip(xs, kernels, gs, strides, strict=True)):

        def convolve(kernel, x=x, stride=stride):
            return jax.lax.conv_general_dilated(
                x, kernel, stride, "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )

        inputs = (kernel, x) if i > 0 else (kernel,)
        out, pull = jax.vjp(convolve, *inputs)
        results.append((out, pull(g)))
    return results


def convolutions_alone(found: list[Shapes], batch: int) -> Callable[[], Any]:
    """Returns `forward_and_backward` on random numbers of these shapes, sharded as in training."""
    rng = np.random.default_rng(0)
    xs = [rng.standard_normal(x, np.float32) for x, _, _ in found]
    kernels = [rng.standard_normal(kernel, np.float32) for _, kernel, _ in found]
    gs = [rng.standard_normal(out, np.float32) for _, _, out in found]
    strides = tuple(stride_of(x, out) for x, _, out in found)

    mesh = data_mesh(batch)
    xs = shard_batch(xs, mesh)
    gs = shard_batch(gs, mesh)
    kernels = replicate(kernels, mesh)
    return lambda: forward_and_backward(xs, kernels, gs, strides)


def stride_of(x: tuple[int, ...], out: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the strides that take the space of x to that of out."""
    return tuple(math.ceil(n / m) for n, m in zip(x[1:-1], out[1:-1], strict=True))


# --- The training ---


def images() -> np.ndarray:
    """Returns 1500 images of the digits' shape and range; speed does not depend on the content."""
    return np.random.default_rng(0).integers(0, 17, (1500, 8, 8, 1)).astype(np.int32)


def build(quick: bool) -> sd.ScoreModel:
    """Returns the model of experiments/digits_vp.py."""
    config = TINY if quick else USUAL
    net = config.build((8, 8, 1), rngs=nnx.Rngs(0))
    return sd.ScoreModel(sd.VP(), net, sd.EDM(sigma_data=0.6))


class Stepper:
    """A training state and the compiled step, `count` of them per dispatch."""

    def __init__(self, model: sd.ScoreModel, batch: int, count: int):
        training = sd.Training(batch_size=batch, learning_rate=2e-3)
        mesh = data_mesh(batch)

        skeleton, *arrays = Skeleton.split(model)
        params, constants = jax.tree.map(jnp.copy, arrays)  # the state is donated
        self.state = replicate(init_state(params, constants, training.transformation()), mesh)

        step = make_step(skeleton, training, sd.objectives.DenoisingScoreMatching(), LEVELS)
        rows = np.arange(count * batch).reshape(count, batch) % 1500
        if count == 1:
            self.step = jax.jit(step, donate_argnums=0)
            self.batch = shard_batch((images()[rows[0]], None), mesh)
            return

        def steps(state, key, batches):
            return jax.lax.scan(lambda s, b: step(s, key, b), state, batches)

        self.step = jax.jit(steps, donate_argnums=0)
        self.batch = shard_batch((images()[rows], None), mesh, axis=1)

    def __call__(self) -> Any:
        self.state, metrics = self.step(self.state, jax.random.key(1), self.batch)
        return metrics


def train(quick: bool) -> None:
    """Trains until Ctrl-C, and prints the number of updates last."""
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
    """Returns how many updates `train` makes in a new process, counted from its start.

    It is 0 if the process did not come to the first.
    """
    command = [sys.executable, "-c", f"import train_step; train_step.train({quick})"]
    folder = Path(__file__).parent
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        time.sleep(seconds)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate()
    return int(out.split()[-1]) if process.returncode == 0 else 0


if __name__ == "__main__":
    main()
