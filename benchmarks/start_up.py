"""How long one waits before anything happens: imports, a network, the first training step.

    python benchmarks/start_up.py

Hardware: a CPU. Goal: scoresde adds at most 0.3 s to the import of the libraries it uses. Its
modules are imported at the first use of a name.

Each row is a fresh Python process, interpreter included, timed from outside. Rows are
interleaved, and medians are over repeats. The network is the digits U-Net (32 channels, one block
per level); the first step of its training ends with everything compiled.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence

import bench
import numpy as np

LIBRARIES = "import jax, flax, optax, diffrax"

BUILD = """
import scoresde as sd
sd.use_cpu_cores()
import jax, numpy as np
from flax import nnx
net = sd.UNetConfig({settings}num_blocks=1).build((8, 8, 1), rngs=nnx.Rngs(0))
jax.block_until_ready(nnx.state(net, nnx.Param))
"""

STEP = (
    BUILD
    + """
model = sd.ScoreModel(sd.VP(), net, sd.EDM(sigma_data=0.6))
images = np.arange(128 * 64, dtype=np.int32).reshape(128, 8, 8, 1) % 17
sd.fit(
    jax.random.key(0),
    model,
    images,
    validation=0.0,
    prepare=sd.UniformDequantization(levels=17),
    training=sd.Training(steps=1, batch_size={batch}),
    progress=False,
)
"""
)


def main() -> None:
    args = bench.parse(__doc__, repeats=5)
    parts = commands(args.quick)
    if not args.quick:
        for arguments in parts.values():
            run(arguments)  # fills the caches: files, byte code

    rows = {name: [] for name in parts}
    for _ in range(args.repeats):
        for name, arguments in parts.items():
            rows[name].append(run(arguments))
    times = {name: np.array(values) for name, values in rows.items()}  # (repeats, 2)

    report = bench.Report("start_up", args.quick, {"repeats": args.repeats, "libraries": LIBRARIES})
    for name, seconds in times.items():
        report.time(f"{name}, wall", seconds[:, 0])
        report.time(f"{name}, CPU", seconds[:, 1])

    for column, clock in enumerate(("wall", "CPU")):
        base = times["libraries"][:, column]
        with_scoresde = times["libraries and scoresde"][:, column]
        report.time(f"import scoresde adds, {clock}", with_scoresde - base)
        report.ratio(f"libraries and scoresde / libraries, {clock}", with_scoresde, base)
    report.notes.append("Goal: import scoresde adds at most 0.3 s.")
    report.finish()


def commands(quick: bool) -> dict[str, list[str]]:
    """Returns what each process runs, as arguments of the Python interpreter."""
    sizes = {"settings": "channels=32, ", "batch": 128}
    if quick:
        sizes = {"settings": "channels=4, multipliers=(1,), attention_levels=(), ", "batch": 8}

    return {
        "python": ["-c", "pass"],
        "libraries": ["-c", LIBRARIES],
        "libraries and scoresde": ["-c", f"{LIBRARIES}, scoresde; scoresde.VP"],
        "scoresde alone": ["-c", "import scoresde; scoresde.VP"],
        "scoresde --version": ["-m", "scoresde", "--version"],
        "network built": ["-c", BUILD.format(**sizes)],
        "first training step": ["-c", STEP.format(**sizes)],
    }


def run(arguments: Sequence[str]) -> tuple[float, float]:
    """Returns the wall and CPU seconds of one process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, env=os.environ
    )
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)

    user = after.ru_utime - before.ru_utime
    system = after.ru_stime - before.ru_stime
    return wall, user + system


if __name__ == "__main__":
    main()
