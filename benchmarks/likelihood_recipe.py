"""Which training gives the better likelihood: held-out bits/dim, paired over digits, noise, probes and seeds.

    python benchmarks/likelihood_recipe.py --runs runs                  # about 12 minutes a seed on 2 CPU cores
    python benchmarks/likelihood_recipe.py --runs runs --recipes digits_vp digits_likelihood digits_subvp

Each recipe is an experiment of `experiments/`, with flags if there are any ("digits_vp --training.steps 3600"), and is
trained with seeds 0, 1, 2 in folders of their own; finished ones are taken as they are. Every digit is evaluated
`--draws` times under uniform and under truncated-normal dequantisation, each from a t_min of its own, with the same
noise and the same probes for every model, so that a difference is of the models: its standard error is over digits,
each the mean over seeds and draws, and so of these seeds. The seeds' own differences are printed beside it, and the
standard error of their mean: what other seeds might bring.
"""

from __future__ import annotations

import math
import re
import subprocess
import sys
from pathlib import Path

import bench
import jax
import jax.numpy as jnp
import numpy as np

import scoresde as sd
from scoresde.data.arrays import digits
from scoresde.likelihood.dataset import Dequantization

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
TOLERANCE = 1e-4
SETTINGS = {
    "uniform": ("uniform", 1e-5),
    "uniform, from 1e-3": ("uniform", 1e-3),
    "truncated normal": ("truncated normal", 3e-3),
}
"""Dequantisation and t_min. A density at t_min is one too: blurred by less than the noise, and easier to learn. The
normal's noise is the SDE's own at t_min: under VP at 3e-3 a third of half a bin."""
QUICK = [
    "--training.steps",
    "20",
    "--training.validate-every",
    "20",
    "--num-samples",
    "64",
    "--likelihood-tolerance",
    "1e-2",
    "sampler:euler-maruyama",
    "--sampler.num-steps",
    "10",
    "net:mlp-config",
    "--net.width",
    "32",
]


def main() -> None:
    args = bench.parse(
        __doc__,
        repeats=1,
        flags={
            "--runs": {"default": "runs", "help": "where the runs' folders stand (default runs)"},
            "--recipes": {
                "nargs": "+",
                "default": ["digits_vp", "digits_likelihood"],
                "help": "experiments with their flags; the others are compared with the first",
            },
            "--seeds": {"type": int, "nargs": "+", "default": [0, 1, 2], "help": "(default 0 1 2)"},
            "--settings": {
                "nargs": "+",
                "default": list(SETTINGS),
                "choices": list(SETTINGS),
                "help": "(default: all)",
            },
            "--draws": {
                "type": int,
                "default": 2,
                "help": "dequantisations of each digit (default 2)",
            },
            "--probes": {"type": int, "default": 4, "help": "probes of each (default 4)"},
        },
    )
    num = 32 if args.quick else None
    seeds = args.seeds[:2] if args.quick else args.seeds
    runs = {
        (recipe, seed): train(recipe, seed, args.runs, args.quick)
        for recipe in args.recipes
        for seed in seeds
    }
    sd.use_cpu_cores()
    data = digits()
    test = jnp.asarray(data.test[:num])
    report = bench.Report(
        "likelihood_recipe",
        args.quick,
        {
            "recipes": args.recipes,
            "seeds": seeds,
            "draws": args.draws,
            "probes": args.probes,
            "digits": len(test),
            "tolerance": TOLERANCE,
            "t_min": {name: t_min for name, (_, t_min) in SETTINGS.items()},
        },
    )
    for name, (kind, t_min) in ((name, SETTINGS[name]) for name in args.settings):

        def evaluate(folder: Path, kind: str = kind, t_min: float = t_min) -> np.ndarray:
            model = sd.load(folder)
            noise = (
                sd.UniformDequantization(levels=data.levels)
                if kind == "uniform"
                else sd.TruncatedNormalDequantization(model.sde, t_min, levels=data.levels)
            )
            return bits(model, noise, t_min, test, args.draws, args.probes)

        found = {run: evaluate(folder) for run, folder in runs.items()}
        compare(report, name, found, args.recipes, seeds)
    report.finish()


def train(recipe: str, seed: int, runs: str, quick: bool) -> Path:
    """The folder of the finished run."""
    experiment, *flags = recipe.split()
    name = "_".join(re.findall(r"\w+", recipe)) + f"_seed{seed}" + ("_quick" if quick else "")
    command = [
        sys.executable,
        str(EXPERIMENTS / f"{experiment}.py"),
        "--runs",
        runs,
        "--name",
        name,
    ]
    subprocess.run([*command, "--seed", str(seed), *flags, *(QUICK if quick else [])], check=True)
    return Path(runs) / name


def bits(
    model: sd.ScoreModel,
    dequantize: Dequantization,
    t_min: float,
    test: jax.Array,
    draws: int,
    probes: int,
) -> np.ndarray:
    """bits/dim of every digit, mean over the draws; NaN where a solve failed. The noise depends on (digit, draw)."""
    dim = math.prod(test.shape[1:])
    found = []
    for draw in range(draws):
        key_noise, key_probes = jax.random.split(jax.random.fold_in(jax.random.key(0), draw))
        x = dequantize(key_noise, test)
        out = sd.log_likelihood(
            key_probes,
            model.sde,
            model,
            x,
            divergence=sd.Hutchinson(probes),
            rtol=TOLERANCE,
            atol=TOLERANCE,
            t_min=t_min,
            batch_size=100,
            progress=True,
        )
        nats = jnp.where(out.success, out.log_prob, jnp.nan)
        found.append(
            np.asarray(
                sd.discrete_bits_per_dim(nats[None], dequantize.log_prob(x, test)[None], dim)
            )
        )
    return np.mean(found, axis=0)


def compare(
    report: bench.Report,
    name: str,
    found: dict[tuple[str, int], np.ndarray],
    recipes: list[str],
    seeds: list[int],
) -> None:
    """Each recipe's mean, and its difference to the first."""
    rows = {
        recipe: np.stack([found[recipe, seed] for seed in seeds]) for recipe in recipes
    }  # (seeds, digits)
    good = np.all([np.isfinite(values).all(axis=0) for values in rows.values()], axis=0)
    report.figures[f"{name}: digits left out, a solve failed"] = int((~good).sum())
    error = lambda values: float(values.std(ddof=1) / math.sqrt(values.size))  # noqa: E731
    for recipe, values in rows.items():
        mean = values[:, good].mean(axis=0)
        report.figures[f"{name}: {recipe}, bits/dim"] = float(mean.mean())
        report.figures[f"{name}: {recipe}, standard error over digits"] = error(mean)
    first = rows[recipes[0]][:, good]
    for recipe in recipes[1:]:
        difference = rows[recipe][:, good] - first
        mean = difference.mean(axis=0)
        label = f"{name}: {recipe} minus {recipes[0]}"
        report.figures[label] = float(mean.mean())
        report.figures[f"{label}, paired standard error"] = error(mean)
        report.figures[f"{label}, in standard errors"] = float(mean.mean() / error(mean))
        of_seed = difference.mean(axis=1)
        report.figures[f"{label}, seed by seed"] = [round(float(value), 4) for value in of_seed]
        if len(of_seed) > 1:
            report.figures[f"{label}, standard error over seeds"] = error(of_seed)


if __name__ == "__main__":
    main()
