"""`fit` trains a score or a classifier on arrays or on a source of examples.

It uses all devices of all processes, and a run that was interrupted resumes to the bit.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from scoresde.data.prepare import without_augmentation
from scoresde.data.source import Source, take
from scoresde.keys import as_typed_key
from scoresde.loss.objectives import (
    CrossEntropy,
    DenoisingScoreMatching,
    Objective,
    Usual,
    VariationalBound,
    trains_schedule,
)
from scoresde.parallel.processes import barrier, check_alike
from scoresde.parallel.watch import together
from scoresde.runs.folder import RunFolder
from scoresde.runs.settings import stable_repr, to_dict
from scoresde.score.classifier import ClassifierModel
from scoresde.score.model import ScoreModel
from scoresde.standardization import Standardization, units_of_cond
from scoresde.train.bar import tell
from scoresde.train.bound_checks import check_bound, check_is_score
from scoresde.train.callbacks import Callback
from scoresde.train.coverage import warn_of_coverage
from scoresde.train.examples import fingerprint_of, training_examples
from scoresde.train.load import describe
from scoresde.train.measured import Measured, measure
from scoresde.train.model_settings import Model
from scoresde.train.record import Record
from scoresde.train.resuming import decisive_settings
from scoresde.train.settings import Training, check_uniform
from scoresde.train.step import Prepare
from scoresde.train.trainer import Trainer
from scoresde.train.what_trains import warn_of_constants
from scoresde.types import Cond


def fit(
    key: Array,
    model: Model,
    data: Any,
    *,
    cond: Cond = None,
    validation: Any = 0.1,
    validation_cond: Cond = None,
    prepare: Prepare | None = None,
    training: Training = Training(),
    run: str | os.PathLike[str] | None = None,
    config: Any = None,
    new_schedule: bool = False,
    afresh: bool = False,
    callbacks: Sequence[Callback] = (),
    progress: bool = True,
    standardize: bool | Standardization = False,
    objective: Objective | None = None,
) -> Fit:
    """Trains a score by denoising score matching, or a classifier by cross-entropy, and returns the
    EMA model. The equations are in step.py.

    Args:
        key: a random key. Everything random depends on (key, step) alone.
        model: an `sd.ScoreModel`, or an `sd.ClassifierModel` whose labels are `cond`, around an NNX
            network. It is not changed.
        data: real numbers (n, *shape), about in [-1, 1] unless they are standardised, or integers
            together with `prepare`; a data set with `len` and `[i]` (data/random_access.py); or a
            `Source` of examples (data/source.py), whose batches a thread assembles ahead of time.
            A shape that seems to lack a channel axis is refused, unless it is stated by
            `sd.data.ArraySource`.
        cond: conditions, a pytree with leaves (n, ...). A source returns its own. With
            `training.drop_cond` the model learns to do without them too, as guidance needs.
        validation: held-out examples (m, *shape), a source of them, or the fraction of the data to
            hold out, 0 for none.
        validation_cond: the conditions of held-out examples given as an array.
        prepare: (key, batch) → batch, drawn again at every step, such as
            `sd.UniformDequantization(levels=17)` on integers.
        training: the settings of the loop.
        run: a folder for checkpoints and metrics. The same call resumes there, to the bit.
            Settings, data and key are compared with those of the run, a custom `prepare` by its
            name alone, and an optax transformation by its name and the form of its state.
        config: settings that `config.yaml` in that folder stores; `training` if None.
        new_schedule: whether a resumed run takes the learning_rate, warmup, final_rate and steps of
            `training` in place of its own. Its checkpoints record the change, and later calls with
            these settings resume it without the flag.
        afresh: whether to begin anew in the folder of an earlier run. What that left is kept there,
            in `before-DATE`.
        callbacks: functions (step, EMA model), or (step, EMA model, row of metrics), → metrics to
            log or None, called after validation; of a run that was stopped meanwhile, they are
            called again when it resumes.
        progress: whether to show a progress bar, and a line where a run resumes.
        standardize: whether to train in standard units: True measures the mean and the standard
            deviation of each feature or channel (of at most 10 000 examples, 1024 of a source), or
            give them, `sd.Standardization(mean, std)`. The model keeps them, and its samples and
            densities are in the data's own units. The vectors that condition a network of the
            library are measured as well, and arrive in their own units.
        objective: what is minimised, (keys, model, x0, t, cond) → one value per example, in place
            of the model's own (loss/objectives.py). Resuming compares its name and settings.

    Warns where the noise of the SDE does not cover the data (train/coverage.py), and names the
    arrays that training leaves as they are (train/what_trains.py): it trains nnx.Param alone.

    Ctrl-C ends training after the current step, with a checkpoint. So do SIGTERM and SIGUSR1, which
    schedulers send before they end a job. Checkpoints are written before the validation at their
    step, which a signal leaves ten seconds.

    One process at a time trains in `run`. A checkpoint or a row of metrics that cannot be written
    is tried again, with a warning, for ten minutes before it ends training.

    After `jax.distributed.initialize`, every process makes the same call with all of the data, and
    takes its share of every batch: together they take the steps that one process would. Process 0
    writes the run's folder, which all must see, and calls the callbacks, while the others wait.
    Checkpoints are read by all processes together, in `sd.load` too. Ctrl-C in any process ends
    training in all of them at the next row of metrics.

    Raises:
        ValueError: if the data are empty, hold NaN or do not fit the model; if `run` was made with
            other settings, or has lost its checkpoints; if weights are not finite; if the processes
            do not divide the batch, or differ in their settings, data, key or view of `run`.
        TypeError: if the model cannot be trained, or a source of integers comes without `prepare`.
        TrainingDiverged: after `training.max_skipped` non-finite steps in a row, or if weights that
            are to be saved are not finite.
        RunHeldError: if another process trains in `run`.
        OSError: if the run's folder cannot be written, unless the run is finished.
    """
    key = as_typed_key(key)
    key_split, key_steps = jax.random.split(key)
    train, held_out = training_examples(
        key_split, model, data, cond, validation, validation_cond, prepare
    )
    minimised = _objective(model, training, objective)
    warn_of_constants(model, trains_schedule(minimised, model.sde))
    measured = measure(key_split, train, prepare)
    model = _standardized(model, standardize, measured)
    warn_of_coverage(model.sde, measured, model.standardization)

    model = _with_known_null(model, train, training)
    if isinstance(minimised, VariationalBound):
        check_uniform(training.times)
        check_bound(minimised, model, without_augmentation(prepare)[0], measured.x)
    trainer = Trainer(key_steps, model, train, held_out, prepare, training, minimised)
    folder = None if run is None else RunFolder(run)

    metadata = {
        **describe(model, trainer.shape, prepare),
        "data": fingerprint_of(train, held_out),
        "training": decisive_settings(training),
        "key": np.asarray(jax.random.key_data(key)).tolist(),
        "examples": len(train),
        "range": [measured.low, measured.high],
        **_describe_objective(minimised, _objective(model, training)),
    }

    kept = partial(_kept, folder)
    with together(kept):
        # All processes start together, alike, and from the state of process 0.
        barrier("fit")  # preparing the data may have taken one of them minutes longer
        check_alike(metadata | _settings_of_call(training, run, new_schedule, afresh))
        trainer.place()

        # A run continues where it was left.
        with Record(folder, metadata, new_schedule, afresh) as record:
            state = record.restore(trainer.state)
            trainer.restore(state, bool(record.metadata.get("null_is_trained")))
            unfinished = trainer.step < training.steps
            if record.read_only is not None and unfinished:
                raise record.read_only
            record.describe(held_out, training if config is None else config)
            if record.resumed and unfinished and progress and trainer.process == 0:
                tell(record.resumed.in_words(training.steps))

            with together(kept):  # a lost process is noticed before a save that needs it is awaited
                interrupted = trainer.run(record, callbacks, progress)
        model = trainer.model()
    return Fit(model, trainer.step, record.history, interrupted, (measured.low, measured.high))


@dataclasses.dataclass(frozen=True)
class Fit:
    """What training returns."""

    model: Any
    """The EMA model, of the class that was given."""

    step: int
    """The last step that was taken."""

    history: list[dict[str, Any]]
    """The rows of metrics, those of a resumed run included."""

    interrupted: bool = False
    """Whether Ctrl-C, SIGTERM or SIGUSR1 ended training early."""

    range: tuple[float, float] = (-1.0, 1.0)
    """The range of the data, black and white in a picture: `image_grid(x, None, None, *range)`."""


def _standardized(model: Model, standardize: bool | Standardization, measured: Measured) -> Model:
    """Returns the model with the standardization that was asked for, or its own.

    Raises:
        TypeError: if `standardize` is neither True, False nor a Standardization.
        ValueError: if the model has one already, or the one given does not fit the data.
    """
    if isinstance(standardize, np.bool_):
        standardize = bool(standardize)
    if standardize is False:
        standardization = model.standardization
    elif model.standardization is not None:
        raise ValueError(
            f"model has {model.standardization} already, which its weights may have been trained "
            f"in: leave standardize out, or build the model without."
        )
    elif standardize is True:
        standardization = Standardization.fit(measured.x)
    elif isinstance(standardize, Standardization):
        standardization = standardize
    else:
        raise TypeError(
            f"standardize is a {type(standardize).__name__}: wanted True, or "
            f"sd.Standardization(mean, std)."
        )

    if standardization is not None:
        standardization.to_model(measured.x[:1])  # refuses another number of features
    model = dataclasses.replace(model, standardization=standardization)
    if standardize is False or not getattr(model, "conditions", None):
        return model  # custom networks take conditions as they are
    return dataclasses.replace(model, cond_units=units_of_cond(measured.cond))


def _with_known_null(model: Model, train: Source, training: Training) -> Model:
    """Returns a score that knows whether training teaches it to do without its condition.

    Raises:
        ValueError: if conditions are to be dropped, and there are none, or they are what the model
            returns.
        TypeError: if a custom network does not say what it sees in place of a condition.
    """
    _, cond = take(train, np.arange(1))
    if training.drop_cond > 0.0:
        if cond is None or not isinstance(model, ScoreModel):
            kind = type(model).__name__
            reason = "the data have no condition" if cond is None else f"a {kind} has none"
            raise ValueError(f"drop_cond = {training.drop_cond}, but {reason}: leave it at 0.")
        model.drop_cond(cond, jnp.zeros(1, bool))  # refuses a custom network that cannot
    if cond is None or not isinstance(model, ScoreModel):
        return model
    known = training.drop_cond > 0.0 or bool(model.null_is_trained)
    return dataclasses.replace(model, null_is_trained=known)


def _objective(model: Model, training: Training, objective: Objective | None = None) -> Objective:
    """Returns the objective that was given, or the model's own.

    Raises:
        TypeError: if it is not a function, or not one for this model.
    """
    if objective is not None:
        if not callable(objective) or isinstance(objective, type):
            raise TypeError(
                f"objective is {objective!r}: wanted a function (keys, model, x0, t, cond) → one "
                f"value per example, such as sd.objectives.CrossEntropy()."
            )
        return objective
    if not isinstance(training.objective, Usual):
        check_is_score(training.objective, model)
        return training.objective
    if isinstance(model, ClassifierModel):
        return CrossEntropy()
    return DenoisingScoreMatching(training.weighting)


def _describe_objective(objective: Objective, own: Objective) -> dict[str, Any]:
    """Returns what a checkpoint says of a custom objective; nothing of the model's own, whose
    settings are those of training."""
    return {} if objective == own else {"objective": stable_repr(objective)}


def _kept(folder: RunFolder | None) -> str:
    """Returns what is left of a training whose process ends at once."""
    if folder is None:
        return "Nothing is kept, since fit was given no run."

    directory = folder.checkpoints.directory
    advice = "the same command, in as many processes as there are, resumes from it."
    try:
        steps = folder.checkpoints.steps()
    except OSError as failure:
        return f"The newest checkpoint in {directory} is kept ({failure}): {advice}"
    if not steps:
        return f"There is no checkpoint in {directory} yet: the same command begins again."
    return f"The newest checkpoint in {directory} is of step {steps[-1]}: {advice}"


def _settings_of_call(
    training: Training, run: Any, new_schedule: bool, afresh: bool
) -> dict[str, Any]:
    """Returns what processes must share beyond the metadata, for one call of `fit`."""
    return {
        "training": to_dict(training),
        "run": run is not None,
        "new_schedule": new_schedule,
        "afresh": afresh,
        "devices": jax.local_device_count(),
    }
