"""`fit`: train a ScoreModel on arrays or a source of them, on all devices of all processes, resumable to the bit."""

from __future__ import annotations

import dataclasses
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from tqdm import tqdm

from scoresde.config import differences, save_yaml, to_dict
from scoresde.data.order import Order
from scoresde.data.prefetch import Prefetch
from scoresde.data.prepare import without_augmentation
from scoresde.data.source import ArraySource, Source, take
from scoresde.dequantization import check_real_valued
from scoresde.model import is_own_network
from scoresde.processes import any_process, check_alike, check_shared, in_first, meet
from scoresde.score import ScoreModel
from scoresde.sharding import local, replicate, shard_batch, training_mesh, whole
from scoresde.train.examples import (
    as_source,
    check_fits,
    check_labels,
    fingerprint_of,
    hold_out,
    nbytes,
)
from scoresde.train.run import LARGEST_HELD_OUT, RunFolder, describe
from scoresde.train.state import Skeleton, State, init_state
from scoresde.train.step import Prepare, Training, make_step, make_validation
from scoresde.types import Cond, as_typed_key

Callback = Callable[[int, ScoreModel], dict[str, Any] | None]
"""(step, EMA model) → metrics to log, called after every validation: pictures, reports, evaluations."""


class TrainingDiverged(ValueError):
    """Too many non-finite steps in a row; parameters and EMA are still the last finite ones."""


@dataclasses.dataclass(frozen=True)
class Fit:
    """What training leaves: the EMA model, the step reached, the logged rows, and whether it was interrupted."""

    model: ScoreModel
    step: int
    history: list[dict[str, Any]]
    interrupted: bool = False


def fit(
    key: Array,
    model: ScoreModel,
    data: Any,
    *,
    cond: Cond = None,
    validation: Any = 0.1,
    validation_cond: Cond = None,
    prepare: Prepare | None = None,
    training: Training = Training(),
    run: str | os.PathLike[str] | None = None,
    config: Any = None,
    callbacks: Sequence[Callback] = (),
    progress: bool = True,
) -> Fit:
    """Train by denoising score matching; the EMA model is returned, and kept in a run's folder if one is named.

    data: (n, *shape) real numbers, about in [-1, 1], and cond: leaves (n, ...); or a `Source`, whose labels are its own
    (data/images.py). Batches are assembled in a thread, ahead. validation: held-out examples, a source of them, or the
    fraction of the data to hold out (0 for none). prepare: (key, batch) → batch, drawn anew every step, e.g.
    `UniformDequantization(levels=17)` on integer data. run: a folder; the same call again resumes there, to the bit:
    everything random depends on (key, step) alone. Settings, data and key are checked then; of a `prepare` of your
    own, its name.
    config: settings to keep there as config.yaml, `training` if None. Ctrl-C ends after the current step with a
    checkpoint.

    After `jax.distributed.initialize`, every process makes the same call on all of the data. Each takes its share of
    every batch, so that together they take the steps of one; process 0 writes the run's folder, which all must see,
    and calls the callbacks, for which the others wait; checkpoints, `sd.load` too, are read by all or none. Ctrl-C to
    any of them ends all at the next row of metrics.

    Raises:
        ValueError: if data are empty, hold NaN, or do not fit the model; if `run` was made with other settings; if
            several processes do not divide the batch, or differ in settings, data, key or what they see of `run`.
        TrainingDiverged: after `training.max_skipped` non-finite steps in a row.
        OSError: if the run's folder cannot be written.
    """
    key = as_typed_key(key)
    key_split, key_loop = jax.random.split(key)
    train, held_out = hold_out(
        key_split, as_source(data, cond, "data"), validation, validation_cond
    )
    loop = _Loop(key_loop, model, train, held_out, prepare, training)
    folder = None if run is None else RunFolder(run)
    history: list[dict[str, Any]] = []
    rest, _ = without_augmentation(prepare)
    as_it_is = rest is None  # flipped integers are integers
    check_fits(train, held_out, rest)
    for part in (train, held_out):
        if isinstance(part, ArraySource):
            check_labels(model, part.cond, (len(part),))
            if as_it_is:
                check_real_valued(part.x, "data", anew=True)
        elif part is not None and as_it_is:
            kind = take(part, np.arange(1))[0].dtype
            if np.issubdtype(kind, np.integer):
                raise TypeError(
                    f"data are integers, {kind}: write prepare=sd.UniformDequantization(levels=256), which "
                    f"draws its noise anew at every step, or prepare.Scale."
                )
    about = {
        **describe(model, loop.shape, prepare),
        "data": fingerprint_of(train, held_out),
        "training": _decisive(training),
        "key": np.asarray(jax.random.key_data(key)).tolist(),
        "examples": len(train),
    }
    of_call = {
        "training": to_dict(training),
        "run": run is not None,
        "devices": jax.local_device_count(),
    }
    meet("fit")  # data may have taken one of them minutes longer
    check_alike(about | of_call)
    loop.place()
    if folder is not None:
        check_shared(folder.path)
        loop.resume(folder, about)
        history = [row for row in folder.rows() if row["step"] <= loop.step]
        in_first(partial(_describe_run, folder, held_out, training if config is None else config))

    def log(row: dict[str, Any]) -> None:
        history.append(row)
        if folder is not None:
            in_first(partial(folder.append, row))

    def save() -> None:
        if folder is not None:
            folder.checkpoints.save(
                loop.step, jax.tree.map(jnp.copy, loop.state), about
            )  # the loop donates its own

    with (
        nullcontext() if folder is None else folder.checkpoints
    ):  # leaving waits for the save under way
        interrupted = _train(loop, log, save, callbacks, progress)
    return Fit(loop.model(), loop.step, history, interrupted)


def _describe_run(folder: RunFolder, held_out: Source | None, config: Any) -> None:
    """What stands in the folder beside checkpoints and metrics."""
    if held_out is not None and nbytes(held_out) <= LARGEST_HELD_OUT:
        folder.keep(*take(held_out, np.arange(len(held_out))))
    save_yaml(config, folder.path / "config.yaml")


def _decisive(training: Training) -> dict[str, Any]:
    """The settings that decide the result: a run resumes only with the same ones."""
    settings = to_dict(training)
    indifferent = ["log_every", "validate_every", "max_skipped", "steps_per_dispatch"]
    if training.final_rate == 1.0:
        indifferent.append(
            "steps"
        )  # a constant learning rate does not know the last step: a run may go on longer
    return {name: value for name, value in settings.items() if name not in indifferent}


class _Loop:
    """The compiled functions, the state, and the batches of one training."""

    def __init__(
        self, key, model, train: Source, held_out: Source | None, prepare, training: Training
    ):
        self.key, key_order, self.key_validation = jax.random.split(key, 3)
        self.training, self.train, self.held_out = training, train, held_out
        self.shape = tuple(train.shape)
        self.skeleton, *arrays = Skeleton.split(model)
        params, constants = jax.tree.map(
            jnp.copy, arrays
        )  # the state is donated; the caller's model stays whole
        self.process, self.processes = jax.process_index(), jax.process_count()
        seed = int(jax.random.bits(key_order, dtype=jnp.uint32))
        self._order = Order(seed, len(train), training.batch_size, self.process, self.processes)
        self.mesh = training_mesh(training.batch_size)
        self.state: State = init_state(params, constants, training.optimizer())
        self.step = 0
        step, compiled = (
            make_step(self.skeleton, training, prepare),
            partial(jax.jit, out_shardings=whole(self.mesh)),
        )
        self._single = compiled(step, donate_argnums=0)
        self._several = compiled(
            lambda state, key, batches: jax.lax.scan(lambda s, b: step(s, key, b), state, batches),
            donate_argnums=0,
        )
        self._validate = compiled(
            make_validation(self.skeleton, training, without_augmentation(prepare)[0])
        )

    def place(self) -> None:
        """Put the state on every device."""
        self.state = replicate(self.state, self.mesh)

    def model(self) -> ScoreModel:
        """The EMA model, whole on one device."""
        params, constants = local((self.state["ema"], self.state["constants"]))
        return self.skeleton.score_model(
            jax.tree.map(jnp.copy, params), jax.tree.map(jnp.copy, constants)
        )

    def plan(self, most: int) -> Iterator[tuple[int, int]]:
        """(first step, count) of every dispatch from here on: `most` steps, or 1 where a row of metrics is nearer."""
        step = self.step
        while step < self.training.steps:
            count = most if self.boundary(step) - step >= most else 1
            yield step, count
            step += count

    def boundary(self, step: int) -> int:
        """The next step after which there is a row of metrics."""
        stops = (
            step - step % n + n for n in (self.training.log_every, self.training.validate_every)
        )
        return min(self.training.steps, *stops)

    def batches(self, dispatch: tuple[int, int]) -> tuple[int, tuple[Array, Cond]]:
        """The number of steps of a dispatch, and its examples on the devices: (batch, ...), or (count, batch, ...)."""
        step, count = dispatch
        rows = np.stack([self._order(step + i) for i in range(count)])
        if count == 1:
            return count, shard_batch(self._take(self.train, rows[0]), self.mesh)
        return count, shard_batch(self._take(self.train, rows), self.mesh, axis=1)

    def _take(self, source: Source, rows: np.ndarray) -> tuple[np.ndarray, Cond]:
        x, cond = take(source, rows)
        if not isinstance(source, ArraySource):  # their labels were never seen whole
            check_labels(self.skeleton.model, cond, rows.shape)
        return x, cond

    def advance(self, count: int, batches: tuple[Array, Cond]) -> dict[str, Array]:
        """Take `count` steps in one dispatch; metrics (count,) or scalars, still on the device."""
        step = self._single if count == 1 else self._several
        self.state, metrics = step(self.state, self.key, batches)
        self.step += count
        return metrics

    def validation_loss(self, repeats: int = 4) -> float | None:
        """Mean loss of the EMA model on the held-out examples, the same noise and times at every call."""
        if self.held_out is None:
            return None
        n, size, total = len(self.held_out), self.training.batch_size, 0.0
        for repeat in range(repeats):
            for start in range(0, n, size):
                rows = np.split(np.arange(start, start + size), self.processes)[self.process]
                weight = (rows < n).astype(np.float32)
                key = jax.random.fold_in(jax.random.fold_in(self.key_validation, repeat), start)
                x, cond, weight = shard_batch(
                    (*self._take(self.held_out, np.minimum(rows, n - 1)), weight), self.mesh
                )
                total += float(
                    self._validate(self.state["ema"], self.state["constants"], key, x, cond, weight)
                )
        return total / (n * repeats)

    def resume(self, folder: RunFolder, about: dict[str, Any]) -> None:
        """Continue from the newest whole checkpoint, if there is one.

        Raises:
            ValueError: if the run was made with other settings, data or key.
        """
        steps = folder.checkpoints.steps()
        check_alike({"checkpoints": steps})  # a file system's cache may be behind
        if not steps:
            return
        found = folder.checkpoints.restore_subtree({})
        there = found.about
        names = (
            about.keys() & there.keys() if "imported" in there else about
        )  # an imported one knows no data, nor key
        lines = [line for name in names for line in differences(there.get(name), about[name], name)]
        if lines:
            raise ValueError(
                f"{folder.path} was made with other settings: {'; '.join(lines)}. Use them again to resume, name "
                f"another folder, or delete this one to start afresh."
            )
        like = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), self.state
        )
        self.state = folder.checkpoints.restore(like, found.step).state
        self.step = int(self.state["step"])


def _train(loop: _Loop, log, save, callbacks: Sequence[Callback], progress: bool) -> bool:
    """Run to the last step; returns whether it was interrupted."""
    training = loop.training
    most = training.steps_per_dispatch or _usual_dispatch(loop)
    progress = progress and loop.process == 0
    window: list[dict[str, Array]] = []
    saved, clock, clock_step, waited = loop.step, time.perf_counter(), loop.step, 0.0
    bar = tqdm(
        total=training.steps,
        initial=loop.step,
        desc="training",
        unit="step",
        disable=not progress,
        mininterval=0.5 if sys.stderr.isatty() else 30.0,
        dynamic_ncols=True,
    )
    with bar, _interruptible(bar.write) as stop, Prefetch(loop.batches, loop.plan(most)) as ahead:
        stopped = False
        while loop.step < training.steps and not stopped:
            boundary = loop.boundary(loop.step)
            count, batches = next(ahead)
            window.append(loop.advance(count, batches))
            bar.update(count)
            # Metrics are read one dispatch late, so the device never waits for the host.
            late = window[-2:-1] if loop.step < boundary else window[-1:]
            if any(
                int(np.max(metrics["skipped_in_a_row"])) >= training.max_skipped for metrics in late
            ):
                save()
                raise TrainingDiverged(_diverged(loop))
            if loop.step < boundary:
                stopped = loop.processes == 1 and stop.is_set()  # several agree at rows only
                continue
            now = time.perf_counter()
            row = _row(loop, window, (loop.step - clock_step) / (now - clock))
            row["data_wait"] = (ahead.waited - waited) / (now - clock)
            bar.set_postfix(
                {name: f"{row[name]:.4g}" for name in ("loss", "skipped") if row[name] is not None}
            )
            if loop.step % training.validate_every == 0 or loop.step == training.steps:
                row["valid_loss"] = loop.validation_loss()
                save()
                saved = loop.step
                row |= in_first(partial(_call, callbacks, loop)) or {}
            log({name: value for name, value in row.items() if value is not None})
            # Evaluation is not training speed.
            window, clock, clock_step, waited = [], time.perf_counter(), loop.step, ahead.waited
            stopped = any_process(stop.is_set())
        if saved != loop.step:
            save()
    return loop.step < training.steps or any_process(stop.is_set())


def _call(callbacks: Sequence[Callback], loop: _Loop) -> dict[str, Any]:
    """What they add to a row."""
    row, model = {}, loop.model()
    for callback in callbacks:
        row |= callback(loop.step, model) or {}
    return row


def _usual_dispatch(loop: _Loop) -> int:
    """The most steps up to 10 that fit between rows of metrics without a rest: a rest would compile a second program.

    One where a network's own convolutions would be slow in a loop (jax issue 12868; nets/convolution.py).
    """
    if jax.default_backend() == "cpu" and is_own_network(loop.skeleton.model.net):
        return 1
    whole = math.gcd(loop.training.log_every, loop.training.validate_every)
    return max(n for n in range(1, 11) if whole % n == 0)


def _row(loop: _Loop, window: list[dict[str, Array]], speed: float) -> dict[str, Any]:
    """Metrics of the steps since the last row; None where no step was finite."""
    loss, norm = (
        np.concatenate([np.atleast_1d(m[name]) for m in window]) for name in ("loss", "grad_norm")
    )
    good = np.isfinite(loss) & np.isfinite(norm)
    return {
        "step": loop.step,
        "loss": float(loss[good].mean()) if good.any() else None,
        "grad_norm": float(norm[good].mean()) if good.any() else None,
        "learning_rate": float(np.asarray(loop.training.schedule()(loop.step - 1))),
        "skipped": int(loop.state["skipped"]),
        "steps_per_second": speed,
    }


def _diverged(loop: _Loop) -> str:
    return (
        f"training stopped at step {loop.step}: {int(loop.state['skipped_in_a_row'])} steps in a row had a loss or "
        f"gradient that is not finite. They were skipped, so parameters and EMA are the last finite ones. Try a lower "
        f"learning_rate or clip, a longer warmup, or look for extreme values in the data."
    )


@contextmanager
def _interruptible(say: Callable[[str], Any]) -> Iterator[threading.Event]:
    """Ctrl-C (or SIGTERM) asks the loop to end after the current step; a second Ctrl-C ends it at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # only the main thread receives signals
        return

    def ask(number, frame):
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        say("stopping after this step and saving a checkpoint (once more to stop at once) ...")

    previous = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
