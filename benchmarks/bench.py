"""What the benchmarks share: interleaved timing, ratios with their spread, a table, and one line of JSON."""

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
    """--quick, --repeats, and a benchmark's own flags; the script's docstring is the help."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="tiny sizes: does it run at all; the figures mean nothing",
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
    """One entry per repeat, in seconds. CPU time counts all threads and depends least on what else the machine does."""

    cpu: np.ndarray
    wall: np.ndarray


def interleaved(parts: dict[str, Callable[[], Any]], repeats: int) -> dict[str, Times]:
    """Every part once to compile, then `repeats` rounds in which each runs once, so that all meet the same load."""
    for part in parts.values():
        jax.block_until_ready(part())
    cpu, wall = ({name: [] for name in parts} for _ in range(2))
    for _ in range(repeats):
        for name, part in parts.items():
            start_cpu, start_wall = time.process_time(), time.perf_counter()
            jax.block_until_ready(part())
            cpu[name].append(time.process_time() - start_cpu)
            wall[name].append(time.perf_counter() - start_wall)
    return {name: Times(np.array(cpu[name]), np.array(wall[name])) for name in parts}


def median(values: np.ndarray) -> float:
    """The median, to four digits."""
    return float(f"{np.median(values):.4g}")


def spread(values: np.ndarray) -> list[float]:
    """Lowest, lower quartile, upper quartile, highest, to four digits."""
    return [float(f"{value:.4g}") for value in np.quantile(values, [0.0, 0.25, 0.75, 1.0])]


# --- What is reported ---


@dataclasses.dataclass
class Report:
    """Figures as they come in; `finish` prints a table and, as the last line, all of them as JSON."""

    benchmark: str
    quick: bool
    settings: dict[str, Any]
    medians: dict[str, float] = dataclasses.field(default_factory=dict)
    spread: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    ratios: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    figures: dict[str, Any] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)

    def time(self, name: str, seconds: np.ndarray) -> None:
        """A part's seconds, one entry per repeat."""
        self.medians[name], self.spread[name] = median(seconds), spread(seconds)

    def ratio(
        self, name: str, top: np.ndarray, bottom: np.ndarray, goal: float | None = None
    ) -> None:
        """top / bottom repeat by repeat: what both meet in a repeat cancels. goal: the most it should be."""
        self.ratios[name] = {
            "median": median(top / bottom),
            "spread": spread(top / bottom),
            "goal": goal,
        }

    def finish(self) -> None:
        """The table, the notes, the line of JSON."""
        rows = [["", "median", "lowest … highest", "goal"]]
        for name, value in self.medians.items():
            rows.append(
                [
                    name,
                    f"{value:.4g} s",
                    f"{self.spread[name][0]:.4g} … {self.spread[name][-1]:.4g}",
                    "",
                ]
            )
        for name, r in self.ratios.items():
            goal = "" if r["goal"] is None else f"≤ {r['goal']:g}"
            rows.append(
                [name, f"{r['median']:.3f}", f"{r['spread'][0]:.3f} … {r['spread'][-1]:.3f}", goal]
            )
        rows += [
            [name, f"{value:.4g}" if isinstance(value, float) else str(value), "", ""]
            for name, value in self.figures.items()
        ]
        print_table(rows)
        for note in self.notes:
            print(note)
        print(
            json.dumps(
                {
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
                },
                ensure_ascii=False,
            )
        )


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as their widest entry, the first to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        print("  ".join([row[0].ljust(widths[0]), *cells[1:]]).rstrip())


def versions() -> dict[str, str]:
    """Python's, scoresde's and the main libraries'."""
    names = ("jax", "jaxlib", "flax", "optax", "diffrax", "equinox", "numpy", "scipy")
    own = {"python": platform.python_version(), "scoresde": sd.__version__}
    return own | {name: importlib.metadata.version(name) for name in names}


def device() -> str:
    """The devices that JAX runs on."""
    devices = jax.local_devices()
    return f"{len(devices)} × {devices[0].device_kind}, {platform.machine()} {platform.system()}"


def cores() -> int:
    """The processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
