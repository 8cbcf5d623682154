"""The training loop: batches in, steps on all devices, a row of metrics at a time."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from tqdm import tqdm

from scoresde.data.order import Order
from scoresde.data.prefetch import Prefetch
from scoresde.data.prepare import without_augmentation
from scoresde.data.source import ArraySource, Source, take
from scoresde.parallel.mesh import local, replicate, shard_batch, training_mesh, whole
from scoresde.parallel.processes import any_process, check_alike, differences, in_first
from scoresde.runs.folder import RunFolder
from scoresde.score.model import ScoreModel
from scoresde.train.examples import check_labels
from scoresde.train.model_settings import is_own_network
from scoresde.train.settings import Training
from scoresde.train.signals import _interruptible
from scoresde.train.state import Skeleton, State, init_state
from scoresde.train.step import make_step, make_validation
from scoresde.types import Cond

Callback = Callable[[int, ScoreModel], dict[str, Any] | None]
"""(step, EMA model) → metrics to log, called after every validation: pictures, reports, evaluations."""


class TrainingDiverged(ValueError):
    """Too many non-finite steps in a row; parameters and EMA are still the last finite ones."""


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
