"""Quality against evaluations, every sampler from one digits checkpoint.

    python benchmarks/sampler_quality.py runs/digits_vp --picture docs/sampler_quality.png      # about 40 minutes

Fréchet distance on the hidden features of a small classifier of the real digits, from `--num` samples to the 1500
training digits: mean over `--repeats` independent sets ± its standard error. Distances of few samples read high, all by
the same amount; the floor is that of the held-out digits, resampled to the same number (with replacement). Samplers get
the settings that spend as many evaluations, the last denoising among them (one fewer where a step takes two); adaptive
ones stand where they land. Uniform steps for the first-order samplers of the papers, log SNR or EDM's for the others;
t_min 1e-3.

Beyond 200 evaluations only the three samplers that still change are run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import bench
import jax
import numpy as np
from tqdm import tqdm

import scoresde as sd
from scoresde.data.arrays import digits
from scoresde.evaluation import frechet_distance
from scoresde.features import ClassifierFeatures
from scoresde.train.run import open_run

COUNTS = (5, 10, 20, 50, 100, 200, 1000)
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
    "Restart": lambda n: sd.Restart((n - 1) // 2 - 6 if n >= 50 else 0, (sd.Interval(0.1, 1.0, 3, 2),)),
}
LONG = ("ancestral", "Euler-Maruyama", "predictor-corrector")
ADAPTIVE = {
    "probability flow": [sd.ProbabilityFlow(rtol=tol, atol=tol) for tol in (1e-1, 1e-2, 1e-3)],
    "adaptive SDE": [sd.AdaptiveSDE(rtol=tol, atol=tol) for tol in (0.5, 0.1)],
}


def main() -> None:
    args = bench.parse(__doc__, repeats=2, flags={
        "run": {"help": "the run's folder, of digits"},
        "--num": {"type": int, "default": 500, "help": "samples a set (default 500)"},
        "--counts": {"type": int, "nargs": "+", "default": COUNTS, "help": f"evaluations (default {COUNTS})"},
        "--picture": {"default": None, "help": "where the plot goes, NAME.png"},
    })  # fmt: skip
    num, counts = (16, (5, 20)) if args.quick else (args.num, tuple(args.counts))
    sd.use_cpu_cores()
    trained, data = open_run(args.run), digits()
    prepare = sd.UniformDequantization(levels=data.levels)
    train, test = (np.asarray(prepare(jax.random.key(i), x)) for i, x in enumerate((data.train, data.test)))
    classifier = ClassifierFeatures.fit(train, data.train_labels)
    reference, shape = classifier.features(train), (num, *trained.shape)
    report = bench.Report("sampler_quality", args.quick, {"run": trained.path.name, "step": trained.step, "num": num,
                                                          "repeats": args.repeats})  # fmt: skip
    points: dict[str, list[tuple[float, np.ndarray]]] = {}
    plan = [(name, rule(n)) for n in counts for name, rule in RULES.items() if possible(rule, n)
            and (n <= 200 or name in LONG)]  # fmt: skip
    plan += [
        (name, settings) for name, several in ADAPTIVE.items() for settings in several[: 1 if args.quick else None]
    ]
    for name, settings in tqdm(plan, desc="samplers"):
        found, nfe = [], []
        for repeat in range(args.repeats):
            out = sd.sample(jax.random.key(repeat), settings, trained.model.sde, trained.model, shape, batch_size=250)
            drawn = classifier.features(np.asarray(out.x)[np.asarray(out.success)])
            found.append(frechet_distance(drawn, reference))
            nfe.append(float(np.mean(out.nfe)))
        points.setdefault(name, []).append((float(np.mean(nfe)), np.array(found)))
    rng = np.random.default_rng(0)
    resampled = [test[rng.integers(0, len(test), num)] for _ in range(20)]
    floor = np.array([frechet_distance(classifier.features(x), reference) for x in resampled])

    rows = [["evaluations", *map(str, counts)]]
    for name in RULES:
        cells = {round(nfe): f"{value.mean():.2f} ± {error(value):.2f}" for nfe, value in points.get(name, [])}
        rows.append([name, *(next((cells[k] for k in (n, n - 1) if k in cells), "") for n in counts)])
    bench.print_table(rows)
    for name in ADAPTIVE:
        print(f"{name}: " + ", ".join(f"{v.mean():.2f} ± {error(v):.2f} at {nfe:.0f}" for nfe, v in points[name]))
    for name, series in points.items():
        report.figures |= {f"{name}, {nfe:.0f} evaluations": float(value.mean()) for nfe, value in series}
        report.figures |= {f"{name}, {nfe:.0f} evaluations, ±": error(value) for nfe, value in series}
    report.figures["held-out digits"] = float(floor.mean())
    if args.picture:
        draw(points, float(floor.mean()), args.picture)
    report.finish()


def possible(rule: Callable[[int], Any], n: int) -> bool:
    """Whether there are settings that spend n evaluations."""
    try:
        rule(n)
    except ValueError:
        return False
    return True


def error(values: np.ndarray) -> float:
    """The standard error of the mean."""
    return float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")


def draw(points: dict[str, list[tuple[float, np.ndarray]]], floor: float, path: str) -> None:
    """Distance against evaluations, a line a sampler."""
    from matplotlib.figure import Figure

    fig = Figure(figsize=(8.2, 4.6), dpi=150, layout="constrained")
    ax = fig.subplots()
    for i, (name, series) in enumerate(points.items()):
        nfe, mean, spread = np.array([(n, v.mean(), error(v)) for n, v in series]).T
        style = ("o-", "s--", "^:")[i // 6]
        ax.errorbar(nfe, mean, spread, fmt=style, ms=4, lw=1.2, capsize=2, color=f"C{i % 6}", label=name)
    ax.axhline(floor, color="black", lw=0.8, label="held-out digits")
    ax.set(
        xscale="log", yscale="log", xlabel="evaluations of the network", ylabel="Fréchet distance, classifier features"
    )
    ax.xaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_major_formatter("{x:g}")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    fig.savefig(path)


if __name__ == "__main__":
    main()
