"""What the benchmarks share: interleaved timing, ratios, a table, a line of JSON."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

import scoresde as sd


def parse(
    doc: str | None, repeats: int, flags: dict[str, dict[str, Any]] | None = None
) -> argparse.Namespace:
    """Reads --quick, --repeats and a benchmark's further flags; `doc` is the text of --help.

    flags: for each name the keyword arguments of `ArgumentParser.add_argument`.
    """
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="tiny sizes, only to check that everything runs; the figures mean nothing",
    )
    parser.add_argument(
        "--repeats",
        type=int,
        default=None,
        help=f"timings of each part (default {repeats}, quick 2)",
    )
    for name, options in (flags or {}).items():
        parser.add_argument(name, **options)

    args = parser.parse_args()
    args.repeats = args.repeats or (2 if args.quick else repeats)
    return args


# --- Timing ---


@dataclasses.dataclass(frozen=True)
class Times:
    """Seconds, one entry per repeat.

    CPU time counts all threads, and depends least on what else the machine does.
    """

    cpu: np.ndarray
    wall: np.ndarray


def interleaved(parts: dict[str, Callable[[], Any]], repeats: int) -> dict[str, Times]:
    """Times every part `repeats` times, in rounds in which each runs once, under the same load.

    Each part runs once before, to be compiled.
    """
    for part in parts.values():
        jax.block_until_ready(part())

    cpu = {name: [] for name in parts}
    wall = {name: [] for name in parts}
    for _ in range(repeats):
        for name, part in parts.items():
            start_cpu = time.process_time()
            start_wall = time.perf_counter()
            jax.block_until_ready(part())
            cpu[name].append(time.process_time() - start_cpu)
            wall[name].append(time.perf_counter() - start_wall)

    return {name: Times(np.array(cpu[name]), np.array(wall[name])) for name in parts}


def median(values: np.ndarray) -> float:
    """Returns the median, to four digits."""
    return float(f"{np.median(values):.4g}")


def spread(values: np.ndarray) -> list[float]:
    """Returns the lowest value, the lower and upper quartile, and the highest, to four digits."""
    return [float(f"{value:.4g}") for value in np.quantile(values, [0.0, 0.25, 0.75, 1.0])]


# --- What is reported ---


@dataclasses.dataclass
class Report:
    """Figures as they come in; `finish` prints them as a table and, last, as a line of JSON."""

    benchmark: str
    quick: bool
    settings: dict[str, Any]
    medians: dict[str, float] = dataclasses.field(default_factory=dict)
    spread: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    ratios: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    figures: dict[str, Any] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)

    def time(self, name: str, seconds: np.ndarray) -> None:
        """Records the seconds of a part, one entry per repeat."""
        self.medians[name] = median(seconds)
        self.spread[name] = spread(seconds)

    def ratio(
        self, name: str, top: np.ndarray, bottom: np.ndarray, goal: float | None = None
    ) -> None:
        """Records top / bottom repeat by repeat, so that the load common to both cancels.

        goal: the most that the ratio should be.
        """
        ratio = top / bottom
        self.ratios[name] = {"median": median(ratio), "spread": spread(ratio), "goal": goal}

    def finish(self) -> None:
        """Prints the table, the notes, and the line of JSON."""
        print_table(self.rows())
        for note in self.notes:
            print(note)

        content = {
            "benchmark": self.benchmark,
            "quick": self.quick,
            "settings": self.settings,
            "medians": self.medians,
            "spread": self.spread,
            "ratios": self.ratios,
            "figures": self.figures,
            "versions": versions(),
            "device": device(),
            "cores": cores(),
            "load": round(os.getloadavg()[0], 2),
        }
        print(json.dumps(content, ensure_ascii=False))

    def rows(self) -> list[list[str]]:
        """Returns the rows of the table: times, then ratios, then other figures."""
        rows = [["", "median", "lowest … highest", "goal"]]
        for name, value in self.medians.items():
            lowest, *_, highest = self.spread[name]
            rows.append([name, f"{value:.4g} s", f"{lowest:.4g} … {highest:.4g}", ""])

        for name, ratio in self.ratios.items():
            lowest, *_, highest = ratio["spread"]
            goal = "" if ratio["goal"] is None else f"≤ {ratio['goal']:g}"
            rows.append([name, f"{ratio['median']:.3f}", f"{lowest:.3f} … {highest:.3f}", goal])

        for name, value in self.figures.items():
            text = f"{value:.4g}" if isinstance(value, float) else str(value)
            rows.append([name, text, "", ""])
        return rows


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Prints aligned columns, the first to the left and the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        print("  ".join([row[0].ljust(widths[0]), *cells[1:]]).rstrip())


# --- What it was measured with ---


def versions() -> dict[str, str]:
    """Returns the versions of Python, scoresde and the main libraries."""
    found = {"python": platform.python_version(), "scoresde": sd.__version__}
    for name in ("jax", "jaxlib", "flax", "optax", "diffrax", "equinox", "numpy", "scipy"):
        found[name] = importlib.metadata.version(name)
    return found


def device() -> str:
    """Returns the number and kind of the devices that JAX runs on."""
    devices = jax.local_devices()
    return f"{len(devices)} × {devices[0].device_kind}, {platform.machine()} {platform.system()}"


def cores() -> int:
    """Returns how many processor cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
