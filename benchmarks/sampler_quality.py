"""Quality against evaluations, for every sampler, with one network of the digits.

    python benchmarks/sampler_quality.py runs/digits_vp --picture docs/sampler_quality.png

Hardware: a CPU is enough.

Quality is the Fréchet distance on the hidden features of a small classifier of the real digits,
from `--num` samples to the 1500 training digits: the mean over `--repeats` independent sets ± its
standard error. The ancestral sampler with most evaluations is the reference, so it gets
`--reference` sets. Every cell of the table has its own keys, so that cells are independent.

Distances of few samples are too high, all by the same amount. The floor is the distance of the
held-out digits, resampled to the same number with replacement.

Each sampler gets the settings that spend a number of evaluations, the last denoising included;
adaptive samplers are listed with what they spend. The grid is uniform for the papers' first-order
samplers, and log SNR or EDM's for the others; t_min is 1e-3. A cell is empty where no setting
spends its number: Restart needs enough steps to have a level near its interval.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import bench
import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

import scoresde as sd
from scoresde.data import arrays
from scoresde.evaluation.distances import frechet_distance
from scoresde.evaluation.features import ClassifierFeatures
from scoresde.train.load import open_run

COUNTS = (5, 10, 20, 50, 100, 200, 1000)


# --- Settings for a number of evaluations ---


def restart(n: int) -> sd.Restart:
    """Returns a Restart with six steps in its detour, or two where there are few in all."""
    interval = sd.Interval(0.1, 1.0, 3, 2) if n >= 50 else sd.Interval(0.1, 1.0, 2, 1)
    detour = interval.num_steps * interval.repeats
    return sd.Restart((n - 1) // 2 - detour, (interval,))


RULES: dict[str, Callable[[int], Any]] = {
    "ancestral": lambda n: sd.Ancestral(n),
    "Euler-Maruyama": lambda n: sd.EulerMaruyama(n - 1),
    "predictor-corrector": lambda n: sd.PredictorCorrector(num_steps=(n - 1) // 2),
    "ancestral, log SNR": lambda n: sd.DDIM(1.0, n - 1),
    "DDIM": lambda n: sd.DDIM(0.0, n - 1),
    "DPM-Solver++2M": lambda n: sd.DPMSolverPP(2, n - 1, weights="midpoint"),
    "SDE-DPM-Solver++2M": lambda n: sd.DPMSolverPP(2, n - 1, eta=1.0, weights="midpoint"),
    "exponential, order 3": lambda n: sd.Exponential(n - 1, order=3),
    "UniPC-2": lambda n: sd.UniPC(2, n - 1),
    "UniPC-3": lambda n: sd.UniPC(3, n - 1),
    "Heun": lambda n: sd.Heun((n - 1) // 2),
    "Heun, churn": lambda n: sd.Heun((n - 1) // 2, churn=0.2 * (n + 1) / 2),
    "Restart": restart,
}
"""The settings of each sampler that spend n evaluations."""

PAIRED = ("predictor-corrector", "Heun", "Heun, churn", "Restart")
"""Samplers with two evaluations per step, and one at the end: an odd number."""
NOTE = (
    f"{', '.join(PAIRED)}: two evaluations per step, so one fewer where the count is even "
    "(9 for 10, 19 for 20)."
)

ADAPTIVE = {
    "probability flow": [sd.ProbabilityFlow(rtol=tol, atol=tol) for tol in (1e-1, 1e-2, 1e-3)],
    "adaptive SDE": [sd.AdaptiveSDE(rtol=tol, atol=tol) for tol in (0.5, 0.1)],
}


def possible(rule: Callable[[int], Any], n: int, sde: sd.SDE) -> bool:
    """Returns whether a sampler has settings that spend n evaluations, and can run with them."""
    key = jax.random.key(0)
    x1 = jnp.ones((1, 2))
    try:
        settings = rule(n)
        if isinstance(settings, sd.Restart):  # looks at its grid when it is called
            jax.eval_shape(lambda x: settings(key, sde, lambda x, t: -x, x).x, x1)
    except ValueError:
        return False
    return True


# --- The benchmark ---

FLAGS = {
    "run": {"help": "the folder of a run on the digits"},
    "--num": {"type": int, "default": 500, "help": "samples per set (default 500)"},
    "--counts": {
        "type": int,
        "nargs": "+",
        "default": COUNTS,
        "help": f"evaluations (default {COUNTS})",
    },
    "--reference": {
        "type": int,
        "default": 6,
        "help": "sets of ancestral at the largest count (default 6)",
    },
    "--picture": {"default": None, "help": "file for the plot, NAME.png"},
}


def main() -> None:
    args = bench.parse(__doc__, repeats=2, flags=FLAGS)
    num = 16 if args.quick else args.num
    counts = (5, 20) if args.quick else tuple(sorted(args.counts))

    sd.use_cpu_cores()
    trained = open_run(args.run)
    ruler = Ruler.fit()
    settings = {
        "run": trained.path.name,
        "step": trained.step,
        "num": num,
        "repeats": args.repeats,
        "reference": args.reference,
    }
    report = bench.Report("sampler_quality", args.quick, settings)

    # Every sampler at every count.
    cells: dict[tuple[str, int | None], Cell] = {}
    series: dict[str, list[Cell]] = {}
    for name, n, sampler in tqdm(plan(trained.model.sde, counts, args.quick), desc="samplers"):
        is_reference = (name, n) == ("ancestral", counts[-1]) and not args.quick
        sets = args.reference if is_reference else args.repeats
        cell = measure(sampler, trained.model, (num, *trained.shape), sets, ruler)
        cells[name, n] = cell
        series.setdefault(name, []).append(cell)
    floor = ruler.floor(num)

    # The table of those with a count, and notes on the others.
    rows = [["evaluations", *map(str, counts)]]
    for name in RULES:
        rows.append([name, *(str(cells.get((name, n), "")) for n in counts)])
    bench.print_table(rows)
    report.notes.append(NOTE)
    for name in ADAPTIVE:
        found = ", ".join(f"{cell} at {cell.nfe:.0f}" for cell in series[name])
        report.notes.append(f"{name}: {found}")

    report_cells(report, series, num)
    report.figures["held-out digits"] = floor
    if args.picture:
        draw(series, floor, args.picture)
    report.finish()


def plan(sde: sd.SDE, counts: Sequence[int], quick: bool) -> list[tuple[str, int | None, Any]]:
    """Returns (name, evaluations, sampler) of every cell; the adaptive ones have no number."""
    cells: list[tuple[str, int | None, Any]] = []
    for n in counts:
        for name, rule in RULES.items():
            if possible(rule, n, sde):
                cells.append((name, n, rule(n)))

    for name, samplers in ADAPTIVE.items():
        for sampler in samplers[:1] if quick else samplers:
            cells.append((name, None, sampler))
    return cells


@dataclasses.dataclass(frozen=True)
class Ruler:
    """Fréchet distance to the training digits, on the features of a classifier."""

    classifier: ClassifierFeatures
    reference: np.ndarray
    """Features of the training digits."""
    held_out: np.ndarray
    """Dequantised held-out digits."""

    @classmethod
    def fit(cls) -> Ruler:
        """Returns the ruler, its classifier trained on the digits."""
        data = arrays.digits()
        dequantize = sd.UniformDequantization(levels=data.levels)
        train = np.asarray(dequantize(jax.random.key(0), jnp.asarray(data.train)))
        held_out = np.asarray(dequantize(jax.random.key(1), jnp.asarray(data.test)))

        classifier = ClassifierFeatures.fit(train, data.train_labels)
        return cls(classifier, classifier.features(train), held_out)

    def distance(self, x: np.ndarray) -> float:
        """Returns the distance of images; NaN for fewer than two, which have no covariance."""
        if len(x) < 2:
            return np.nan
        return frechet_distance(self.classifier.features(x), self.reference)

    def floor(self, num: int, repeats: int = 20) -> float:
        """Returns the mean distance of `num` held-out digits, drawn with replacement."""
        rng = np.random.default_rng(0)
        count = len(self.held_out)
        distances = []
        for _ in range(repeats):
            some = self.held_out[rng.integers(0, count, num)]
            distances.append(self.distance(some))
        return float(np.mean(distances))


class Cell:
    """Distances of independent sets of samples at a mean number of evaluations.

    failed: how many samples failed and are left out.
    """

    def __init__(self, nfe: float, values: Sequence[float] | np.ndarray, failed: int = 0):
        self.nfe = nfe
        self.values = np.asarray(values)
        self.failed = failed

    @property
    def mean(self) -> float:
        """The mean distance."""
        return float(self.values.mean())

    @property
    def error(self) -> float:
        """The standard error of the mean."""
        n = len(self.values)
        return float(np.std(self.values, ddof=1) / np.sqrt(n)) if n > 1 else float("nan")

    def __str__(self) -> str:
        text = "> 100" if self.mean > 100.0 else f"{self.mean:.2f} ± {self.error:.2f}"
        return text + (f" ({self.failed} failed)" if self.failed else "")


def measure(
    sampler: Any, model: sd.ScoreModel, shape: tuple[int, ...], sets: int, ruler: Ruler
) -> Cell:
    """Returns the distances of several sets of samples, each with its own key."""
    distances = []
    evaluations = []
    failed = 0
    for repeat in range(sets):
        key = jax.random.key(zlib.crc32(f"{sampler!r} {repeat}".encode()))
        samples = sd.sample(key, sampler, model.sde, model, shape, batch_size=250)

        good = np.asarray(samples.success)
        failed += int(np.sum(~good))
        distances.append(ruler.distance(np.asarray(samples.x)[good]))
        evaluations.append(float(np.mean(samples.nfe)))
    return Cell(float(np.mean(evaluations)), np.array(distances), failed)


def report_cells(report: bench.Report, series: dict[str, list[Cell]], num: int) -> None:
    """Reports every cell, and how many samples failed."""
    failed = 0
    for name, cells in series.items():
        for cell in cells:
            label = f"{name}, {cell.nfe:.0f} evaluations"
            report.figures[label] = cell.mean
            report.figures[f"{label}, ±"] = cell.error
            if cell.failed:
                report.figures[f"{label}, failed of {num * len(cell.values)}"] = cell.failed
            failed += cell.failed
    report.figures["failed samples"] = failed


def draw(series: dict[str, list[Cell]], floor: float, path: str) -> None:
    """Saves a plot of distance against evaluations, with one line per sampler."""
    from matplotlib.figure import Figure

    fig = Figure(figsize=(8.2, 4.6), dpi=150, layout="constrained")
    ax = fig.subplots()
    for i, (name, cells) in enumerate(series.items()):
        ax.errorbar(
            [cell.nfe for cell in cells],
            [cell.mean for cell in cells],
            [cell.error for cell in cells],
            fmt=("o-", "s--", "^:")[i // 6],
            ms=4,
            lw=1.2,
            capsize=2,
            color=f"C{i % 6}",
            label=name,
        )
    ax.axhline(floor, color="black", lw=0.8, label="held-out digits")

    ax.set(
        xscale="log",
        yscale="log",
        xlabel="evaluations of the network",
        ylabel="Fréchet distance, classifier features",
    )
    ax.xaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_major_formatter("{x:g}")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    fig.savefig(path)


if __name__ == "__main__":
    main()
