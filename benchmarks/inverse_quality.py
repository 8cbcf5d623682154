"""How far samples of every method for inverse problems are from the exact posterior.

    python benchmarks/inverse_quality.py

Hardware: 2 CPU cores, about 30 minutes.

Under VP, with exact scores, so that what is measured is the method alone:

Gaussian    of 8 entries, full covariance, 4 of their combinations measured: the posterior is a
            Gaussian. Error of the mean in its standard deviations, root mean squared over the
            entries; variances over the exact ones, their mean.
isotropic   N(m, 0.7² I), the same: PiGDM with data_std = 0.7 is exact.
mixture     in 2 and in 16 dimensions, 1 and 2 combinations measured half-way between two of three
            components: the posterior is a mixture. Sliced Wasserstein distance to 20 000 exact
            draws, beside its floor, that of as many exact draws.

Samples are drawn by DDIM with eta = 1 in 200 steps, even in log SNR. What they add to the error is
that of the first row, samples by the posterior's own exact score.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import bench
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import scoresde as sd
from scoresde.evaluation.distances import sliced_wasserstein

KEY = jax.random.key(0)
SDE = sd.VP()


def main() -> None:
    args = bench.parse(__doc__, repeats=1)
    draws, steps = (200, 10) if args.quick else (4000, 200)
    counts = (2, 8) if args.quick else (2, 8, 32, 128, 512)
    settings = {"draws": draws, "steps": steps}
    report = bench.Report("inverse_quality", args.quick, settings)

    rng = np.random.default_rng(0)
    root = rng.normal(size=(8, 8)) / np.sqrt(8)
    cov = root @ root.T + 0.1 * np.eye(8)
    laws = {
        "Gaussian": sd.GaussianMixture(rng.normal(size=(1, 8)), cov[None]),
        "isotropic": sd.GaussianMixture(rng.normal(size=(1, 8)), np.array([0.49])),
    }
    matrix = rng.normal(size=(4, 8)) / np.sqrt(8)
    for name, law in laws.items():
        y = matrix @ np.asarray(law.sample(jax.random.key(9), 1))[0]
        exact = law.posterior(matrix, y, 0.3)
        for method, sample in methods(law, matrix, y, 0.3, draws, steps, ()).items():
            report.figures[f"{name}, {method}: error of the mean, variance ratio"] = moments(
                sample(), exact
            )
            print(name, method, *list(report.figures.values())[-1], flush=True)

    for dim in (2, 16):
        law = mixture(dim)
        matrix = rng.normal(size=(max(1, dim // 8), dim)) / np.sqrt(dim)
        y = matrix @ np.asarray(law.means[0] + law.means[1]) / 2.0  # of either component
        exact = law.posterior(matrix, y, 0.3)
        reference = np.asarray(exact.sample(jax.random.key(1), 20_000))
        floor = [distance(exact.sample(jax.random.key(2 + i), draws), reference) for i in range(5)]
        report.figures[f"mixture, {dim}-D, exact draws"] = [
            round(float(np.mean(floor)), 4),
            round(float(np.std(floor, ddof=1)), 4),
        ]
        most = () if args.quick or dim == 2 else (2048,)
        for method, sample in methods(law, matrix, y, 0.3, draws, steps, counts + most).items():
            found = round(distance(sample(), reference), 4)
            report.figures[f"mixture, {dim}-D, {method}"] = found
            print(dim, method, found, flush=True)
    report.finish()


def mixture(dim: int) -> sd.GaussianMixture:
    """Returns three well separated components."""
    rng = np.random.default_rng(dim)
    means = 1.5 * rng.normal(size=(3, dim))
    return sd.GaussianMixture(means, np.array([0.05, 0.1, 0.2]))


def methods(
    law: sd.GaussianMixture,
    matrix: np.ndarray,
    y: np.ndarray,
    noise_std: float,
    draws: int,
    steps: int,
    particles: tuple[int, ...],
) -> dict[str, Callable[[], Array]]:
    """Returns what draws samples by every method, by name."""
    score = law.score(SDE)
    operator = sd.inverse.Projection(matrix)
    measured = jnp.asarray(y[None], jnp.float32)
    arguments: Any = (score, SDE, operator, measured, noise_std)
    shape = (draws, law.dim)
    sampler = sd.DDIM(num_steps=steps, eta=1.0, grid=sd.grids.UniformLogSNR())

    def draw(sampler: Any, score: Any) -> Callable[[], Array]:
        return lambda: sd.sample(KEY, sampler, SDE, score, shape).x

    def smc(count: int) -> Callable[[], Array]:
        twisted = sd.inverse.PiGDM(*arguments, data_std=0.7)
        return lambda: sd.inverse.twisted_smc(
            KEY, twisted, shape, count, num_steps=steps, batch_size=max(1, 50_000 // count)
        ).sample(jax.random.key(1), 1)[:, 0]

    full = len(y)
    found = {
        "the exact score": draw(sampler, law.posterior(matrix, y, noise_std).score(SDE)),
        "MMPS": draw(sampler, sd.inverse.MMPS(*arguments, iterations=full, tolerance=1e-6)),
        "MMPS, 1 iteration": draw(sampler, sd.inverse.MMPS(*arguments, iterations=1)),
        "PiGDM": draw(sampler, sd.inverse.PiGDM(*arguments, data_std=0.7)),
        "DPS": draw(sampler, sd.inverse.DPS(*arguments)),
        "replacement": draw(sd.inverse.Replacement(sampler, operator, measured), score),
        "RePaint, 5 times": draw(
            sd.inverse.Replacement(sampler, operator, measured, resamplings=5), score
        ),
    }
    return found | {f"SMC, {count} particles": smc(count) for count in particles}


def moments(x: Array, exact: sd.GaussianMixture) -> list[float]:
    """Returns the error of the mean in standard deviations, and the mean ratio of variances."""
    samples = np.asarray(x, float)
    mean, variance = np.asarray(exact.mean(), float), np.diag(np.asarray(exact.cov(), float))
    error = np.sqrt(np.mean((samples.mean(axis=0) - mean) ** 2 / variance))
    return [round(float(error), 4), round(float(np.mean(samples.var(axis=0) / variance)), 4)]


def distance(x: Array, reference: np.ndarray) -> float:
    """Returns the sliced Wasserstein distance."""
    return sliced_wasserstein(np.asarray(x), reference)


if __name__ == "__main__":
    main()
