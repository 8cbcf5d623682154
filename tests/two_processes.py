"""One of two processes that train together.

`python two_processes.py PORT PROCESS FOLDER` prints what it saw, as one line of JSON. In the end
process 1 is killed while both train again, and process 0 reports that.
"""

import dataclasses
import json
import os
import signal
import sys
from pathlib import Path

import jax
import numpy as np
from flax import nnx

import scoresde as sd
import scoresde.cli.main
from scoresde.parallel import per_example
from scoresde.parallel.shared_lines import SharedLines

TRAINING = sd.Training(
    steps=12, batch_size=8, warmup=2, validate_every=4, log_every=4, accumulate=2
)


class Rows:
    """Labelled points that can send this process a SIGTERM.

    They do so when a batch of training is asked for the `signal_at`-th time, and send a SIGKILL
    once the file `killed_after` exists.
    """

    shape = (2,)
    fingerprint = "rows"

    def __init__(
        self,
        n: int,
        seed: int = 0,
        signal_at: int | None = None,
        killed_after: Path | None = None,
    ):
        generator = np.random.default_rng(seed)
        self.x = generator.normal(size=(n, 2)).astype(np.float32)
        self.label = generator.integers(0, 3, n)
        self.asked = 0
        self.signal_at = signal_at
        self.killed_after = killed_after

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, indices: np.ndarray):
        if len(indices) >= 4:  # checks look at one or two examples only
            self.asked += 1
            if self.asked == self.signal_at:
                os.kill(os.getpid(), signal.SIGTERM)
            if self.killed_after is not None and self.killed_after.is_file():
                os.kill(os.getpid(), signal.SIGKILL)
        return self.x[indices], self.label[indices]


def train(run=None, key=0, training=TRAINING, weights=0, **options):
    """Trains a small conditional model. `weights` seeds its initial weights."""
    config = sd.MLPConfig(width=8, depth=1, num_classes=3, dropout=0.2)
    net = config.build((2,), rngs=nnx.Rngs(weights))
    model = sd.ScoreModel(sd.VP(), net, sd.EDM(1.0))

    examples = {
        "data": Rows(50),
        "validation": Rows(11, seed=1),  # the last batch of 11 is not full
    }
    return sd.fit(
        jax.random.key(key),
        model,
        run=run,
        training=training,
        progress=False,
        **(examples | options),
    )


def refused(call=train, **options) -> str:
    """Returns the error that a call raises."""
    try:
        call(**options)
    except (ValueError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    return "not refused"


def fail(step, model):
    raise ValueError("no picture")


def labelled(sde, t):
    return 100.0 * t


def train_with_a_function_among_the_settings():
    net = sd.MLPConfig(width=8, depth=1).build((2,), rngs=nnx.Rngs(0))
    model = sd.ScoreModel(sd.VP(), net, sd.Noise(labelled))
    sd.fit(jax.random.key(0), model, Rows(50).x, training=TRAINING, progress=False)


def sample(key) -> np.ndarray:
    """Returns 5 samples of an untrained model."""
    net = sd.MLPConfig(width=8, depth=1).build((2,), rngs=nnx.Rngs(0))
    model = sd.ScoreModel(sd.VP(), net)
    return np.asarray(sd.sample(key, sd.EulerMaruyama(5), model.sde, model, (5, 2)).x)


def sample_or_fail(process: int) -> np.ndarray:
    """Returns samples, drawn again after process 1 has failed to draw its share."""
    joined = per_example._joined

    def fail(*args):
        raise MemoryError("too many rows")

    def failing(process: int) -> np.ndarray:
        per_example._joined = fail if process == 1 else joined
        try:
            return sample(jax.random.key(1))
        finally:
            per_example._joined = joined

    try:
        return failing(process)
    except (MemoryError, RuntimeError) as error:
        again = sample(jax.random.key(1)).tolist()
        raise RuntimeError(f"{type(error).__name__}: {error} {again}") from error


def sample_by_command(run: Path, stop: bool = False) -> int:
    """Runs `scoresde sample` for 6 samples in two chunks; returns its exit code.

    stop: whether Ctrl-C arrives when the first chunk has been drawn.
    """
    append = SharedLines.append

    def append_and_stop(lines, content):
        append(lines, content)
        raise KeyboardInterrupt

    SharedLines.append = append_and_stop if stop else append
    try:
        options = ["--num", "6", "--batch-size", "3", "--out", str(run / "six.npz")]
        sampler = ["sampler:euler-maruyama", "--sampler.num-steps", "5"]
        return scoresde.cli.main.main(["sample", str(run), *options, *sampler])
    finally:
        SharedLines.append = append


def same_weights(a, b) -> bool:
    states = [nnx.to_pure_dict(nnx.state(model.net, nnx.Param)) for model in (a, b)]
    return bool(jax.tree.all(jax.tree.map(np.array_equal, *states)))


def main(port: str, process: int, folder: Path) -> None:
    sd.join_processes(f"127.0.0.1:{port}", 2, process)
    seen: dict = {"devices": jax.device_count()}
    run = folder / "run"

    # What differs between the processes, or fails in one of them.
    seen["other key"] = refused(key=process)
    other_rows = sd.Training(steps=12, batch_size=8, log_every=4 + process)
    seen["other rows of metrics"] = refused(training=other_rows)
    seen["batch of 9"] = refused(training=sd.Training(steps=12, batch_size=9))
    seen["callback"] = refused(callbacks=[fail])

    # A signal to one process. Other initial weights do no harm: those of process 0 are used.
    rows = Rows(50, signal_at=2 if process == 1 else None)
    stopped = train(run, weights=process, data=rows)
    seen["stopped"] = [stopped.interrupted, stopped.step]
    seen["not shared"] = refused(run=folder / f"run{process}")

    # The rest of the training, with weights that are sharded over both.
    called = []
    fit = train(
        run,
        training=dataclasses.replace(TRAINING, shard_above=16),
        callbacks=[lambda step, model: called.append(step)] if process == 0 else [],
    )
    seen["finished"] = [fit.interrupted, fit.step]
    seen["called"] = called
    seen["rows"] = fit.history

    # What comes after it.
    seen["read in a callback"] = refused(callbacks=[lambda step, model: sd.load(run)])
    seen["read by all"] = same_weights(sd.load(run), fit.model)
    seen["custom label"] = refused(train_with_a_function_among_the_settings)

    # Rows that both compute.
    seen["sample"] = sample(jax.random.key(1)).tolist()
    seen["other key of samples"] = refused(lambda: sample(jax.random.key(process)))
    seen["failed share"] = refused(lambda: sample_or_fail(process))
    with sd.one_process():
        seen["sample of one"] = sample(jax.random.key(process)).tolist()

    # A command, stopped after its first chunk, and given again.
    seen["command"] = [sample_by_command(run, stop=True), sample_by_command(run)]
    print(json.dumps(seen), flush=True)

    # One is lost.
    lost = folder / "lost"
    manifest = checkpoint_of(lost, 4)
    train(
        lost,
        training=dataclasses.replace(TRAINING, steps=20_000),
        data=Rows(50, killed_after=manifest if process == 1 else None),
    )


def checkpoint_of(run: Path, step: int) -> Path:
    """Returns the file that exists once the checkpoint of a step is on disk."""
    return run / "checkpoints" / str(step) / "manifest.json"


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
