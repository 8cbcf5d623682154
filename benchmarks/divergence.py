"""How much an estimate of the divergence costs and how far off it is.

    python benchmarks/divergence.py                        # a 16-D mixture
    python benchmarks/divergence.py runs/digits_vp         # and a trained network, on held-out data

Hardware: a CPU is enough for the mixture.

Each likelihood is solved once exactly, and `--repeats` times with every estimator.

std                   of log p in nats, over the estimator's draws, pooled over examples
products              Jacobian-vector products J v in one evaluation of the field
variance × products   over that of one Rademacher probe: below 1, the estimator buys more accuracy
                      for the same cost
CPU                   of the whole solve, over that with one Rademacher probe
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle
from typing import Any

import bench
import jax
import jax.numpy as jnp
import numpy as np

import scoresde as sd
from scoresde.likelihood.divergence import AnyDivergence
from scoresde.train.load import open_run

# Each with its number of products.
ESTIMATORS: dict[str, tuple[AnyDivergence, int]] = {
    "Rademacher, 1 probe": (sd.Hutchinson(1), 1),
    "Rademacher, 4 probes": (sd.Hutchinson(4), 4),
    "Gaussian, 1 probe": (sd.Hutchinson(1, sd.divergences.Gaussian()), 1),
    "Gaussian, 4 probes": (sd.Hutchinson(4, sd.divergences.Gaussian()), 4),
    "Hutch++, rank 1, 2 probes": (sd.divergences.HutchPlusPlus(1, 2), 4),
    "Hutch++, rank 4, 4 probes": (sd.divergences.HutchPlusPlus(4, 4), 12),
}
BASELINE = "Rademacher, 1 probe"

FLAGS = {"run": {"nargs": "?", "help": "the folder of a trained run"}}


def main() -> None:
    args = bench.parse(__doc__, repeats=8, flags=FLAGS)
    report = bench.Report("divergence", args.quick, {"repeats": args.repeats, "run": args.run})

    sde = sd.VP()
    law = mixture()
    x = law.sample(jax.random.key(1), 8 if args.quick else 64)
    measure(report, "16-D mixture", sde, law.score(sde), x, args.repeats)

    if args.run:
        model, x = held_out_examples(args.run, 4 if args.quick else 50)
        measure(report, "network", model.sde, model, x, args.repeats)
    report.finish()


def mixture(dim: int = 16) -> sd.GaussianMixture:
    """Returns a mixture of three components with full covariances."""
    rng = np.random.default_rng(dim)
    root = 0.3 * rng.normal(size=(3, dim, dim)) / np.sqrt(dim)
    means = rng.normal(size=(3, dim))
    covs = root @ np.swapaxes(root, 1, 2) + 0.05 * np.eye(dim)
    return sd.GaussianMixture(means, covs)


def held_out_examples(run: str, count: int) -> tuple[sd.ScoreModel, jax.Array]:
    """Returns the model of a run, and some of its held-out examples as the model sees them."""
    trained = open_run(run)
    held_out = trained.held_out()
    if held_out is None:
        raise SystemExit(f"{run} kept no held-out examples: name a run that has some.")

    x = jnp.asarray(held_out[0][:count])
    if trained.prepare is not None:
        x = trained.prepare(jax.random.key(2), x)
    return trained.model, x


def measure(
    report: bench.Report, name: str, sde: sd.SDE, score: Any, x: jax.Array, repeats: int
) -> None:
    """Reports and prints a table of the estimators for one score."""

    def solve(divergence: AnyDivergence, key: jax.Array) -> np.ndarray:
        likelihood = sd.log_likelihood(
            key, sde, score, x, divergence=divergence, rtol=1e-4, atol=1e-4
        )
        return np.asarray(likelihood.log_prob)

    keys = [jax.random.key(repeat) for repeat in range(repeats)]
    exact = solve(sd.ExactDivergence(), keys[0])
    found: dict[str, list[np.ndarray]] = {label: [] for label in ESTIMATORS}

    def estimate(label: str, draws: Iterator[jax.Array]) -> None:
        divergence, _ = ESTIMATORS[label]
        found[label].append(solve(divergence, next(draws)))

    parts = {}
    for label in ESTIMATORS:
        draws = cycle(keys)
        parts[label] = lambda label=label, draws=draws: estimate(label, draws)
    times = bench.interleaved(parts, repeats)

    # The first call was there to compile, and its key comes again last.
    variances = {}
    for label, values in found.items():
        errors = np.stack(values[1:]) - exact
        variances[label] = float(np.nanmean(errors**2))

    rows = [[name, "std, nats", "products", "variance × products", "CPU"]]
    for label, (_, products) in ESTIMATORS.items():
        std = float(np.sqrt(variances[label]))
        relative = variances[label] * products / variances[BASELINE]
        cpu = np.median(times[label].cpu / times[BASELINE].cpu)
        rows.append([label, f"{std:.3g}", str(products), f"{relative:.2f}", f"{cpu:.2f}"])

        report.figures[f"{name}, {label}: std, nats"] = std
        report.ratio(f"{name}, {label}, CPU", times[label].cpu, times[BASELINE].cpu)
    bench.print_table(rows)
    print()


if __name__ == "__main__":
    main()
