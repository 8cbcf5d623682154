"""`fit`: train a ScoreModel on arrays, on all local devices, resumable to the bit."""

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
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import PyTree
from tqdm import tqdm

from scoresde.config import differences, save_yaml, to_dict
from scoresde.dequantization import check_real_valued
from scoresde.files import fingerprint
from scoresde.model import is_own_network
from scoresde.score import ScoreModel
from scoresde.sharding import data_mesh, replicate, shard_batch
from scoresde.train.run import RunFolder, describe
from scoresde.train.state import Skeleton, State, init_state
from scoresde.train.step import Prepare, Training, make_step, make_validation
from scoresde.types import Cond, as_typed_key, check_cond, check_numbers, check_setting

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

    data: (n, *shape) real numbers, about in [-1, 1]; cond: leaves (n, ...). validation: held-out examples, or the
    fraction of the data to hold out (0 for none). prepare: (key, batch) → batch, drawn anew every step, e.g.
    `UniformDequantization(levels=17)` on integer data. run: a folder; the same call again resumes there, to the bit:
    everything random depends on (key, step) alone. Settings, data and key are checked then; of a `prepare` of your
    own, its name.
    config: settings to keep there as config.yaml, `training` if None. Ctrl-C ends after the current step with a
    checkpoint.

    Raises:
        ValueError: if data are empty, hold NaN, or do not fit the model; if `run` was made with other settings.
        TrainingDiverged: after `training.max_skipped` non-finite steps in a row.
        OSError: if the run's folder cannot be written.
    """
    key = as_typed_key(key)
    data = _check_data(data, "data")
    if prepare is None:
        check_real_valued(data, "data")
    key_split, key_loop = jax.random.split(key)
    train, held_out = _hold_out(key_split, (data, cond), validation, validation_cond)
    loop = _Loop(key_loop, model, train, held_out, prepare, training)
    folder = None if run is None else RunFolder(run)
    history: list[dict[str, Any]] = []
    _check_labels(model, (train, held_out))
    about = {
        **describe(model, loop.shape, prepare),
        "data": fingerprint((train, held_out)),
        "training": _decisive(training),
        "key": np.asarray(jax.random.key_data(key)).tolist(),
        "examples": len(train[0]),
    }
    if folder is not None:
        loop.resume(folder, about)
        if held_out is not None:
            folder.keep(*held_out)
        save_yaml(training if config is None else config, folder.path / "config.yaml")
        history = [row for row in folder.rows() if row["step"] <= loop.step]

    def log(row: dict[str, Any]) -> None:
        history.append(row)
        if folder is not None:
            folder.append(row)

    def save() -> None:
        if folder is not None:
            folder.checkpoints.save(loop.step, jax.tree.map(jnp.copy, loop.state), about)  # the loop donates its own

    with nullcontext() if folder is None else folder.checkpoints:  # leaving waits for the save under way
        interrupted = _train(loop, log, save, callbacks, progress)
    return Fit(loop.model(), loop.step, history, interrupted)


def _decisive(training: Training) -> dict[str, Any]:
    """The settings that decide the result: a run resumes only with the same ones."""
    settings = to_dict(training)
    indifferent = ["log_every", "validate_every", "max_skipped", "steps_per_dispatch"]
    if training.final_rate == 1.0:
        indifferent.append("steps")  # a constant learning rate does not know the last step: a run may go on longer
    if training.accumulate == 1:
        indifferent.append("accumulate")  # nor do runs that are older than the setting name it
    return {name: value for name, value in settings.items() if name not in indifferent}


class _Loop:
    """The compiled functions, the state, and the batches of one training."""

    def __init__(self, key, model, train, held_out, prepare, training: Training):
        self.key, key_order, self.key_validation = jax.random.split(key, 3)
        self.training, self.train, self.held_out = training, train, held_out
        self.shape = train[0].shape[1:]
        self.skeleton, *arrays = Skeleton.split(model)
        params, constants = jax.tree.map(jnp.copy, arrays)  # the state is donated; the caller's model stays whole
        self.mesh = data_mesh(training.batch_size)
        self.state: State = replicate(init_state(params, constants, training.optimizer()), self.mesh)
        self.step = 0
        step = make_step(self.skeleton, training, prepare)
        self._single = jax.jit(step, donate_argnums=0)
        self._several = jax.jit(lambda state, key, batches: jax.lax.scan(lambda s, b: step(s, key, b), state, batches),
                                donate_argnums=0)  # fmt: skip
        self._validate = jax.jit(make_validation(self.skeleton, training, prepare))
        self._batches = _batch_indices(key_order, len(train[0]), training.batch_size)

    def model(self) -> ScoreModel:
        """The EMA model, whole on one device."""
        params, constants = jax.device_put((self.state["ema"], self.state["constants"]), jax.local_devices()[0])
        return self.skeleton.score_model(jax.tree.map(jnp.copy, params), jax.tree.map(jnp.copy, constants))

    def advance(self, count: int) -> dict[str, Array]:
        """Take `count` steps in one dispatch; metrics (count,) or scalars, still on the device."""
        if count == 1:
            batch = _take(self.train, self._batches(self.step))
            self.state, metrics = self._single(self.state, self.key, shard_batch(batch, self.mesh))
        else:
            rows = np.stack([self._batches(self.step + i) for i in range(count)])
            batch = _take(self.train, rows)
            self.state, metrics = self._several(self.state, self.key, shard_batch(batch, self.mesh, axis=1))
        self.step += count
        return metrics

    def validation_loss(self, repeats: int = 4) -> float | None:
        """Mean loss of the EMA model on the held-out examples, the same noise and times at every call."""
        if self.held_out is None:
            return None
        n, size, total = len(self.held_out[0]), self.training.batch_size, 0.0
        for repeat in range(repeats):
            for start in range(0, n, size):
                rows = np.minimum(np.arange(start, start + size), n - 1)
                weight = (np.arange(start, start + size) < n).astype(np.float32)
                key = jax.random.fold_in(jax.random.fold_in(self.key_validation, repeat), start)
                x, cond, weight = shard_batch((*_take(self.held_out, rows), weight), self.mesh)
                total += float(self._validate(self.state["ema"], self.state["constants"], key, x, cond, weight))
        return total / (n * repeats)

    def resume(self, folder: RunFolder, about: dict[str, Any]) -> None:
        """Continue from the newest whole checkpoint, if there is one.

        Raises:
            ValueError: if the run was made with other settings, data or key.
        """
        if not folder.checkpoints.steps():
            return
        there = folder.checkpoints.restore_subtree({}).about
        found = [line for name in about for line in differences(there.get(name), about[name], name)]
        if found:
            raise ValueError(
                f"{folder.path} was made with other settings: {'; '.join(found)}. Use them again to resume, name "
                f"another folder, or delete this one to start afresh."
            )
        like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), self.state)
        self.state = folder.checkpoints.restore(like).state
        self.step = int(self.state["step"])


def _train(loop: _Loop, log, save, callbacks: Sequence[Callback], progress: bool) -> bool:
    """Run to the last step; returns whether it was interrupted before it."""
    training = loop.training
    most = training.steps_per_dispatch or _usual_dispatch(loop)
    window: list[dict[str, Array]] = []
    saved, clock, clock_step = loop.step, time.perf_counter(), loop.step
    bar = tqdm(total=training.steps, initial=loop.step, desc="training", unit="step", disable=not progress,
               mininterval=0.5 if sys.stderr.isatty() else 30.0, dynamic_ncols=True)  # fmt: skip
    with bar, _interruptible(bar.write) as stop:
        while loop.step < training.steps and not stop.is_set():
            stops = (loop.step - loop.step % n + n for n in (training.log_every, training.validate_every))
            boundary = min(training.steps, *stops)
            count = most if boundary - loop.step >= most else 1
            window.append(loop.advance(count))
            bar.update(count)
            # Metrics are read one dispatch late, so the device never waits for the host.
            late = window[-2:-1] if loop.step < boundary else window[-1:]
            if any(int(np.max(metrics["skipped_in_a_row"])) >= training.max_skipped for metrics in late):
                save()
                raise TrainingDiverged(_diverged(loop))
            if loop.step < boundary:
                continue
            now = time.perf_counter()
            row = _row(loop, window, (loop.step - clock_step) / (now - clock))
            bar.set_postfix({name: f"{row[name]:.4g}" for name in ("loss", "skipped") if row[name] is not None})
            if loop.step % training.validate_every == 0 or loop.step == training.steps:
                row["valid_loss"] = loop.validation_loss()
                save()
                saved = loop.step
                model = loop.model()
                for callback in callbacks:
                    row |= callback(loop.step, model) or {}
            log({name: value for name, value in row.items() if value is not None})
            window, clock, clock_step = [], time.perf_counter(), loop.step  # evaluation is not training speed
        if saved != loop.step:
            save()
    return loop.step < training.steps


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
    loss, norm = (np.concatenate([np.atleast_1d(m[name]) for m in window]) for name in ("loss", "grad_norm"))
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


# --- Data ---


def _check_data(data: Any, name: str) -> np.ndarray:
    """An array (n, *shape) without NaN, on the host.

    Raises:
        ValueError: if it is empty, ragged or not finite.
    """
    array = np.asarray(data)
    if array.ndim < 2 or array.size == 0:
        raise ValueError(
            f"{name} has shape {array.shape}: wanted (examples, *shape), not empty. Scalars: {name}[:, None]."
        )
    check_numbers(array, name)
    return array


def _hold_out(key: Array, data: tuple[np.ndarray, Cond], validation: Any, validation_cond: Cond) -> tuple[Any, Any]:
    """(train, held out or None), each (x, cond): given examples, or a random fraction that depends on the key alone."""
    x, cond = data
    cond, validation_cond = (np.asarray(c) if isinstance(c, (list, tuple)) else c for c in (cond, validation_cond))
    check_cond(cond, len(x))
    cond = jax.tree.map(np.asarray, cond)
    if not isinstance(validation, (int, float)):
        if isinstance(validation, tuple):
            raise ValueError("validation is a tuple: write validation=x, validation_cond=cond.")
        if (cond is None) != (validation_cond is None):
            raise ValueError("cond and validation_cond come together: the held-out examples need theirs too.")
        held_out = _check_data(validation, "validation")
        if held_out.shape[1:] != x.shape[1:]:
            raise ValueError(f"validation has examples of shape {held_out.shape[1:]}, data of {x.shape[1:]}.")
        if np.issubdtype(held_out.dtype, np.integer) != np.issubdtype(x.dtype, np.integer):
            raise ValueError(f"validation holds {held_out.dtype}, data {x.dtype}: wanted integers both, or reals both.")
        check_cond(validation_cond, len(held_out))
        return (x, cond), (held_out, jax.tree.map(np.asarray, validation_cond))
    check_setting("validation", validation, 0.0, 1.0)
    if validation_cond is not None:
        raise ValueError("validation_cond came without held-out examples: give them as validation=array.")
    count = round(validation * len(x))
    if count == len(x):
        raise ValueError(
            f"validation = {validation} of {len(x)} examples leaves none to train on: write validation=0.0."
        )
    if count == 0:
        return (x, cond), None
    order = np.asarray(jax.random.permutation(key, len(x)))
    return _take((x, cond), np.sort(order[count:])), _take((x, cond), np.sort(order[:count]))


def _check_labels(model: ScoreModel, data: PyTree) -> None:
    """Labels of the library's conditional networks lie in 0 … num_classes - 1: outside, their embedding is NaN."""
    classes = getattr(getattr(model.net, "config", None), "num_classes", None)
    for x, cond in (part for part in data if part is not None and classes is not None):
        if cond is None:
            raise ValueError(f"the network has {classes} classes and the data no labels: give cond=labels, or build it "
                             f"without num_classes.")  # fmt: skip
        if not (isinstance(cond, np.ndarray) and cond.shape == x.shape[:1] and np.issubdtype(cond.dtype, np.integer)):
            found = f"{cond.dtype} {cond.shape}" if isinstance(cond, np.ndarray) else f"a {type(cond).__name__}"
            raise ValueError(f"cond is {found}: wanted one integer label an example, {x.shape[:1]}.")
        if not np.all((cond >= 0) & (cond < classes)):
            raise ValueError(f"cond holds {np.min(cond)} … {np.max(cond)}: wanted labels 0 … {classes - 1}.")


def _take(tree: PyTree, rows: np.ndarray) -> PyTree:
    return jax.tree.map(lambda a: a[rows], tree)


def _batch_indices(key: Array, n: int, batch_size: int) -> Callable[[int], np.ndarray]:
    """Step → the rows of its batch: every epoch a fresh shuffle, a function of (key, step) alone."""
    import grain  # late: it is slow to import

    seed = int(jax.random.bits(key, dtype=jnp.uint32))
    batches = grain.MapDataset.range(n).seed(seed).shuffle().repeat().batch(batch_size)
    return lambda step: np.asarray(batches[step])
