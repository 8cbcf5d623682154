"""What a run records about itself: its page of results, timings, costs, devices and versions."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np

from scoresde.runs.files import read_results
from scoresde.runs.report import write_report
from scoresde.runs.settings import from_dict, to_dict
from scoresde.runs.yaml_files import load_yaml
from scoresde.writing import write_atomically

try:
    import resource
except ModuleNotFoundError:  # Windows
    resource = None


class Clock:
    """Seconds spent in each named part of a run."""

    def __init__(self):
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def total(self) -> float:
        """Returns the seconds of all parts together."""
        return sum(self.seconds.values())


class Page:
    """The files results.json and report.html of a run, written again at every stage."""

    def __init__(self, folder: Path, total_steps: int, clock: Clock):
        self.folder = folder
        self.about = {
            "command": command(),
            "total_steps": total_steps,
            "device": device(),
            "versions": versions(),
            "timings": clock.seconds,
        }

    def write(self, **results: Any) -> None:
        """Writes results.json, and the page made from it."""
        content = json.dumps(self.about | results, indent=1)
        write_atomically(self.folder / "results.json", content.encode())
        write_report(self.folder)

    def picture_of(self, step: int) -> Path:
        """Returns where the picture of a step's samples is saved."""
        return self.folder / "samples" / f"step_{step:06d}.png"


def is_finished(folder: Path, settings: Any) -> bool:
    """Returns whether the folder holds a finished run with exactly these settings."""
    results, _ = read_results(folder / "results.json")
    if results.get("status") != "finished":
        return False
    try:
        stored = load_yaml(folder / "config.yaml")
        if stored != to_dict(settings):
            # Settings that the run's version did not have yet have their defaults.
            stored = to_dict(from_dict(stored, type(settings)))
        return stored == to_dict(settings)
    except ValueError:
        return False


def command() -> str:
    """Returns the command line of this process."""
    return "python " + " ".join(sys.argv)


def cost(history: list[dict[str, Any]], batch_size: int) -> dict[str, float]:
    """Returns training examples per second, the median over logged rows, and peak memory in GiB."""
    speed = float(np.median([row["steps_per_second"] for row in history]))
    spent = {"examples/s in training": batch_size * speed}

    stats = jax.local_devices()[0].memory_stats() or {}  # None on CPU
    if "peak_bytes_in_use" in stats:
        spent["peak memory of the device, GiB"] = stats["peak_bytes_in_use"] / 2**30

    if resource is not None:
        unit = 1 if sys.platform == "darwin" else 2**10
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        spent["peak memory of the process, GiB"] = peak / 2**30
    return spent


def device() -> str:
    """Returns the number and kind of the devices that JAX runs on."""
    devices = jax.devices()
    return f"{len(devices)} × {devices[0].device_kind}, {platform.machine()} {platform.system()}"


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the main libraries."""
    found = {"python": platform.python_version()}
    for name in ("scoresde", "jax", "flax", "optax", "diffrax", "orbax-checkpoint", "numpy"):
        found[name] = importlib.metadata.version(name)
    return found
