"""The life of an experiment: resume or say that it is finished, train with pictures, evaluate, leave a page."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import platform
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np

import scoresde as sd
from scoresde.runs.files import write_atomically
from scoresde.runs.folder import RunFolder
from scoresde.runs.report import write_report
from scoresde.runs.settings import load_yaml, to_dict
from scoresde.sampling.choices import AnySampler
from scoresde.train.model_settings import AnyNet, AnyParameterization, AnySDE, ModelSettings

try:
    import resource
except ModuleNotFoundError:  # Windows
    resource = None


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Settings that every experiment has."""

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
    """Examples at a time in sampling and likelihoods: fewer need less memory."""
    seed: int
    """Decides the initial weights, every batch, and every draw."""
    runs: str
    """Where runs' folders stand."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What an evaluation found: figures to compute with, tables for the page (see `write_report`), lines to print."""

    figures: dict[str, float]
    headline: list[list[str]]
    tables: list[dict[str, Any]]
    summary: list[str]


class Task(Protocol):
    """Data, what to draw of samples, and what to hold a trained model against."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def train(self) -> Any: ...
    @property
    def test(self) -> np.ndarray: ...
    @property
    def prepare(self) -> Callable[[jax.Array, jax.Array], jax.Array] | None: ...  # see sd.fit
    @property
    def draws(self) -> int: ...  # samples at every checkpoint
    def picture(self, x: np.ndarray, path: Path) -> None: ...
    def watch(
        self, settings: Any, model: sd.ScoreModel, samples: sd.Sample
    ) -> dict[str, float]: ...
    def evaluate(
        self,
        settings: Any,
        key: jax.Array,
        model: sd.ScoreModel,
        samples: sd.Sample,
        folder: Path,
        clock: Clock,
    ) -> Outcome: ...


def run(settings: Experiment, build: Any) -> int:
    """Train or resume, sample, evaluate, report; the exit code. build: () → the Task.

    Several processes train together (see `join`); process 0 does the rest.
    """
    folder = Path(settings.runs).expanduser() / settings.name
    command = "python " + " ".join(sys.argv)
    if _is_finished(folder, settings):
        print(
            f"{folder} is finished: {folder / 'report.html'} shows it. For another run: --name NAME or --seed N."
        )
        return 0
    join()
    RunFolder(folder)  # a place that cannot be written is said before any work
    sd.use_cpu_cores()
    clock = Clock()
    with clock("data and references"):
        task: Task = build()
    shape = task.shape
    results: dict[str, Any] = {
        "command": command,
        "total_steps": settings.training.steps,
        "device": device(),
        "versions": versions(),
        "timings": clock.seconds,
    }

    def show(step: int, model: sd.ScoreModel) -> dict[str, float]:
        with clock("pictures while training"):
            out = sd.sample(
                jax.random.key(settings.seed),
                settings.sampler,
                model.sde,
                model,
                (task.draws, *shape),
            )
            task.picture(np.asarray(out.x), folder / "samples" / f"step_{step:06d}.png")
            write(folder, results | {"status": "running", "step": step})
            return task.watch(settings, model, out)

    key_init, key_fit, key_sample, key_evaluate = jax.random.split(jax.random.key(settings.seed), 4)
    with clock("initialisation"):
        model = ModelSettings(settings.sde, settings.net, settings.parameterization).build(
            key_init, shape
        )
    with clock("training"):
        fit = sd.fit(
            key_fit,
            model,
            task.train,
            validation=task.test,
            prepare=task.prepare,
            training=settings.training,
            run=folder,
            config=settings,
            callbacks=[show],
        )
    clock.seconds["training"] -= clock.seconds.get("pictures while training", 0.0)
    if jax.process_count() > 1:
        jax.distributed.shutdown()  # the others would not wait as long as an evaluation takes
    if jax.process_index() > 0:
        return 130 if fit.interrupted else 0
    if fit.interrupted:
        write(folder, results | {"status": "interrupted", "step": fit.step})
        print(
            f"stopped at step {fit.step} of {settings.training.steps}, saved in {folder}. To go on: {command}"
        )
        return 130

    with clock("sampling"):
        samples = sd.sample(
            key_sample,
            settings.sampler,
            model.sde,
            fit.model,
            (settings.num_samples, *shape),
            batch_size=settings.evaluation_batch,
            progress=True,
        )
        task.picture(np.asarray(samples.x), folder / "samples" / f"step_{fit.step:06d}.png")
    outcome = task.evaluate(settings, key_evaluate, fit.model, samples, folder, clock)
    spent = cost(fit.history, settings.training.batch_size)
    table = {
        "title": "Cost",
        "columns": ["", ""],
        "rows": [[name, f"{value:.4g}"] for name, value in spent.items()],
    }
    results |= {
        "status": "finished",
        "step": fit.step,
        "figures": outcome.figures | spent,
        "headline": outcome.headline,
        "tables": [*outcome.tables, table],
    }
    write(folder, results)
    minutes = sum(clock.seconds.values()) / 60
    print(f"\n{settings.name}: {settings.training.steps} steps, finished in {minutes:.1f} minutes")
    print("\n".join(f"  {line}" for line in outcome.summary))
    print(f"look at {folder / 'report.html'}; in Python: model = sd.load({str(folder)!r})")
    return 0


def join() -> None:
    """Become one of several processes if JAX_COORDINATOR_ADDRESS names the first, host:port.

    JAX_NUM_PROCESSES and JAX_PROCESS_ID say the rest, or what JAX reads of SLURM, Open MPI and Kubernetes. An error in
    one ends the others after a minute.
    """
    address = os.environ.get("JAX_COORDINATOR_ADDRESS")
    if address is None:
        return
    if not re.fullmatch(r".+:[0-9]+", address):
        raise ValueError(
            f"JAX_COORDINATOR_ADDRESS is {address!r}: wanted process 0's host:port, as in host0:1234."
        )
    numbers: dict[str, int | None] = {}
    for variable in ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID"):
        text = os.environ.get(variable)
        if text is not None and not text.isdecimal():
            raise ValueError(f"{variable} is {text!r}: wanted a whole number.")
        numbers[variable] = None if text is None else int(text)
    count, index = numbers.values()
    if count is not None and index is not None and index >= count:
        raise ValueError(
            f"JAX_PROCESS_ID is {index} of JAX_NUM_PROCESSES = {count}: wanted 0 … {count - 1}."
        )
    handler = signal.signal(
        signal.SIGINT, signal.SIG_DFL
    )  # JAX waits for the others, up to 5 minutes, in C++
    try:
        jax.distributed.initialize(
            num_processes=count, process_id=index, shutdown_timeout_seconds=60
        )
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"the processes did not come together: {error} (JAX_COORDINATOR_ADDRESS={address}, "
            f"JAX_NUM_PROCESSES={count}, JAX_PROCESS_ID={index}: the environment's, None where it does "
            f"not say; then JAX asks SLURM, Open MPI or Kubernetes.)"
        ) from error
    finally:
        signal.signal(signal.SIGINT, handler)


# --- Bookkeeping ---


class Clock:
    """Seconds spent in each named part."""

    def __init__(self):
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def write(folder: Path, results: dict[str, Any]) -> None:
    """results.json and the page made of it."""
    write_atomically(folder / "results.json", json.dumps(results, indent=1).encode())
    write_report(folder)


def cost(history: list[dict[str, Any]], batch_size: int) -> dict[str, float]:
    """Examples a second of training, the median of its rows, and the most memory that the process has held."""
    spent = {
        "examples/s in training": batch_size
        * float(np.median([row["steps_per_second"] for row in history]))
    }
    stats = jax.local_devices()[0].memory_stats() or {}  # None on CPU
    if "peak_bytes_in_use" in stats:
        spent["peak memory of the device, GiB"] = stats["peak_bytes_in_use"] / 2**30
    if resource is not None:
        unit = 1 if sys.platform == "darwin" else 2**10
        spent["peak memory of the process, GiB"] = (
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
        )
    return spent


def device() -> str:
    """The devices that JAX runs on."""
    devices = jax.devices()
    return f"{len(devices)} × {devices[0].device_kind}, {platform.machine()} {platform.system()}"


def versions() -> dict[str, str]:
    """Python's and the main libraries'."""
    names = ("scoresde", "jax", "flax", "optax", "diffrax", "orbax-checkpoint", "numpy")
    return {"python": platform.python_version()} | {
        name: importlib.metadata.version(name) for name in names
    }


def _is_finished(folder: Path, settings: Experiment) -> bool:
    try:
        finished = json.loads((folder / "results.json").read_text()).get("status") == "finished"
        return finished and load_yaml(folder / "config.yaml") == to_dict(settings)
    except (OSError, ValueError):
        return False
