"""Quality against evaluations, every sampler from one digits checkpoint.

    python benchmarks/sampler_quality.py runs/digits_vp --picture docs/sampler_quality.png

Fréchet distance on the hidden features of a small classifier of the real digits, from `--num` samples to the 1500
training digits: mean over `--repeats` independent sets ± its standard error; of the ancestral sampler at the largest
count, which the others are measured by, over `--reference` sets. Every cell has keys of its own, so that cells are
independent. Distances of few samples read high, all by the same amount; the floor is that of the held-out digits,
resampled to the same number (with replacement). Samplers get the settings that spend as many evaluations, the last
denoising among them, and adaptive ones stand where they land. Uniform steps for the first-order samplers of the papers,
log SNR or EDM's for the others; t_min 1e-3.

A cell is left empty where no setting spends its count: Restart needs steps enough to have a level near its interval.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Any

import bench
import jax
import numpy as np
from tqdm import tqdm

import scoresde as sd
from scoresde.data.arrays import digits
from scoresde.evaluation.distances import frechet_distance
from scoresde.evaluation.features import ClassifierFeatures
from scoresde.sampling.restart import restart_times
from scoresde.train.load import open_run

COUNTS = (5, 10, 20, 50, 100, 200, 1000)


def restart(n: int) -> sd.Restart:
    """Six steps of Heun in the detour, two where there are few in all; the others lead down."""
    interval = sd.Interval(0.1, 1.0, 3, 2) if n >= 50 else sd.Interval(0.1, 1.0, 2, 1)
    return sd.Restart((n - 1) // 2 - interval.num_steps * interval.repeats, (interval,))


RULES: dict[str, Callable[[int], Any]] = {  # evaluations → settings that spend them
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
PAIRED = ("predictor-corrector", "Heun", "Heun, churn", "Restart")
"""Two evaluations a step, and the last: an odd number."""
NOTE = f"{', '.join(PAIRED)}: two evaluations a step, so one fewer where the count is even (9 for 10, 19 for 20)."
ADAPTIVE = {
    "probability flow": [sd.ProbabilityFlow(rtol=tol, atol=tol) for tol in (1e-1, 1e-2, 1e-3)],
    "adaptive SDE": [sd.AdaptiveSDE(rtol=tol, atol=tol) for tol in (0.5, 0.1)],
}


def main() -> None:
    args = bench.parse(
        __doc__,
        repeats=2,
        flags={
            "run": {"help": "the run's folder, of digits"},
            "--num": {"type": int, "default": 500, "help": "samples a set (default 500)"},
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
            "--picture": {"default": None, "help": "where the plot goes, NAME.png"},
        },
    )
    num, counts = (16, (5, 20)) if args.quick else (args.num, tuple(sorted(args.counts)))
    sd.use_cpu_cores()
    trained, data = open_run(args.run), digits()
    sde, prepare = trained.model.sde, sd.UniformDequantization(levels=data.levels)
    train, test = (
        np.asarray(prepare(jax.random.key(i), x)) for i, x in enumerate((data.train, data.test))
    )
    classifier = ClassifierFeatures.fit(train, data.train_labels)
    reference, shape = classifier.features(train), (num, *trained.shape)
    report = bench.Report(
        "sampler_quality",
        args.quick,
        {
            "run": trained.path.name,
            "step": trained.step,
            "num": num,
            "repeats": args.repeats,
            "reference": args.reference,
        },
    )
    plan = [
        (name, n, rule(n)) for n in counts for name, rule in RULES.items() if possible(rule, n, sde)
    ]
    plan += [
        (name, None, settings)
        for name, several in ADAPTIVE.items()
        for settings in several[: 1 if args.quick else None]
    ]
    cells: dict[tuple[str, int | None], Cell] = {}
    points: dict[str, list[Cell]] = {}
    for name, n, settings in tqdm(plan, desc="samplers"):
        sets = (
            args.reference
            if (name, n) == ("ancestral", counts[-1]) and not args.quick
            else args.repeats
        )
        found, nfe, failed = [], [], 0
        for repeat in range(sets):
            key = jax.random.key(zlib.crc32(f"{settings!r} {repeat}".encode()))
            out = sd.sample(key, settings, sde, trained.model, shape, batch_size=250)
            good = np.asarray(out.success)
            failed += int(np.sum(~good))
            enough = good.sum() > 1  # a covariance takes two
            found.append(
                frechet_distance(classifier.features(np.asarray(out.x)[good]), reference)
                if enough
                else np.nan
            )
            nfe.append(float(np.mean(out.nfe)))
        cells[name, n] = Cell(float(np.mean(nfe)), np.array(found), failed)
        points.setdefault(name, []).append(cells[name, n])
    rng = np.random.default_rng(0)
    resampled = [test[rng.integers(0, len(test), num)] for _ in range(20)]
    floor = np.array([frechet_distance(classifier.features(x), reference) for x in resampled])

    rows = [["evaluations", *map(str, counts)]]
    rows += [[name, *(str(cells.get((name, n), "")) for n in counts)] for name in RULES]
    bench.print_table(rows)
    report.notes.append(NOTE)
    for name in ADAPTIVE:
        report.notes.append(
            f"{name}: " + ", ".join(f"{cell} at {cell.nfe:.0f}" for cell in points[name])
        )
    for name, series in points.items():
        for cell in series:
            label = f"{name}, {cell.nfe:.0f} evaluations"
            report.figures |= {label: float(cell.values.mean()), f"{label}, ±": cell.error}
            if cell.failed:
                report.figures[f"{label}, failed of {num * len(cell.values)}"] = cell.failed
    report.figures["failed samples"] = sum(cell.failed for cell in cells.values())
    report.figures["held-out digits"] = float(floor.mean())
    if args.picture:
        draw(points, float(floor.mean()), args.picture)
    report.finish()


class Cell:
    """Distances of independent sets at a mean number of evaluations; how many samples failed and are not in them."""

    def __init__(self, nfe: float, values: Sequence[float] | np.ndarray, failed: int = 0):
        self.nfe, self.values, self.failed = nfe, np.asarray(values), failed

    @property
    def error(self) -> float:
        """The standard error of the mean."""
        n = len(self.values)
        return float(np.std(self.values, ddof=1) / np.sqrt(n)) if n > 1 else float("nan")

    def __str__(self) -> str:
        mean = self.values.mean()
        text = "> 100" if mean > 100.0 else f"{mean:.2f} ± {self.error:.2f}"
        return text + (f" ({self.failed} failed)" if self.failed else "")


def possible(rule: Callable[[int], Any], n: int, sde: sd.SDE) -> bool:
    """Whether there are settings that spend n evaluations, and an interval of theirs fits the grid."""
    try:
        settings = rule(n)
        if isinstance(settings, sd.Restart):
            restart_times(settings, sde)
    except ValueError:
        return False
    return True


def draw(points: dict[str, list[Cell]], floor: float, path: str) -> None:
    """Distance against evaluations, a line a sampler."""
    from matplotlib.figure import Figure

    fig = Figure(figsize=(8.2, 4.6), dpi=150, layout="constrained")
    ax = fig.subplots()
    for i, (name, series) in enumerate(points.items()):
        nfe, mean, spread = np.array(
            [(cell.nfe, cell.values.mean(), cell.error) for cell in series]
        ).T
        style = ("o-", "s--", "^:")[i // 6]
        ax.errorbar(
            nfe, mean, spread, fmt=style, ms=4, lw=1.2, capsize=2, color=f"C{i % 6}", label=name
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
