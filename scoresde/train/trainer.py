"""The loop over steps: batches in, steps on all devices, a row of metrics every so often."""

from __future__ import annotations

import dataclasses
import math
import threading
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from scoresde.data.order import Order
from scoresde.data.prefetch import Prefetch
from scoresde.data.prepare import without_augmentation
from scoresde.data.source import ArraySource, Source, take
from scoresde.loss.objectives import Objective, trains_schedule
from scoresde.parallel.mesh import local, place, replicated, shard_batch, training_mesh
from scoresde.parallel.processes import any_process, in_first
from scoresde.parallel.sharded_state import collector, state_shardings
from scoresde.train.bar import training_bar
from scoresde.train.callbacks import Callback, call
from scoresde.train.example_checks import check_conditions
from scoresde.train.examples import standardized
from scoresde.train.grace import given_up_after
from scoresde.train.metrics import Window
from scoresde.train.model_settings import Model, conditions_of, is_custom_network
from scoresde.train.record import VALIDATED, Record
from scoresde.train.settings import Training
from scoresde.train.signals import interruptible
from scoresde.train.state import Skeleton, TrainState, init_state
from scoresde.train.step import Metrics, Prepare, make_step, make_validation
from scoresde.train.what_trains import check_finite, not_finite
from scoresde.types import Cond

MOST_STEPS = 10
"""Steps in one dispatch, at most, where the user does not say."""

GRACE = 10.0
"""Seconds that a signal leaves to a validation and its callbacks."""

REPEATS = 4
"""Passes over the held-out examples in one validation, each with its own times and noise."""


class TrainingDiverged(ValueError):
    """Too many non-finite steps in a row, or weights; checkpoints are from before them."""


class Trainer:
    """One training: its state on the devices, its compiled steps, and its batches."""

    def __init__(
        self,
        key: Array,
        model: Model,
        train: Source,
        held_out: Source | None,
        prepare: Prepare | None,
        training: Training,
        objective: Objective,
    ):
        self.training = training
        self.objective = objective
        self.shape = tuple(train.shape)
        self._conditions = conditions_of(model, self.shape)
        self.process = jax.process_index()
        self.processes = jax.process_count()

        self.key, key_order, self._key_validation = jax.random.split(key, 3)
        self._order = Order(
            seed=int(jax.random.bits(key_order, dtype=jnp.uint32)),
            n=len(train),
            batch_size=training.batch_size,
            process=self.process,
            processes=self.processes,
        )

        # Training itself is in the model's units throughout.
        self.standardization = model.standardization
        without, _ = without_augmentation(prepare)  # held-out examples are not augmented
        self.train, prepare = standardized(train, prepare, self.standardization)
        self.held_out = None
        if held_out is not None:
            self.held_out, without = standardized(held_out, without, self.standardization)

        # The steps donate the state, so it must not share arrays with the caller's model.
        without_units = dataclasses.replace(model, standardization=None)
        moves = trains_schedule(objective, model.sde)
        self.skeleton, *arrays = Skeleton.split(without_units, schedule_trains=moves)
        check_finite(arrays[0], "the model", "Build it again: training cannot mend it.")
        self._start = jax.tree.map(jnp.copy, arrays)
        self._init = partial(init_state, optimizer=self.skeleton.optimizer(training))
        self.state: TrainState = {}  # until `place`
        self.step = 0
        self._validation_times: np.ndarray | None = None

        self._mesh = training_mesh(training.batch_size)
        shapes = jax.eval_shape(self._init, *self._start)
        self._shardings = state_shardings(shapes, self._mesh, training.shard_above)
        self._x64 = jnp.result_type(float) == jnp.float64
        self._compile(prepare, without)

    def _compile(self, prepare: Prepare | None, prepare_held_out: Prepare | None) -> None:
        """Prepares the functions that run on the devices; XLA compiles them at their first call."""
        on_all = replicated(self._mesh)
        jit = partial(jax.jit, out_shardings=(self._shardings, on_all), donate_argnums=0)
        collect = None
        if self.training.shard_above is not None:
            collect = collector(self._shardings["params"], self._mesh)

        step = make_step(self.skeleton, self.training, self.objective, prepare, collect)
        self._one_step = jit(step)

        def steps(state, key, batches):
            return jax.lax.scan(lambda state, batch: step(state, key, batch), state, batches)

        self._several_steps = jit(steps)

        losses = make_validation(self.skeleton, self.objective, prepare_held_out, collect)
        self._held_out_losses = jax.jit(losses, out_shardings=on_all)
        self._whole = jax.jit(lambda arrays: arrays, out_shardings=on_all)

    # --- The loop ---

    def run(self, record: Record, callbacks: Sequence[Callback], progress: bool) -> bool:
        """Trains to the last step, and returns whether a signal interrupted it.

        A run that only skips steps saves no checkpoints, which would replace those from before.

        Raises:
            TrainingDiverged: after `max_skipped` non-finite steps in a row, or where weights would
                be saved that are not finite.
        """
        most = self.training.steps_per_dispatch or self._usual_dispatch()
        visible = progress and self.process == 0
        bar = training_bar(self.training.steps, self.step, visible)

        with (
            bar,
            interruptible(bar.write) as stop,
            Prefetch(self.batches, self.plan(most)) as prefetched,
        ):
            if self.step and self._validates_now() and record.lacks_validation(self.step):
                known = record.history[-1] if record.history else {}
                record.log({"step": self.step} | self._validate(callbacks, known, stop))

            window = Window(self.step, prefetched.waited)
            due = False
            stopped = stop.is_set() and self.processes == 1
            while self.step < self.training.steps and not stopped:
                boundary = self.boundary(self.step)
                count, batches = next(prefetched)
                window.dispatches.append(self.advance(count, batches))
                bar.update(count)

                between_rows = self.step < boundary
                skipped = window.skipped_in_a_row(late=between_rows)
                if skipped >= self.training.max_skipped:
                    raise TrainingDiverged(self._why_diverged(record))
                if between_rows:
                    # Several processes agree on stopping at rows only.
                    stopped = self.processes == 1 and stop.is_set()
                    continue

                row = self._row(window, prefetched.waited)
                row = {name: value for name, value in row.items() if value is not None}
                bar.set_postfix(_shown(row))

                # What may take long comes after the checkpoint, and is no time of training.
                due = due or self._validates_now() or record.is_to_be_saved_again()
                if due and not int(self.state["skipped_in_a_row"]):
                    self._check_weights()
                    record.save(self.step, self.state, row)
                    due = False
                if self._validates_now():
                    row |= self._validate(callbacks, row, stop)
                record.log(row)
                window = Window(self.step, prefetched.waited)
                stopped = any_process(stop.is_set())

            if self.step == self.training.steps or not int(self.state["skipped_in_a_row"]):
                self._check_weights()
                record.finish(self.step, self.state)

        return self.step < self.training.steps or any_process(stop.is_set())

    def _check_weights(self) -> None:
        """Refuses to save what no later step could mend.

        Raises:
            TrainingDiverged: if an update has made weights infinite or NaN.
        """
        names = not_finite({name: self.state[name] for name in ("params", "ema")})
        if any_process(bool(names)):
            names = names or "what another process has of them"
            raise TrainingDiverged(
                f"training stopped at step {self.step}: an update has made weights that are not "
                f"finite, in {names}. Try a lower learning_rate."
            )

    def _validate(
        self, callbacks: Sequence[Callback], row: dict[str, Any], stop: threading.Event
    ) -> dict[str, Any]:
        """Validates, calls the callbacks, and returns the metrics of both.

        A signal leaves them `GRACE` seconds, and none is returned where these are not enough: all
        is done again when the run resumes. Several processes, which work together, do all of it.
        """
        added: dict[str, Any] = {}
        if self.processes == 1 and stop.is_set():
            return added

        start = time.perf_counter()
        with given_up_after(GRACE if self.processes == 1 else None, stop) as work:
            loss = self.validation_loss()
            if loss is not None:
                added["valid_loss"] = loss
            if any_process(bool(callbacks)):  # process 0 alone may have been given some
                model = self.model()  # in all processes, which have a part of it each
                called = partial(call, callbacks, self.step, model, row | added)
                added |= in_first(called) or {}
            added[VALIDATED] = time.perf_counter() - start
        return {} if work.given_up else added

    def advance(self, count: int, batches: tuple[Array, Cond]) -> Metrics:
        """Takes `count` steps in one dispatch.

        Returns:
            The metrics, scalars or (count,), which the device may still be computing.
        """
        step = self._one_step if count == 1 else self._several_steps
        self.state, metrics = step(self.state, self.key, batches)
        self.step += count
        return metrics

    def boundary(self, step: int) -> int:
        """Returns the next step after which there is a row of metrics."""
        log_every = self.training.log_every
        validate_every = self.training.validate_every
        return min(
            step - step % log_every + log_every,
            step - step % validate_every + validate_every,
            self.training.steps,
        )

    def _usual_dispatch(self) -> int:
        """Returns the most steps in one dispatch that divide the steps between rows of metrics.

        A remainder would compile a second program. On CPU the convolutions of a custom network
        would be slow inside a loop (jax issue 12868; nets/convolution.py), so there it is 1.
        """
        if jax.default_backend() == "cpu" and is_custom_network(self.skeleton.model.net):
            return 1
        between_rows = math.gcd(self.training.log_every, self.training.validate_every)
        return max(n for n in range(1, MOST_STEPS + 1) if between_rows % n == 0)

    def _validates_now(self) -> bool:
        return self.step % self.training.validate_every == 0 or self.step == self.training.steps

    # --- Metrics and the model ---

    def _row(self, window: Window, waited: float) -> dict[str, Any]:
        """Returns the metrics since the last row; None for those that are not known."""
        timings = window.timings(self.step, waited)
        return {
            "step": self.step,
            **window.averages(),
            "learning_rate": self.training.rate(self.step - 1),
            "skipped": int(self.state["skipped"]),
            **timings,
        }

    def _why_diverged(self, record: Record) -> str:
        kept = "" if record.saved is None else f" The newest checkpoint is of step {record.saved}."
        return (
            f"training stopped at step {self.step}: {int(self.state['skipped_in_a_row'])} steps in "
            f"a row had a loss or gradient that is not finite, and were skipped.{kept} Try a lower "
            f"learning_rate or clip, a longer warmup, or look for extreme values in the data."
        )

    def model(self) -> Any:
        """Returns the EMA model as arrays of one device, which later steps do not change."""
        arrays = (self.state["ema"], self.state["constants"])
        if self.training.shard_above is not None:
            arrays = self._whole(arrays)  # all processes have a part of each
        params, constants = jax.tree.map(jnp.copy, local(arrays))
        model = self.skeleton.in_evaluation(params, constants)
        return dataclasses.replace(model, standardization=self.standardization)

    def validation_loss(self) -> float | None:
        """Returns the mean loss of the EMA model on the held-out examples, None without any.

        Times and noise are the same at every call.
        """
        if self.held_out is None:
            return None

        n = len(self.held_out)
        if self._validation_times is None:
            self._validation_times = self._draw_validation_times(n)

        total = 0.0
        for repeat, times in enumerate(self._validation_times):
            key = jax.random.fold_in(self._key_validation, repeat)
            for start in range(0, n, self.training.batch_size):
                total += self._validation_sum(key, times, start)
        return total / (n * REPEATS)

    def _draw_validation_times(self, n: int) -> np.ndarray:
        """Returns the times of n held-out examples in every repeat, (REPEATS, n).

        They are drawn at once for all examples and repeats. So times that are evenly spread are so
        over the whole set, whatever the batches; each repeat has a stratum of them, in an order of
        its own.
        """
        key_times, key_order = jax.random.split(jax.random.fold_in(self._key_validation, REPEATS))
        sde = self.skeleton.model.sde
        times = self.training.times.sample(key_times, sde, REPEATS * n).reshape(REPEATS, n)
        orders = jax.random.split(key_order, REPEATS)
        return np.asarray(jax.vmap(jax.random.permutation)(orders, times))

    def _validation_sum(self, key: Array, times: np.ndarray, start: int) -> float:
        """Returns the sum of the losses of one batch of held-out examples, from row `start` on.

        times: of all held-out examples.
        """
        assert self.held_out is not None
        n = len(self.held_out)

        # Every batch has the full size, so that one program serves all; the last is filled up
        # with copies of the last example, whose weight is 0.
        batch = np.arange(start, start + self.training.batch_size)
        rows = np.split(batch, self.processes)[self.process]
        weight = (rows < n).astype(np.float32)
        rows = np.minimum(rows, n - 1)
        x, cond = self._take(self.held_out, rows)

        inputs = shard_batch((rows, x, times[rows], cond, weight), self._mesh)
        loss = self._held_out_losses(self.state["ema"], self.state["constants"], key, *inputs)
        return float(loss)

    # --- The state ---

    def place(self) -> None:
        """Makes the state on the devices; with several processes, of the weights of process 0.

        Where it is sharded, its averages and moments are never whole on one device.
        """
        if self.training.shard_above is None:
            self.state = place(self._init(*self._start), self._shardings)
        else:
            whole = ("params", "constants")
            start = place(self._start, [self._shardings[name] for name in whole])
            self.state = jax.jit(self._init, out_shardings=self._shardings)(*start)
        self._start = []

    def restore(self, state: TrainState | None, null_is_trained: bool = False) -> None:
        """Continues from the state of a checkpoint; without one, from where it is.

        null_is_trained: whether the checkpoint's network knows what to do without its condition, as
        it may from an earlier training whose model is not at hand when this one resumes.
        """
        if state is not None:
            self.state = state
            self.step = int(state["step"])
        if null_is_trained:
            model = dataclasses.replace(self.skeleton.model, null_is_trained=True)
            self.skeleton = dataclasses.replace(self.skeleton, model=model)

    # --- Batches: called from a thread ---

    def plan(self, most: int) -> Iterator[tuple[int, int]]:
        """Yields (first step, count) of every dispatch from here on.

        The count is `most`, or 1 where a row of metrics comes sooner.
        """
        step = self.step
        while step < self.training.steps:
            count = most if self.boundary(step) - step >= most else 1
            yield step, count
            step += count

    def batches(self, dispatch: tuple[int, int]) -> tuple[int, tuple[Array, Cond]]:
        """Assembles the examples of a dispatch on the devices.

        Returns:
            The number of steps, and (x, cond) with leaves (batch, ...) for one step and
            (count, batch, ...) for several.
        """
        step, count = dispatch
        if count == 1:
            rows = self._order(step)
        else:
            rows = np.stack([self._order(step + i) for i in range(count)])
        examples = self._take(self.train, rows)

        # A thread does not see the `with jax.enable_x64(True):` of its caller.
        with jax.enable_x64(self._x64):
            return count, shard_batch(examples, self._mesh, axis=rows.ndim - 1)

    def _take(self, source: Source, rows: np.ndarray) -> tuple[np.ndarray, Cond]:
        """Returns the examples of these rows, and refuses conditions that do not fit the network.

        Those of an array were checked as a whole; those of other sources are seen here first.
        """
        x, cond = take(source, rows)
        if not isinstance(source, ArraySource):
            check_conditions(self._conditions, cond, rows.shape)
        return x, cond


def _shown(row: dict[str, Any]) -> dict[str, str]:
    """Returns what the progress bar shows of a row."""
    shown = {}
    for name in ("loss", "skipped"):
        if name in row:
            shown[name] = f"{row[name]:.4g}"
    return shown
