"""What an estimate of the divergence costs and how far it is off: variance per product with the score's Jacobian.

    python benchmarks/divergence.py                        # the 16-D mixture
    python benchmarks/divergence.py runs/digits_vp         # a trained network's held-out examples as well

Each likelihood is solved once exactly and `--repeats` times by every estimator. Standard deviation: of log p in nats
over the estimator's draws, pooled over examples. Products: J v a field evaluation. Variance × products, over that of
one Rademacher probe: below 1 the estimator buys more for the same money. CPU: the whole solve, over one Rademacher
probe's.
"""

from __future__ import annotations

from typing import Any

import bench
import jax
import jax.numpy as jnp
import numpy as np

import scoresde as sd
from scoresde.likelihood.divergence import AnyDivergence
from scoresde.train.load import open_run

ESTIMATORS: dict[str, tuple[AnyDivergence, int]] = {
    "Rademacher, 1 probe": (sd.Hutchinson(1), 1),
    "Rademacher, 4 probes": (sd.Hutchinson(4), 4),
    "Gaussian, 1 probe": (sd.Hutchinson(1, sd.divergences.Gaussian()), 1),
    "Gaussian, 4 probes": (sd.Hutchinson(4, sd.divergences.Gaussian()), 4),
    "Hutch++, rank 1, 2 probes": (sd.divergences.HutchPlusPlus(1, 2), 4),
    "Hutch++, rank 4, 4 probes": (sd.divergences.HutchPlusPlus(4, 4), 12),
}


def mixture(dim: int = 16) -> sd.GaussianMixture:
    """Three components with full covariances."""
    rng = np.random.default_rng(dim)
    root = 0.3 * rng.normal(size=(3, dim, dim)) / np.sqrt(dim)
    return sd.GaussianMixture(
        rng.normal(size=(3, dim)), root @ np.swapaxes(root, 1, 2) + 0.05 * np.eye(dim)
    )


def measure(
    report: bench.Report, name: str, sde: sd.SDE, score: Any, x: jax.Array, repeats: int
) -> None:
    """A table of the estimators for one score."""

    def solve(divergence: AnyDivergence, key: jax.Array) -> jax.Array:
        return sd.log_likelihood(
            key, sde, score, x, divergence=divergence, rtol=1e-4, atol=1e-4
        ).log_prob

    keys = [jax.random.key(r) for r in range(repeats)]
    exact = np.asarray(solve(sd.ExactDivergence(), keys[0]))
    turns = dict.fromkeys(ESTIMATORS, 0)
    found: dict[str, list[np.ndarray]] = {label: [] for label in ESTIMATORS}

    def part(label: str) -> jax.Array:
        out = solve(ESTIMATORS[label][0], keys[turns[label] % repeats])
        turns[label] += 1
        found[label].append(np.asarray(out))
        return out

    times = bench.interleaved(
        {label: lambda label=label: part(label) for label in ESTIMATORS}, repeats
    )
    one, rows = None, [[name, "std, nats", "products", "variance × products", "CPU"]]
    for label, (_, products) in ESTIMATORS.items():
        errors = (
            np.stack(found[label][1:]) - exact
        )  # the first call compiled, at the key of the last
        variance = float(np.nanmean(errors**2))
        cpu = times[label].cpu
        one = one or (variance, cpu)
        rows.append(
            [
                label,
                f"{np.sqrt(variance):.3g}",
                str(products),
                f"{variance * products / one[0]:.2f}",
                f"{np.median(cpu / one[1]):.2f}",
            ]
        )
        report.figures[f"{name}, {label}: std, nats"] = float(np.sqrt(variance))
        report.ratio(f"{name}, {label}, CPU", cpu, one[1])
    bench.print_table(rows)
    print()


def main() -> None:
    args = bench.parse(
        __doc__, repeats=8, flags={"run": {"nargs": "?", "help": "the folder of a trained run"}}
    )
    report = bench.Report("divergence", args.quick, {"repeats": args.repeats, "run": args.run})
    law, count = mixture(), 8 if args.quick else 64
    measure(
        report,
        "16-D mixture",
        sd.VP(),
        law.score(sd.VP()),
        law.sample(jax.random.key(1), count),
        args.repeats,
    )
    if args.run:
        trained = open_run(args.run)
        held_out = trained.held_out()
        if held_out is None:
            raise SystemExit(f"{args.run} kept no held-out examples.")
        x = jnp.asarray(held_out[0][: 4 if args.quick else 50])
        x = x if trained.prepare is None else trained.prepare(jax.random.key(2), x)
        measure(report, "network", trained.model.sde, trained.model, x, args.repeats)
    report.finish()


if __name__ == "__main__":
    main()
