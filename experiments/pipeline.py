"""The life of an experiment: train or resume, draw samples, evaluate, write a page of results."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
from bookkeeping import Clock, Page, command, cost, is_finished

import scoresde as sd
from scoresde.runs.folder import RunFolder
from scoresde.sampling.choices import AnySampler
from scoresde.train.loop import Fit
from scoresde.train.model_settings import (
    AnyNet,
    AnyParameterization,
    AnySDE,
    ModelSettings,
    is_custom_network,
)
from scoresde.train.signals import exit_code_of_stop


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Settings that every experiment has; subclasses add those of one kind of data."""

    name: str
    """The run's folder is <runs>/<name>."""
    sde: AnySDE
    net: AnyNet
    parameterization: AnyParameterization
    training: sd.Training
    sampler: AnySampler
    num_samples: int
    """Samples for the distances; the picture shows fewer."""
    likelihood_tolerance: float
    """Relative and absolute tolerance of the likelihood's solver."""
    evaluation_batch: int
    """Examples per batch in sampling and likelihoods; fewer need less memory."""
    standardize: bool = False
    """Train in standard units, measured on the data; samples and densities are in the data's."""
    seed: int = 0
    """Decides the initial weights, every batch, and every draw."""
    runs: str = "runs"
    """The folder that holds the folders of runs."""
    new_schedule: bool = False
    """Resume with another learning_rate, warmup, final_rate or steps of training than before."""
    afresh: bool = False
    """Begin anew; what the folder holds of an earlier run is kept in RUN/before-DATE."""

    def model(self, key: jax.Array, shape: tuple[int, ...]) -> sd.ScoreModel:
        """Returns a model with new random weights, for examples of this shape."""
        return ModelSettings(self.sde, self.net, self.parameterization).build(key, shape)

    def lasting(self) -> Experiment:
        """Returns the settings without those that one command asks for once."""
        return dataclasses.replace(self, new_schedule=False, afresh=False)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What an evaluation found."""

    figures: dict[str, float]
    """Numbers for programs, by name."""
    headline: list[list[str]]
    """The first table of the page: label, value, conditions."""
    tables: list[dict[str, Any]]
    """Further tables of the page; see `write_report`."""
    summary: list[str]
    """Lines that are printed last."""


class Task(Protocol):
    """The data of an experiment, and what a trained model and its samples are compared with."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example."""
        ...

    @property
    def train(self) -> Any:
        """The training data, as `sd.fit` takes them."""
        ...

    @property
    def held_out(self) -> Any:
        """Held-out examples, as `validation` of `sd.fit`."""
        ...

    @property
    def prepare(self) -> Callable[[jax.Array, jax.Array], jax.Array] | None:
        """The `prepare` of `sd.fit`."""
        ...

    @property
    def draws(self) -> int:
        """The number of samples drawn at every checkpoint."""
        ...

    def score(self, model: sd.ScoreModel, n: int) -> Any:
        """Returns the score that draws n samples: the model, or what holds their conditions."""
        ...

    def picture(self, x: np.ndarray, path: Path) -> None:
        """Saves a picture of samples."""
        ...

    def watch(self, settings: Any, model: sd.ScoreModel, samples: sd.Sample) -> dict[str, float]:
        """Returns figures that are logged at every checkpoint."""
        ...

    def evaluate(
        self,
        settings: Any,
        key: jax.Array,
        model: sd.ScoreModel,
        samples: sd.Sample,
        folder: Path,
        clock: Clock,
    ) -> Outcome:
        """Evaluates the trained model and its samples."""
        ...


def run(settings: Experiment, build: Callable[[], Any]) -> int:
    """Trains or resumes, draws samples, evaluates and reports; returns the exit code.

    `build` returns the `Task`; it is called only if the run is not finished yet. Several processes
    train together (`sd.join_processes`), and process 0 alone does the rest.
    """
    folder = Path(settings.runs).expanduser() / settings.name
    page_path = folder / "report.html"
    if not settings.afresh and is_finished(folder, settings.lasting()):
        print(
            f"{folder} is finished: {page_path} shows it. For another run: --name NAME or --seed "
            f"N; to begin anew: --afresh."
        )
        return 0

    sd.join_processes()
    sd.use_cpu_cores()  # before any other use of JAX
    if jax.process_index() == 0:
        with RunFolder(folder):  # refuses a place that cannot be written, before any work
            pass

    clock = Clock()
    with clock("data and references"):
        task: Task = build()
    page = Page(folder, settings.training.steps, clock)
    key_init, key_fit, key_sample, key_evaluate = jax.random.split(jax.random.key(settings.seed), 4)

    # Train, on all processes.
    fit = train(settings, task, page, clock, key_init, key_fit)
    if jax.process_count() > 1:
        jax.distributed.shutdown()  # the others would not wait as long as an evaluation takes
    if jax.process_index() > 0:
        return exit_code_of_stop() if fit.interrupted else 0
    if fit.interrupted:
        page.write(status="interrupted", step=fit.step)
        print(f"stopped at step {fit.step} of {settings.training.steps}, saved in {folder}.")
        print(f"To resume: {command()}")
        return exit_code_of_stop()

    # Evaluate the trained model.
    with clock("sampling"):
        samples = draw(settings, task, fit.model, key_sample)
        task.picture(np.asarray(samples.x), page.picture_of(fit.step))
    outcome = task.evaluate(settings, key_evaluate, fit.model, samples, folder, clock)

    # Report.
    spent = cost(fit.history, settings.training.batch_size)
    page.write(
        status="finished",
        step=fit.step,
        figures=outcome.figures | spent,
        headline=outcome.headline,
        tables=[*outcome.tables, table_of_costs(spent)],
    )
    minutes = clock.total() / 60
    print(f"\n{settings.name}: {settings.training.steps} steps, finished in {minutes:.1f} minutes")
    print("\n".join(f"  {line}" for line in outcome.summary))
    # The model of a custom network is needed to load it.
    custom = is_custom_network(fit.model.net)
    in_python = "" if custom else f"; in Python: model = sd.load({str(folder)!r})"
    print(f"look at {page_path}{in_python}")
    return 0


def train(
    settings: Experiment,
    task: Task,
    page: Page,
    clock: Clock,
    key_init: jax.Array,
    key_fit: jax.Array,
) -> Fit:
    """Trains or resumes training, with a picture and a new page at every checkpoint."""

    def show(step: int, model: sd.ScoreModel) -> dict[str, float]:
        key = jax.random.key(settings.seed)
        shape = (task.draws, *task.shape)
        with clock("pictures while training"):
            score = task.score(model, task.draws)
            samples = sd.sample(key, settings.sampler, model.sde, score, shape)
            task.picture(np.asarray(samples.x), page.picture_of(step))
            page.write(status="running", step=step)
            return task.watch(settings, model, samples)

    with clock("initialisation"):
        model = settings.model(key_init, task.shape)

    with clock("training"):
        fit = sd.fit(
            key_fit,
            model,
            task.train,
            validation=task.held_out,
            prepare=task.prepare,
            training=settings.training,
            run=page.folder,
            config=settings.lasting(),
            new_schedule=settings.new_schedule,
            afresh=settings.afresh,
            callbacks=[show],
            standardize=settings.standardize,
        )

    clock.seconds["training"] -= clock.seconds.get("pictures while training", 0.0)
    return fit


def draw(
    settings: Experiment,
    task: Task,
    model: sd.ScoreModel,
    key: jax.Array,
    sampler: AnySampler | None = None,
) -> sd.Sample:
    """Draws `num_samples` samples in batches, by default with the sampler of the settings."""
    return sd.sample(
        key,
        settings.sampler if sampler is None else sampler,
        model.sde,
        task.score(model, settings.num_samples),
        (settings.num_samples, *task.shape),
        batch_size=settings.evaluation_batch,
        progress=True,
    )


def table_of_costs(spent: dict[str, float]) -> dict[str, Any]:
    """Returns the page's table of speed and memory."""
    return {
        "title": "Cost",
        "columns": ["", ""],
        "rows": [[name, f"{value:.4g}"] for name, value in spent.items()],
    }
