"""Evaluations and errors of a likelihood, by the variable that its solver steps in.

    python benchmarks/likelihood_variables.py                                # exact scores
    python benchmarks/likelihood_variables.py runs/digits_vp runs/fashion_vp # and trained networks

Hardware: a CPU; for networks, minutes per run and SDE.

At tolerance 1e-5, under VP, sub-VP and VE, from t_min 1e-5 and 1e-3. Each figure is a pair:

evaluations    of the score with its divergence, the mean over examples
bits/dim       the largest error over examples

Exact scores are solved with the exact divergence, from the exact marginal at t = 1, so that the
density at t_min is known. A network is held against itself in float64 at `--reference`, with the
same probe. Only networks with an EDM parameterisation serve, which see sigma / alpha and no t: one
network is then a score under every SDE. Its VE has the published sigma_max of 50.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import bench
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import scoresde as sd
from scoresde.sde.mixture import ring
from scoresde.train.load import open_run

TOLERANCE = 1e-5
SDES = {"VP": sd.VP(), "sub-VP": sd.SubVP(), "VE": sd.VE()}
VARIABLES: dict[str, Any] = {
    "InTime": sd.variables.InTime(),
    "InLogSNR": sd.variables.InLogSNR(),
    "InNoiseToSignal": sd.variables.InNoiseToSignal(),
}
FLAGS = {
    "runs": {"nargs": "*", "help": "folders of trained runs"},
    "--images": {"type": int, "default": 8, "help": "held-out examples of a run (default 8)"},
    "--reference": {
        "type": float,
        "default": 1e-7,
        "help": "tolerance of a network's reference (default 1e-7)",
    },
    "--t-min": {
        "type": float,
        "nargs": "+",
        "default": [1e-5, 1e-3],
        "help": "(default 1e-5 1e-3)",
    },
}


def main() -> None:
    args = bench.parse(__doc__, repeats=1, flags=FLAGS)
    points = 4 if args.quick else 192
    images = 2 if args.quick else args.images
    settings = {
        "tolerance": TOLERANCE,
        "points": points,
        "runs": args.runs,
        "images": images,
        "reference": args.reference,
    }
    report = bench.Report("likelihood_variables", args.quick, settings)
    sdes = {"VP": SDES["VP"]} if args.quick else SDES

    for problem, mixture in {"2-D mixture": ring(), "16-D Gaussian": gaussian()}.items():
        x = mixture.sample(jax.random.key(0), points)
        for name, sde in sdes.items():
            for t_min in args.t_min:
                with_exact_score(report, f"{problem}, {name}, {t_min:g}", mixture, sde, x, t_min)

    for run in args.runs:
        model, x = held_out_examples(run, images)
        for name, sde in sdes.items():
            score = sd.ScoreModel(sde, model.net, model.parameterization)
            for t_min in args.t_min:
                row = f"{run}, {name}, {t_min:g}"
                with_network(report, row, sde, score, x, t_min, args.reference)
    report.finish()


def with_exact_score(
    report: bench.Report,
    row: str,
    mixture: sd.GaussianMixture,
    sde: sd.SDE,
    x: Array,
    t_min: float,
) -> None:
    """Records evaluations and errors on data whose density is known."""
    prior_log_prob = jax.jit(lambda x: mixture.log_prob(sde, x, 1.0))
    exact = np.asarray(mixture.log_prob(sde, x, t_min), np.float64)

    def solve(variable: Any) -> sd.Likelihood:
        return sd.log_likelihood(
            jax.random.key(1),
            sde,
            mixture.score(sde),
            x,
            divergence=sd.ExactDivergence(),
            rtol=TOLERANCE,
            atol=TOLERANCE,
            t_min=t_min,
            prior_log_prob=prior_log_prob,
            variable=variable,
        )

    record(report, row, solve, exact)


def with_network(
    report: bench.Report,
    row: str,
    sde: sd.SDE,
    score: sd.ScoreModel,
    x: Array,
    t_min: float,
    reference: float,
) -> None:
    """Records evaluations and errors of a network, against itself in float64."""

    def solve(variable: Any, tolerance: float = TOLERANCE, float64: bool = False) -> sd.Likelihood:
        return sd.log_likelihood(
            jax.random.key(1),
            sde,
            score,
            x,
            divergence=sd.Hutchinson(1, Signs()),
            rtol=tolerance,
            atol=tolerance,
            t_min=t_min,
            variable=variable,
            float64=float64,
        )

    tight = solve(sd.variables.InLogSNR(), reference, float64=True)
    record(report, row, solve, np.asarray(tight.log_prob))


def record(
    report: bench.Report, row: str, solve: Callable[[Any], sd.Likelihood], exact: np.ndarray
) -> None:
    """Records [evaluations, largest error in bits/dim] for every variable."""
    for name, variable in VARIABLES.items():
        out = solve(variable)
        dim = out.latent[0].size
        error = np.abs(np.asarray(out.log_prob, np.float64) - exact) / (dim * np.log(2.0))
        figures = [round(float(out.nfe.mean()), 1), float(f"{error.max():.2g}")]
        report.figures[f"{row}: {name}"] = figures
        print(f"{row}: {name}", *figures, flush=True)


@dataclasses.dataclass(frozen=True)
class Signs(sd.divergences.Rademacher):
    """Signs that do not depend on the precision, unlike those of `jax.random.rademacher`."""

    def draw(self, key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
        """Draws ±1 with equal probability."""
        bits = jax.random.bits(key, shape, jnp.uint32)
        return 2.0 * (bits >> 31).astype(dtype) - 1.0


# --- The data ---


def gaussian() -> sd.GaussianMixture:
    """Returns one Gaussian with standard deviations from 0.1 to 1."""
    means = jnp.linspace(-0.5, 0.5, 16)[None]
    return sd.GaussianMixture(means, jnp.geomspace(0.01, 1.0, 16)[None])


def held_out_examples(run: str, count: int) -> tuple[sd.ScoreModel, Array]:
    """Returns a run's model, and held-out examples as it was trained on them."""
    trained = open_run(run)
    held_out = trained.held_out()
    if held_out is None or not isinstance(trained.model.parameterization, sd.EDM):
        raise SystemExit(f"{run} kept no held-out examples, or is not of EDM: name another run.")

    x = jnp.asarray(held_out[0][:count])
    if trained.prepare is not None:
        x = trained.prepare(jax.random.key(2), x)
    return trained.model, x


if __name__ == "__main__":
    main()
