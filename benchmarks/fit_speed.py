"""Images/s of `sd.fit`, over those of a plain JAX loop that trains the same network.

    python benchmarks/fit_speed.py

Hardware: a CPU. Goal: a ratio of at least 1.5 on two cores.

The network is that of experiments/mnist_ddpm.py (a U-Net of 16 channels, 28×28×1, batch 64), the
loss |noise - estimate|^2, with Adam and a moving average of the weights. The plain loop is what one
writes first: one device, a jitted step, a batch of NumPy per step. `sd.fit` shards a batch over the
cores, takes several steps in one call, and assembles batches in a thread.

Each timing is a Python process of its own, since the number of devices is fixed when JAX starts.
The processes take turns. What is timed are the steps after the first ones, which compile.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

import bench
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import scoresde as sd

NETS = {
    True: sd.UNetConfig(channels=4, multipliers=(1,), num_blocks=1, attention_levels=()),
    False: sd.UNetConfig(channels=16, multipliers=(1, 2, 2), num_blocks=1, attention_levels=(2,)),
}
"""By whether --quick was given."""

FLAGS = {
    "--steps": {"type": int, "default": None, "help": "steps that are timed (default 40, quick 4)"},
    "--child": {"choices": ["plain", "fit"], "default": None, "help": argparse.SUPPRESS},
}


def main() -> None:
    args = bench.parse(__doc__, repeats=5, flags=FLAGS)
    steps = args.steps or (4 if args.quick else 40)
    if args.child is not None:
        print({"plain": plain, "fit": fit}[args.child](args.quick, steps))
        return

    seconds = {"plain": [], "fit": []}
    for _ in range(args.repeats):
        for name, found in seconds.items():
            found.append(run(name, args.quick, steps))
    plain_times, fit_times = (np.array(found) / steps for found in seconds.values())

    batch = batch_of(args.quick)
    settings = {"repeats": args.repeats, "steps": steps, "batch": batch}
    report = bench.Report("fit_speed", args.quick, settings)
    for name, times in (("plain JAX loop", plain_times), ("sd.fit", fit_times)):
        report.time(f"{name}, a step", times)
        report.figures[f"{name}, images/s"] = bench.median(batch / times)
    report.ratio("images/s, sd.fit / plain JAX loop", plain_times, fit_times)
    report.notes.append("Goal: at least 1.5.")
    report.finish()


def run(name: str, quick: bool, steps: int) -> float:
    """Returns the seconds that a process of its own needed for the steps."""
    command = [sys.executable, __file__, "--child", name, "--steps", str(steps)]
    done = subprocess.run(
        [*command, *(["--quick"] if quick else [])], capture_output=True, text=True, check=True
    )
    return float(done.stdout.splitlines()[-1])


# --- What is compared ---


def batch_of(quick: bool) -> int:
    """Returns the number of images in a batch."""
    return 8 if quick else 64


def images() -> np.ndarray:
    """Returns 4096 images of noise."""
    return np.random.default_rng(0).integers(0, 256, (4096, 28, 28, 1), np.uint8)


def plain(quick: bool, steps: int) -> float:
    """Returns the seconds of `steps` steps of a plain loop."""
    sde = sd.VP()
    parameterization = sd.EDM(sigma_data=0.6)
    net = NETS[quick].build((28, 28, 1), rngs=nnx.Rngs(0))
    graph, params, rest = nnx.split(net, nnx.Param, ...)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3))

    def loss(params, key, pixels):
        key_bins, key_t, key_noise = jax.random.split(key, 3)
        x0 = (pixels + jax.random.uniform(key_bins, pixels.shape)) / 128.0 - 1.0
        t = jax.random.uniform(key_t, (len(x0),), minval=1e-5)
        noise = jax.random.normal(key_noise, x0.shape)
        mean, std = sde.marginal_prob(x0, t)
        x = mean + std[:, None, None, None] * noise
        model = sd.ScoreModel(sde, nnx.merge(graph, params, rest), parameterization)
        _, estimate = model.data_and_noise(x, t)
        return jnp.mean((noise - estimate) ** 2)

    @jax.jit
    def step(state, key, pixels):
        params, moments, average = state
        gradient = jax.grad(loss)(params, key, pixels)
        updates, moments = optimizer.update(gradient, moments)
        params = optax.apply_updates(params, updates)
        average = jax.tree.map(lambda a, p: 0.999 * a + 0.001 * p, average, params)
        return params, moments, average

    data, rng = images(), np.random.default_rng(0)
    state = (params, optimizer.init(params), params)
    start = 0.0
    for i in range(steps + 3):
        if i == 3:
            jax.block_until_ready(state)
            start = time.perf_counter()
        batch = data[rng.integers(0, len(data), batch_of(quick))]
        state = step(state, jax.random.key(i), batch)
    jax.block_until_ready(state)
    return time.perf_counter() - start


def fit(quick: bool, steps: int) -> float:
    """Returns the seconds of `steps` steps of `sd.fit`."""
    sd.use_cpu_cores()
    net = NETS[quick].build((28, 28, 1), rngs=nnx.Rngs(0))
    found = sd.fit(
        jax.random.key(0),
        sd.ScoreModel(sd.VP(), net, sd.EDM(sigma_data=0.6)),
        images(),
        validation=0.0,
        prepare=sd.UniformDequantization(),
        training=sd.Training(
            steps=2 * steps, batch_size=batch_of(quick), log_every=steps, validate_every=2 * steps
        ),
        progress=False,
    )
    return steps / found.history[-1]["steps_per_second"]


if __name__ == "__main__":
    main()
