"""`fit`: train a ScoreModel on arrays or a source of them, on all devices of all processes, resumable to the bit."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from scoresde.data.prepare import without_augmentation
from scoresde.data.real_valued import check_real_valued
from scoresde.data.source import ArraySource, Source, take
from scoresde.keys import as_typed_key
from scoresde.parallel.processes import check_alike, check_shared, in_first, meet
from scoresde.runs.folder import LARGEST_HELD_OUT, RunFolder
from scoresde.runs.settings import save_yaml, to_dict
from scoresde.score.model import ScoreModel
from scoresde.train.examples import (
    as_source,
    check_fits,
    check_labels,
    fingerprint_of,
    hold_out,
    nbytes,
)
from scoresde.train.load import describe
from scoresde.train.settings import Training
from scoresde.train.step import Prepare
from scoresde.train.trainer import Callback, _Loop, _train
from scoresde.types import Cond


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
