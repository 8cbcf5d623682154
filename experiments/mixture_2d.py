"""A score network of a Gaussian mixture in the plane, compared with the exact score and density.

    python experiments/mixture_2d.py       # --help lists every setting

The same command, given again, resumes an interrupted run.

Hardware: 2 CPU cores, about 2 minutes.

Expect (seed 0): KL(exact ‖ model) 0.010 ± 0.003 nats on held-out draws; a sliced Wasserstein
distance like that of exact draws; the score within 1 % at t ≥ 0.1; a picture of both densities.
"""

from __future__ import annotations

if __name__ == "__main__":
    from scoresde.cli.start import end_on_signals

    end_on_signals()  # before the imports below, which take seconds

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pipeline
from bookkeeping import Clock

import scoresde as sd
from scoresde.cli.flags import run_script
from scoresde.evaluation.comparison import Comparison, compare
from scoresde.runs.plots import densities_2d, scatter_2d
from scoresde.sampling.choices import AnySampler
from scoresde.sde.mixture import ring
from scoresde.train.model_settings import AnyNet, AnyParameterization, AnySDE


@dataclasses.dataclass(frozen=True)
class Mixture2D(pipeline.Experiment):
    """Train on draws of a mixture; compare samples, density and score with the exact ones."""

    name: str = "mixture_2d"
    sde: AnySDE = sd.VP()
    net: AnyNet = sd.MLPConfig(width=128, depth=3)
    parameterization: AnyParameterization = sd.EDM(sigma_data=1.1)
    training: sd.Training = sd.Training(
        steps=4000,
        batch_size=512,
        learning_rate=2e-3,
        final_rate=0.01,
        log_every=100,
        validate_every=1000,
    )
    sampler: AnySampler = sd.ProbabilityFlow(t_min=1e-5)
    num_samples: int = 5000
    """Samples for the distances and the picture."""
    likelihood_tolerance: float = 1e-5
    evaluation_batch: int = 2000
    seed: int = 0
    """Decides the initial weights, every batch, and every draw, but not the data."""
    num_data: int = 20_000
    """Draws to train on."""


EXPERIMENT = Mixture2D()

TIMES = (0.01, 0.1, 0.3, 0.6, 1.0)
"""Where the score is compared with the exact one."""


def run(settings: Mixture2D) -> int:
    """Trains or resumes, draws samples, evaluates and reports; returns the exit code."""
    return pipeline.run(settings, lambda: MixtureTask.build(settings.num_data))


@dataclasses.dataclass(frozen=True)
class MixtureTask:
    """Draws of a known mixture, and the mixture itself to compare with."""

    mixture: sd.GaussianMixture
    train: np.ndarray
    test: np.ndarray
    prepare: None = None
    draws: int = 64
    """Samples drawn at every checkpoint."""

    @classmethod
    def build(cls, num_data: int) -> MixtureTask:
        """Returns the task with `num_data` draws to train on and 5000 others to test on."""
        mixture = ring()
        key_train, key_test = jax.random.split(jax.random.key(0))
        train = np.asarray(mixture.sample(key_train, num_data))
        test = np.asarray(mixture.sample(key_test, 5000))
        return cls(mixture, train, test)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of a point in the plane."""
        return (2,)

    @property
    def held_out(self) -> np.ndarray:
        """What training is validated on."""
        return self.test

    def score(self, model: sd.ScoreModel, n: int) -> sd.ScoreModel:
        """Returns the score that draws n samples."""
        return model

    def picture(self, x: np.ndarray, path: Path) -> None:
        """Saves a scatter plot of samples and of as many exact draws."""
        scatter_2d({"samples": x, "exact draws": self.test[: len(x)]}, path)

    def watch(
        self, settings: Mixture2D, model: sd.ScoreModel, samples: sd.Sample
    ) -> dict[str, float]:
        """Returns nothing: training takes a minute."""
        return {}

    def evaluate(
        self,
        settings: Mixture2D,
        key: jax.Array,
        model: sd.ScoreModel,
        samples: sd.Sample,
        folder: Path,
        clock: Clock,
    ) -> pipeline.Outcome:
        """Evaluates density, samples and score, and draws a picture of the density."""
        with clock("likelihood"):
            x = jnp.asarray(self.test[:2000])
            exact = self.log_density(model.sde, x)
            learnt = log_density(settings, model, x)
            self.picture_densities(settings, model, folder / "samples" / "densities.png")

        with clock("distances"):
            drawn = np.asarray(samples.x)[np.asarray(samples.success)]
            comparisons = compare(drawn, self.train, self.test)

        with clock("score"):
            errors = {t: self.score_error(key, model, t) for t in TIMES}

        # KL(exact ‖ model) = E[log exact - log model], over draws of the mixture.
        gap = (exact - learnt)[np.isfinite(learnt)]
        figures = {
            "kl": float(gap.mean()),
            "kl_stderr": float(gap.std(ddof=1) / np.sqrt(len(gap))),
            "likelihood_failures": float(len(learnt) - len(gap)),
            "sampling_failures": float(len(samples.x) - len(drawn)),
            "sampling_evaluations": float(np.mean(samples.nfe)),
        }
        for found in comparisons:
            figures[f"{found.distance}, value"] = found.value
            figures[f"{found.distance}, floor"] = found.floor
        for t, error in errors.items():
            figures[f"score error, t = {t:g}"] = error

        headline = self.headline(settings, figures, comparisons[-1], len(gap), len(drawn))
        summary = [f"{label:<20} {value}   ({note})" for label, value, note in headline]
        return pipeline.Outcome(figures, headline, tables(comparisons, errors), summary)

    def headline(
        self,
        settings: Mixture2D,
        f: dict[str, float],
        sliced: Comparison,
        num_held_out: int,
        num_drawn: int,
    ) -> list[list[str]]:
        """Returns the page's first table."""
        return [
            [
                "KL(exact ‖ model)",
                f"{f['kl']:.4f} ± {f['kl_stderr']:.4f} nats",
                f"{num_held_out} held-out draws, exact divergence, t_min 1e-5, tolerance "
                f"{settings.likelihood_tolerance:g}; ± one standard error over draws",
            ],
            [
                "sliced Wasserstein",
                f"{sliced.value:.3f} ± {sliced.stderr:.3f}",
                f"{num_drawn} samples against {len(self.train)} training draws; "
                f"exact draws in their place: {sliced.floor:.3f}",
            ],
        ]

    def log_density(self, sde: sd.SDE, x: jax.Array) -> np.ndarray:
        """Returns the exact log density of the data at x, in nats."""
        return np.asarray(self.mixture.log_prob(sde, x, 0.0))

    def picture_densities(
        self, settings: Mixture2D, model: sd.ScoreModel, path: Path, points: int = 60
    ) -> None:
        """Saves a picture of the exact density, the model's, and their difference."""
        line = np.linspace(-2.8, 2.8, points)
        square = np.stack(np.meshgrid(line, line), axis=-1)
        grid = jnp.asarray(square.reshape(-1, 2), jnp.float32)

        exact = np.exp(self.log_density(model.sde, grid)).reshape(points, points)
        learnt = np.exp(log_density(settings, model, grid)).reshape(points, points)
        extent = (line[0], line[-1], line[0], line[-1])
        densities_2d({"exact": exact, "model": learnt}, extent, path)

    def score_error(self, key: jax.Array, model: sd.ScoreModel, t: float) -> float:
        """Returns E|s - s*|² / E|s*|² over draws of p_t, where s* is the exact score."""
        x0 = jnp.asarray(self.test)
        mean, std = model.sde.marginal_prob(x0, t)
        x = mean + std * jax.random.normal(key, x0.shape)

        exact = self.mixture.score(model.sde)(x, jnp.full(len(x), t))
        return float(jnp.sum((model(x, t) - exact) ** 2) / jnp.sum(exact**2))


def log_density(settings: Mixture2D, model: sd.ScoreModel, x: jax.Array) -> np.ndarray:
    """Returns the log density of the model at x, in nats; NaN where the solver failed."""
    likelihood = sd.log_likelihood(
        jax.random.key(0),
        model.sde,
        model,
        x,
        divergence=sd.ExactDivergence(),
        rtol=settings.likelihood_tolerance,
        atol=settings.likelihood_tolerance,
        batch_size=settings.evaluation_batch,
        progress=True,
    )
    return np.asarray(likelihood.log_prob)


def tables(comparisons: list[Comparison], errors: dict[float, float]) -> list[dict[str, Any]]:
    """Returns the page's tables of distances and of the score's error by time."""
    return [
        {
            "title": "Distances to the training set, samples and exact draws in equal numbers",
            "columns": list(Comparison.COLUMNS),
            "rows": [found.row() for found in comparisons],
        },
        {
            "title": "Score: E|s - exact|² / E|exact|² over p_t",
            "columns": ["t", "relative error"],
            "rows": [[t, f"{error:.2%}"] for t, error in errors.items()],
        },
    ]


if __name__ == "__main__":
    run_script(run, EXPERIMENT, description=__doc__)
