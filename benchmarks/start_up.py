"""How long one waits before anything happens: imports, a network, the first training step, the command line.

    python benchmarks/start_up.py

Each row is a fresh Python process, timed from outside, interpreter included; rows are interleaved, medians over
repeats. Goal: `import scoresde` costs at most 0.3 s more than the libraries it stands on. The network is the digits
U-Net (32 channels, one block a level); the first step of its training ends with everything compiled.
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
images = np.zeros((128, 8, 8, 1), np.int32)
sd.fit(jax.random.key(0), model, images, validation=0.0, prepare=sd.UniformDequantization(levels=17),
       training=sd.Training(steps=1, batch_size={batch}), progress=False)
"""
)


def commands(quick: bool) -> dict[str, list[str]]:
    """What each process runs: arguments of the Python interpreter."""
    tiny = {"settings": "channels=4, multipliers=(1,), attention_levels=(), ", "batch": 8}
    sizes = tiny if quick else {"settings": "channels=32, ", "batch": 128}
    return {
        "python": ["-c", "pass"],
        "libraries": ["-c", LIBRARIES],
        "libraries and scoresde": ["-c", f"{LIBRARIES}, scoresde"],
        "scoresde alone": ["-c", "import scoresde"],
        "scoresde --version": ["-m", "scoresde", "--version"],
        "network built": ["-c", BUILD.format(**sizes)],
        "first training step": ["-c", STEP.format(**sizes)],
    }


def run(arguments: Sequence[str]) -> tuple[float, float]:
    """Wall and CPU seconds of one process."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        [sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, env=os.environ
    )
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    args = bench.parse(__doc__, repeats=5)
    parts = commands(args.quick)
    if not args.quick:
        for arguments in parts.values():
            run(arguments)  # once to fill the caches: files, byte code
    rows = {name: [] for name in parts}
    for _ in range(args.repeats):
        for name, arguments in parts.items():
            rows[name].append(run(arguments))
    times = {name: np.array(values) for name, values in rows.items()}  # (repeats, 2)

    report = bench.Report("start_up", args.quick, {"repeats": args.repeats, "libraries": LIBRARIES})
    for name, seconds in times.items():
        report.time(f"{name}, wall", seconds[:, 0])
        report.time(f"{name}, CPU", seconds[:, 1])
    base, with_scoresde = times["libraries"], times["libraries and scoresde"]
    for column, clock in enumerate(("wall", "CPU")):
        report.time(f"import scoresde adds, {clock}", with_scoresde[:, column] - base[:, column])
        report.ratio(
            f"libraries and scoresde / libraries, {clock}",
            with_scoresde[:, column],
            base[:, column],
        )
    report.notes.append("Goal: import scoresde adds at most 0.3 s.")
    report.finish()


if __name__ == "__main__":
    main()
