"""Training that is killed, and training that lasts, in processes of their own.

The long forms, of docs/reliability.md, are `slow`.
"""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

KILLED = """
import sys
import jax, numpy as np
import scoresde as sd
from small_training import KEY, SMALL, mlp, weights
import dataclasses
x = np.random.default_rng(0).normal(size=(256, 2)).astype(np.float32)
training = dataclasses.replace(SMALL, steps=int(sys.argv[2]), log_every=5, validate_every=10)
print("started", flush=True)
fit = sd.fit(
    KEY, mlp(dropout=0.1), x, training=training, run=sys.argv[1] or None, progress=False
)
import hashlib
print(hashlib.sha256(b"".join(w.tobytes() for w in weights(fit.model))).hexdigest())
print([row["loss"] for row in fit.history])
"""


def start(code, *arguments):
    return subprocess.Popen(
        [sys.executable, "-W", "error::UserWarning:scoresde", "-c", code, *map(str, arguments)],
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    ("kills", "steps"), [(1, 100), pytest.param(20, 2000, marks=pytest.mark.slow)]
)
def test_a_run_that_is_killed_at_any_moment_ends_as_if_it_had_not_been(tmp_path, kills, steps):
    """Weights and losses to the bit, and no lock left."""
    out, err = start(KILLED, "", steps).communicate()
    assert out, err
    run = tmp_path / "run"

    random.seed(kills)
    for _ in range(kills):
        process = start(KILLED, run, steps)
        assert process.stdout.readline() == "started\n"
        newest = sorted(run.glob("checkpoints/*/manifest.json"))
        while not set(run.glob("checkpoints/*/manifest.json")) - set(newest):
            assert process.poll() is None, "it has finished, and was not killed"
            time.sleep(0.01)
        time.sleep(random.uniform(0.0, 0.2) if steps > 100 else 0.0)
        process.send_signal(signal.SIGKILL)
        process.communicate()

    resumed, err = start(KILLED, run, steps).communicate()
    assert resumed == out, err
    assert not (run / "lock.json").exists()
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines() if line]
    assert {row["step"] for row in rows} == set(range(5, steps + 1, 5))


LASTING = """
import dataclasses, os, sys, threading
from pathlib import Path
import jax, numpy as np
import scoresde as sd
from small_training import KEY, SMALL, mlp
x = np.random.default_rng(0).normal(size=(256, 2)).astype(np.float32)
run, steps, every = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
training = dataclasses.replace(
    SMALL, steps=steps, log_every=every // 2, validate_every=every, batch_size=16
)

def seen(step, model):
    memory = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    disk = sum(f.stat().st_size for f in run.rglob("*") if f.is_file() and f.suffix != ".jsonl")
    handles = len(os.listdir("/proc/self/fd"))
    print(step, memory, disk, handles, threading.active_count(), flush=True)

sd.fit(KEY, mlp(), x, training=training, run=run, callbacks=[seen], progress=False)
"""


@pytest.mark.parametrize(
    ("steps", "every"), [(100, 5), pytest.param(10_000, 100, marks=pytest.mark.slow)]
)
def test_long_training_needs_no_more_of_anything(tmp_path, steps, every):
    """Memory, disk, handles and threads, from the fourth save to the last."""
    out, err = start(LASTING, tmp_path / "run", steps, every).communicate()
    rows = [[int(number) for number in line.split()] for line in out.splitlines()]
    assert len(rows) == steps // every, err
    step, memory, disk, handles, threads = zip(*rows[3:], strict=True)
    assert step[-1] == steps
    print(f"memory {memory[0]:,} to {memory[-1]:,}, disk {min(disk):,} to {max(disk):,}")
    assert memory[-1] < 1.05 * memory[0]
    assert max(disk) < 1.5 * min(disk)
    assert max(handles) - min(handles) <= 8 and handles[-1] <= handles[0] + 4
    assert max(threads) <= min(threads) + 4 and threads[-1] <= threads[0] + 2
