"""One of two processes that train together: `python two_processes.py PORT PROCESS FOLDER` prints what it saw."""

import json
import os
import signal
import sys
from pathlib import Path

import jax
import numpy as np
from flax import nnx

import scoresde as sd

TRAINING = sd.Training(
    steps=12, batch_size=8, warmup=2, validate_every=4, log_every=4, accumulate=2
)


class Rows:
    """Labelled points; asked for a batch of training the `signal_at`-th time, it sends this process a SIGTERM."""

    shape = (2,)
    fingerprint = "rows"

    def __init__(self, n: int, seed: int = 0, signal_at: int | None = None):
        generator = np.random.default_rng(seed)
        self.x, self.label = (
            generator.normal(size=(n, 2)).astype(np.float32),
            generator.integers(0, 3, n),
        )
        self.asked, self.signal_at = 0, signal_at

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, indices: np.ndarray):
        if len(indices) >= 4:  # not the looks at one or two examples that checks take
            self.asked += 1
            if self.asked == self.signal_at:
                os.kill(os.getpid(), signal.SIGTERM)
        return self.x[indices], self.label[indices]


def train(run=None, key=0, training=TRAINING, weights=0, **options):
    net = sd.MLPConfig(width=8, depth=1, num_classes=3, dropout=0.2).build(
        (2,), rngs=nnx.Rngs(weights)
    )
    model = sd.ScoreModel(sd.VP(), net, sd.EDM(1.0))
    options = {
        "data": Rows(50),
        "validation": Rows(11, seed=1),
    } | options  # 11: a last part that is not full
    return sd.fit(jax.random.key(key), model, run=run, training=training, progress=False, **options)


def refused(call=train, **options) -> str:
    try:
        call(**options)
    except (ValueError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    return "not refused"


def labelled(sde, t):
    return 100.0 * t


def fail(step, model):
    raise ValueError("no picture")


def main(port: str, process: int, folder: Path) -> None:
    address = f"127.0.0.1:{port}"
    jax.distributed.initialize(
        address, num_processes=2, process_id=process, coordinator_bind_address=address
    )
    called = []
    seen = {"devices": jax.device_count()}
    seen["other key"] = refused(key=process)
    seen["other rows of metrics"] = refused(
        training=sd.Training(steps=12, batch_size=8, log_every=4 + process)
    )
    seen["batch of 9"] = refused(training=sd.Training(steps=12, batch_size=9))
    seen["callback"] = refused(callbacks=[fail])
    rows = Rows(50, signal_at=2 if process == 1 else None)
    stopped = train(folder / "run", weights=process, data=rows)  # process 0's initial weights serve
    seen["stopped"] = [stopped.interrupted, stopped.step]
    seen["not shared"] = refused(run=folder / f"run{process}")
    fit = train(folder / "run", callbacks=[lambda step, model: called.append(step)])
    seen["read in a callback"] = refused(callbacks=[lambda step, model: sd.load(folder / "run")])
    weights = (
        nnx.to_pure_dict(nnx.state(m.net, nnx.Param)) for m in (sd.load(folder / "run"), fit.model)
    )
    seen["read by all"] = bool(jax.tree.all(jax.tree.map(np.array_equal, *weights)))
    own = sd.ScoreModel(
        sd.VP(), sd.MLPConfig(width=8, depth=1).build((2,), rngs=nnx.Rngs(0)), sd.Noise(labelled)
    )
    seen["label of their own"] = refused(
        lambda: sd.fit(jax.random.key(0), own, Rows(50).x, training=TRAINING, progress=False)
    )
    sample = sd.sample(
        jax.random.key(1),
        sd.EulerMaruyama(5),
        fit.model.sde,
        fit.model,
        (4, 2),
        cond=np.zeros(4, np.int32),
    )
    seen |= {
        "finished": [fit.interrupted, fit.step],
        "called": called,
        "rows": fit.history,
        "sample": np.asarray(sample.x).tolist(),
    }
    print(json.dumps(seen))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
