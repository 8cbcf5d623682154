"""What checkpoints cost a training, how fast a stopped one leaves, and how fast it resumes.

    python benchmarks/checkpoints.py
    python benchmarks/checkpoints.py --folder /scratch/me       # another disk than that of /tmp

Hardware: whatever JAX runs on, and a disk. Goals: one save a minute costs less than 3 % of
training, and a process that is told to end leaves a checkpoint within 30 seconds, at 1 GB of state.

save returns           how long training stands still: the state is copied, and Orbax has it
save is committed      until the files, their checksums and the manifest are on disk; training
                       goes on meanwhile, and is looked at between its steps
lost to a save         the time of `--seconds` of steps that begin with a save, beyond that of as
                       many steps without, timed just before
verified, restored     every checksum computed again; the same, and the arrays loaded
SIGTERM to exit        a process of `sd.fit` with an MLP, whose weights, EMA and two Adam moments
                       are the state: it ends its step, saves, and exits with 143
resumed                what the same call reports, `resume_seconds`, in its first row of metrics

Measured with 1 GiB on two cores of an x86-64 virtual machine and its disk, medians (lowest …
highest) of 3, --seconds 30: save returns 0.42 s (0.40 … 0.49), committed 2.7 s (2.4 … 2.9), lost to
a save 0.9 s (-3.7 … 6.5), so a save a minute cost 1.5 %. Verified and restored 1.8 s (1.7 … 3.7),
SIGTERM to exit 5.7 s (5.1 … 8.2), resumed 4.7 s (4.7 … 4.9). On the same machine under other work
(load 5) a save a minute cost 19 %.
"""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import bench
import jax
import jax.numpy as jnp
import numpy as np

import scoresde as sd
from scoresde.runs.files import read_rows

ARRAYS = 16
"""The arrays of the state that is saved here; the MLP has about as many in each of its parts."""

SQUARES = 14.1
"""The parameters of the MLP, in squares of its width."""

FLAGS = {
    "--megabytes": {"type": int, "default": None, "help": "of state (default 1024, quick 8)"},
    "--seconds": {
        "type": float,
        "default": None,
        "help": "of steps with a save, and without (default 20, quick 1)",
    },
    "--folder": {"type": Path, "default": None, "help": "where to write (default: that of /tmp)"},
}

TRAIN = """
import sys
import jax, numpy as np
from flax import nnx
import scoresde as sd
from scoresde.train.signals import exit_code_of_stop
net = sd.MLPConfig(width=int(sys.argv[2]), depth=4).build((2,), rngs=nnx.Rngs(0))
fit = sd.fit(
    jax.random.key(0),
    sd.ScoreModel(sd.VP(), net, sd.EDM(1.0)),
    np.random.default_rng(0).normal(size=(256, 2)).astype(np.float32),
    validation=0.0,
    training=sd.Training(steps=10_000, batch_size=8, log_every=1, validate_every=10_000),
    run=sys.argv[1],
    progress=False,
)
raise SystemExit(exit_code_of_stop() if fit.interrupted else 0)
"""


def main() -> None:
    args = bench.parse(__doc__, repeats=5, flags=FLAGS)
    megabytes = args.megabytes or (8 if args.quick else 1024)
    seconds = args.seconds or (1.0 if args.quick else 20.0)
    settings = {"megabytes": megabytes, "seconds": seconds, "repeats": args.repeats}

    report = bench.Report("checkpoints", args.quick, settings)
    with TemporaryDirectory(dir=args.folder) as folder:
        saves(report, Path(folder) / "saves", megabytes, seconds, args.repeats)
    with TemporaryDirectory(dir=args.folder) as folder:
        interruptions(report, Path(folder) / "run", megabytes, args.repeats)
    report.notes.append("Goal: SIGTERM to exit within 30 s.")
    report.finish()


# --- Saves beside training ---


def saves(report: bench.Report, folder: Path, megabytes: int, seconds: float, repeats: int) -> None:
    """Reports what saves cost steps that run beside them, and what reading takes."""
    size = megabytes * 2**20 // 4 // ARRAYS
    state = {f"array {i}": jax.random.normal(jax.random.key(i), (size,)) for i in range(ARRAYS)}
    step = fixed_step()
    steps_in(1.0, step)  # compiles

    returned, committed, lost, verified, restored = (np.zeros(repeats) for _ in range(5))
    with sd.runs.Checkpoints(folder, keep=2) as checkpoints:
        checkpoints.save(repeats, {"x": jnp.zeros(1)}, {})  # imports what writes
        checkpoints.wait()
        for i in range(repeats):
            count, elapsed = steps_in(seconds, step)

            def is_committed(i=i) -> bool:
                return checkpoints.committed == i

            start = time.perf_counter()
            checkpoints.save(i, jax.tree.map(jnp.copy, state), {})
            returned[i] = time.perf_counter() - start
            count_beside = 0
            while time.perf_counter() - start < seconds or not is_committed():
                step()
                count_beside += 1
                if is_committed() and not committed[i]:
                    committed[i] = time.perf_counter() - start
            lost[i] = time.perf_counter() - start - count_beside * elapsed / count

            start = time.perf_counter()
            checkpoints.restore_subtree({}, i)
            verified[i] = time.perf_counter() - start
            start = time.perf_counter()
            jax.block_until_ready(checkpoints.restore(state, i).state)
            restored[i] = time.perf_counter() - start

    report.time("save returns", returned)
    report.time("save is committed", committed)
    report.time("lost to a save", lost)
    report.time("verified", verified)
    report.time("verified and restored", restored)
    minute = np.full(repeats, 60.0)
    report.ratio("a save a minute / none", minute + lost, minute, goal=1.03)


def fixed_step() -> Callable[[], Any]:
    """Returns a step that takes some tens of milliseconds and all cores."""
    w = jax.random.normal(jax.random.key(0), (1024, 1024)) / 32.0
    x = jax.random.normal(jax.random.key(1), (2048, 1024))
    work = jax.jit(lambda x: jnp.tanh(x @ w))
    return lambda: jax.block_until_ready(work(x))


def steps_in(seconds: float, step: Callable[[], Any]) -> tuple[int, float]:
    """Returns the number of steps that begin within these seconds, and the time that they took."""
    count = 0
    start = time.perf_counter()
    while time.perf_counter() - start < seconds:
        step()
        count += 1
    return count, time.perf_counter() - start


# --- Training that is told to end ---


def interruptions(report: bench.Report, run: Path, megabytes: int, repeats: int) -> None:
    """Reports how long processes of one training take to end, and to resume."""
    width = math.isqrt(int(megabytes * 2**20 / 16 / SQUARES))  # four float32 for each weight
    ended = [seconds_to_end(run, width) for _ in range(repeats + 1)]
    rows, _ = read_rows(run / "metrics.jsonl")
    resumed = [row["resume_seconds"] for row in rows if "resume_seconds" in row]

    report.time("SIGTERM to exit", np.array(ended))
    report.time("resumed", np.array(resumed))
    files = (file for file in (run / "checkpoints").rglob("*") if file.is_file())
    newest = max(sd.runs.Checkpoints(run / "checkpoints").steps())
    size = sum(file.stat().st_size for file in files if f"/{newest}/" in file.as_posix())
    report.figures["MB of the MLP's checkpoint"] = round(size / 2**20)


def seconds_to_end(run: Path, width: int) -> float:
    """Trains until the first new row of metrics, and returns the seconds from SIGTERM to exit."""
    metrics = run / "metrics.jsonl"
    before = metrics.stat().st_size if metrics.exists() else 0
    process = subprocess.Popen([sys.executable, "-c", TRAIN, str(run), str(width)], env=os.environ)
    while not metrics.exists() or metrics.stat().st_size == before:
        if process.poll() is not None:
            raise RuntimeError(f"training ended by itself, with exit code {process.returncode}.")
        time.sleep(0.05)

    start = time.perf_counter()
    process.send_signal(signal.SIGTERM)
    code = process.wait()
    seconds = time.perf_counter() - start
    if code != 128 + signal.SIGTERM:
        raise RuntimeError(f"training was told to end, and its exit code is {code}.")

    # What is on disk is what was trained: the newest checkpoint is sound, and of the last row.
    rows, _ = read_rows(metrics)
    found = sd.runs.Checkpoints(run / "checkpoints").restore_subtree({})
    if found.step != rows[-1]["step"]:
        raise RuntimeError(f"step {rows[-1]['step']} was trained, and {found.step} was saved.")
    return seconds


if __name__ == "__main__":
    main()
