"""Which training gives the better likelihood: paired held-out bits/dim of several recipes.

    python benchmarks/likelihood_recipe.py --runs runs
    python benchmarks/likelihood_recipe.py --runs runs --recipes digits_vp digits_subvp

Hardware: 2 CPU cores, about 12 minutes per seed.

A recipe is an experiment in `experiments/`, with flags if there are any ("digits_vp
--training.steps 3600"). Each is trained with seeds 0, 1, 2 in folders of its own; finished runs
are used as they are.

Every digit is evaluated `--draws` times under uniform and under truncated-normal dequantisation,
each with its own t_min. The noise and the probes are the same for every model, so that
differences are due to the models. Two standard errors are printed: over digits, each the mean
over seeds and draws (how well these seeds are known), and over seeds (what other seeds might
bring).
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
from scoresde.data import arrays
from scoresde.likelihood.dataset import Dequantization

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
TOLERANCE = 1e-4

SETTINGS = {
    "uniform": ("uniform", 1e-5),
    "uniform, from 1e-3": ("uniform", 1e-3),
    "truncated normal": ("truncated normal", 3e-3),
}
"""Dequantisation and t_min.

A model's density at a larger t_min is a density too: blurred by less than the dequantisation, and
easier to learn. The noise of the truncated normal is that of the SDE at t_min: under VP at 3e-3 a
third of half a bin.
"""

QUICK = [
    "--training.steps=20",
    "--training.validate-every=20",
    "--num-samples=64",
    "--likelihood-tolerance=1e-2",
    "sampler:euler-maruyama",
    "--sampler.num-steps=10",
    "net:mlp-config",
    "--net.width=32",
]
"""Flags of every experiment under --quick."""

FLAGS = {
    "--runs": {"default": "runs", "help": "the folder of the runs' folders (default runs)"},
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
    "--draws": {"type": int, "default": 2, "help": "dequantisations of each digit (default 2)"},
    "--probes": {"type": int, "default": 4, "help": "probes of each (default 4)"},
}


def main() -> None:
    args = bench.parse(__doc__, repeats=1, flags=FLAGS)
    seeds = args.seeds[:2] if args.quick else args.seeds

    folders: dict[tuple[str, int], Path] = {}
    for recipe in args.recipes:
        for seed in seeds:
            folders[recipe, seed] = train(recipe, seed, args.runs, args.quick)

    sd.use_cpu_cores()
    data = arrays.digits()
    test = jnp.asarray(data.test[: 32 if args.quick else None])
    settings = {
        "recipes": args.recipes,
        "seeds": seeds,
        "draws": args.draws,
        "probes": args.probes,
        "digits": len(test),
        "tolerance": TOLERANCE,
        "t_min": {name: t_min for name, (_, t_min) in SETTINGS.items()},
    }
    report = bench.Report("likelihood_recipe", args.quick, settings)

    for name in args.settings:
        kind, t_min = SETTINGS[name]
        found = {}
        for run, folder in folders.items():
            model = sd.load(folder)
            noise = dequantization(kind, model.sde, t_min, data.levels)
            found[run] = bits(model, noise, t_min, test, args.draws, args.probes)
        compare(report, name, found, args.recipes, seeds)
    report.finish()


def train(recipe: str, seed: int, runs: str, quick: bool) -> Path:
    """Trains a recipe unless that is done already, and returns the folder of the run."""
    experiment, *flags = recipe.split()
    words = re.findall(r"\w+", recipe)
    name = "_".join(words) + f"_seed{seed}" + ("_quick" if quick else "")

    script = str(EXPERIMENTS / f"{experiment}.py")
    command = [sys.executable, script, "--runs", runs, "--name", name, "--seed", str(seed)]
    subprocess.run([*command, *flags, *(QUICK if quick else [])], check=True)
    return Path(runs) / name


def dequantization(kind: str, sde: sd.SDE, t_min: float, levels: int) -> Dequantization:
    """Returns the dequantisation of one of the SETTINGS."""
    if kind == "uniform":
        return sd.UniformDequantization(levels=levels)
    return sd.TruncatedNormalDequantization(sde, t_min, levels=levels)


def bits(
    model: sd.ScoreModel,
    dequantize: Dequantization,
    t_min: float,
    test: jax.Array,
    draws: int,
    probes: int,
) -> np.ndarray:
    """Returns the bits/dim of every digit, the mean over draws; NaN where a solve failed.

    The noise depends on digit and draw alone.
    """
    dim = math.prod(test.shape[1:])
    found = []
    for draw in range(draws):
        key = jax.random.fold_in(jax.random.key(0), draw)
        key_noise, key_probes = jax.random.split(key)
        x = dequantize(key_noise, test)

        likelihood = sd.log_likelihood(
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
        log_prob = jnp.where(likelihood.success, likelihood.log_prob, jnp.nan)
        log_noise = dequantize.log_prob(x, test)
        found.append(np.asarray(sd.discrete_bits_per_dim(log_prob[None], log_noise[None], dim)))
    return np.mean(found, axis=0)


def compare(
    report: bench.Report,
    name: str,
    found: dict[tuple[str, int], np.ndarray],
    recipes: list[str],
    seeds: list[int],
) -> None:
    """Reports the mean of each recipe, and its difference from the first."""
    rows = {}
    for recipe in recipes:
        rows[recipe] = np.stack([found[recipe, seed] for seed in seeds])  # (seeds, digits)

    good = np.all([np.isfinite(values).all(axis=0) for values in rows.values()], axis=0)
    report.figures[f"{name}: digits left out, a solve failed"] = int((~good).sum())

    for recipe, values in rows.items():
        mean = values[:, good].mean(axis=0)
        report.figures[f"{name}: {recipe}, bits/dim"] = float(mean.mean())
        report.figures[f"{name}: {recipe}, standard error over digits"] = standard_error(mean)

    first, *others = recipes
    for recipe in others:
        difference = (rows[recipe] - rows[first])[:, good]
        label = f"{name}: {recipe} minus {first}"

        mean = difference.mean(axis=0)
        error = standard_error(mean)
        report.figures[label] = float(mean.mean())
        report.figures[f"{label}, paired standard error"] = error
        report.figures[f"{label}, in standard errors"] = float(mean.mean() / error)

        by_seed = difference.mean(axis=1)
        report.figures[f"{label}, seed by seed"] = [round(float(value), 4) for value in by_seed]
        if len(by_seed) > 1:
            report.figures[f"{label}, standard error over seeds"] = standard_error(by_seed)


def standard_error(values: np.ndarray) -> float:
    """Returns the standard error of the mean."""
    return float(values.std(ddof=1) / math.sqrt(values.size))


if __name__ == "__main__":
    main()
