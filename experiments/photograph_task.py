"""Photographs and their evaluation: likelihoods, and distances on principal components."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import image_report
import jax
import jax.numpy as jnp
import numpy as np
import pipeline
from bookkeeping import Clock
from image_experiment import ImageExperiment, log_likelihood, succeeded

import scoresde as sd
from scoresde.data.prepare import RandomFlip
from scoresde.data.source import Source, take
from scoresde.evaluation.comparison import Comparison, compare
from scoresde.evaluation.features import PCAFeatures
from scoresde.runs.plots import image_grid

COMPONENTS = 64


@dataclasses.dataclass(frozen=True)
class PhotographTask:
    """The data, and the training images that samples are compared with."""

    train: Source
    test: np.ndarray
    prepare: RandomFlip
    dequantize: sd.UniformDequantization
    reference: np.ndarray
    """Dequantised training images."""
    draws: int = 64
    """Samples drawn at every checkpoint, for its picture."""

    @classmethod
    def build(cls, train: Source, test: np.ndarray, low: float, references: int) -> PhotographTask:
        """Returns the task on pixels in [low, 1].

        references: the number of training images that distances are measured to.
        """
        dequantize = sd.UniformDequantization(256, low, 1.0)

        some = np.sort(np.random.default_rng(0).permutation(len(train))[:references])
        pixels = jnp.asarray(take(train, some)[0])
        reference = np.asarray(dequantize(jax.random.key(0), pixels))
        return cls(train, np.asarray(test), RandomFlip(dequantize), dequantize, reference)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one image."""
        return self.test.shape[1:]

    @property
    def held_out(self) -> np.ndarray:
        """What training is validated on."""
        return self.test

    def score(self, model: sd.ScoreModel, n: int) -> sd.ScoreModel:
        """Returns the score that draws n samples."""
        return model

    def picture(self, x: np.ndarray, path: Path) -> None:
        """Saves the first 64 images as a grid."""
        image_grid(x[:64], path, low=self.dequantize.low, high=self.dequantize.high)

    def watch(
        self, settings: ImageExperiment, model: sd.ScoreModel, samples: sd.Sample
    ) -> dict[str, float]:
        """Returns mean and spread of the drawn pixels: a network that diverges shows here first."""
        x = succeeded(samples)
        if not len(x):
            return {}
        return {"pixel_mean": float(x.mean()), "pixel_std": float(x.std())}

    def evaluate(
        self,
        settings: ImageExperiment,
        key: jax.Array,
        model: sd.ScoreModel,
        samples: sd.Sample,
        folder: Path,
        clock: Clock,
    ) -> pipeline.Outcome:
        """Evaluates the likelihood of the held-out images, and distances of the samples."""
        key_dequantize, key_probes = jax.random.split(key)
        x = self.dequantize(key_dequantize, jnp.asarray(self.test))

        with clock("likelihood"):
            likelihood = log_likelihood(
                settings, key_probes, model, x, batch_size=settings.evaluation_batch, progress=True
            )

        with clock("distances"):
            dim = math.prod(self.shape)
            components = min(COMPONENTS, len(self.reference) - 1, dim)
            space = PCAFeatures.fit(self.reference, components)
            comparisons = compare(succeeded(samples), self.reference, np.asarray(x), [space])

        figures = self.figures(samples, likelihood, comparisons[0])
        headline = self.headline(settings, figures, comparisons[0], components)
        return pipeline.Outcome(
            figures,
            headline,
            [
                image_report.table_of_distances("held-out images", comparisons),
                image_report.table_of_solvers(figures),
            ],
            [f"{label:<22} {value}   ({note})" for label, value, note in headline],
        )

    def figures(
        self, samples: sd.Sample, likelihood: sd.Likelihood, distance: Comparison
    ) -> dict[str, float]:
        """Returns the figures; likelihoods that failed are counted and left out of means."""
        good = np.asarray(likelihood.success)
        dim = math.prod(self.shape)
        low = self.dequantize.low
        bits = np.asarray(sd.bits_per_dim(likelihood.log_prob, dim, levels=256, low=low))[good]

        mean = bits.mean() if len(bits) else math.nan
        stderr = bits.std(ddof=1) / np.sqrt(len(bits)) if len(bits) > 1 else math.nan
        return {
            "bits_per_dim": float(mean),
            "bits_per_dim_stderr": float(stderr),
            "likelihood_evaluations": float(np.mean(likelihood.nfe)),
            "likelihood_failures": float((~good).sum()),
            "fd_pca": distance.value,
            "fd_pca_real": distance.floor,
            "sampling_evaluations": float(np.mean(samples.nfe)),
            "sampling_failures": float(len(samples.x) - len(succeeded(samples))),
        }

    def headline(
        self,
        settings: ImageExperiment,
        f: dict[str, float],
        distance: Comparison,
        components: int,
    ) -> list[list[str]]:
        """Returns the page's first table."""
        return [
            [
                "bits/dim, held out",
                f"{f['bits_per_dim']:.3f} ± {f['bits_per_dim_stderr']:.3f}",
                f"{len(self.test)} images; {image_report.likelihood_conditions(settings, 256)}; "
                "± one standard error over images",
            ],
            [
                "Fréchet distance, PCA",
                f"{distance.value:.2f} ± {distance.stderr:.2f}",
                f"not FID: {components} principal components of {len(self.reference)} training "
                f"images; held-out images {distance.floor:.2f}",
            ],
        ]
