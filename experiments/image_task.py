"""Small images and their evaluation: the task that the digits and fashion experiments share."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any, Self

import image_report
import jax
import jax.numpy as jnp
import numpy as np
import pipeline
from bookkeeping import Clock
from image_experiment import ImageExperiment, log_likelihood, succeeded

import scoresde as sd
from scoresde.data.prepare import RandomShift
from scoresde.evaluation.comparison import Comparison, compare
from scoresde.evaluation.distances import frechet_distance
from scoresde.evaluation.features import ClassifierFeatures, PCAFeatures, RawFeatures
from scoresde.evaluation.gaussian import GaussianFit
from scoresde.runs.files import read_rows
from scoresde.runs.plots import image_grid
from scoresde.sampling.choices import AnySampler


@dataclasses.dataclass(frozen=True)
class ImageTask:
    """The data, and what models are compared with: a classifier and a fitted Gaussian."""

    noun: str
    """What the images show, in the plural."""
    train: Any
    """Integers: an array, or a source of them."""
    test: np.ndarray
    """Held-out images, integers."""
    dequantize: sd.UniformDequantization
    classifier: ClassifierFeatures
    gaussian: GaussianFit
    real: np.ndarray
    """Dequantised training images, to which the classifier and the Gaussian were fitted."""
    others: dict[str, AnySampler] = dataclasses.field(default_factory=dict)
    """Samplers to compare with the sampler of the settings."""
    watched: int = 0
    """Held-out images whose bits/dim are computed during training; 0: no bits/dim, no distances."""
    shift: int = 0
    """Training images are moved at random by up to this many pixels; 0: not at all."""
    draws: int = 64
    """Samples drawn at every checkpoint: the picture shows 64, the distance is that of all."""
    choosing: np.ndarray | None = None
    """Integers that training is validated on, to choose settings by; None: `test`."""

    @classmethod
    def build(
        cls,
        noun: str,
        train: Any,
        test: np.ndarray,
        reference: np.ndarray,
        labels: np.ndarray,
        levels: int,
        **options: Any,
    ) -> Self:
        """Returns the task, its classifier and Gaussian fitted to `reference` and `labels`.

        `reference` are training images, as integers; they are dequantised once.
        """
        dequantize = sd.UniformDequantization(levels=levels)
        real = np.asarray(dequantize(jax.random.key(0), jnp.asarray(reference)))

        classifier = ClassifierFeatures.fit(real, labels)
        gaussian = GaussianFit.fit(real)
        return cls(noun, train, test, dequantize, classifier, gaussian, real, **options)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one image."""
        return self.test.shape[1:]

    @property
    def prepare(self) -> Any:
        """What training does to a batch: it dequantises, and shifts if `shift` is set."""
        return RandomShift(self.shift, self.dequantize) if self.shift else self.dequantize

    @property
    def validated(self) -> np.ndarray:
        """The images that training is validated on."""
        return self.test if self.choosing is None else self.choosing

    @property
    def held_out(self) -> Any:
        """What training is validated on, as `sd.fit` takes it."""
        return self.validated

    def score(self, model: sd.ScoreModel, n: int) -> Any:
        """Returns the score that draws n samples."""
        return model

    # --- Figures of samples and likelihoods ---

    def frechet_distance(self, x: np.ndarray) -> float:
        """Returns the Fréchet distance to the training images, on the classifier's features."""
        features = self.classifier.features(x)
        reference = self.classifier.features(self.real)
        return frechet_distance(features, reference)

    def recognised(self, x: np.ndarray) -> float:
        """Returns the share of images of which the classifier is at least 95 % sure."""
        return float(np.mean(self.classifier.confidence(x) >= 0.95))

    def dequantization(self, model: Any) -> Any:
        """Returns what makes real numbers of the held-out images for the likelihood."""
        return self.dequantize

    @property
    def dequantization_name(self) -> str:
        """The name of `dequantization`, as the page says it."""
        return "uniform"

    def bits_per_dim(self, log_prob: jax.Array, entropy: float | None = None) -> np.ndarray:
        """Returns the bits/dim of each image from its log-probability in nats.

        entropy: that of the dequantisation in nats per pixel, by default of the uniform one.
        """
        dim = math.prod(self.shape)
        entropy = self.dequantize.entropy if entropy is None else entropy
        return -(np.asarray(log_prob) / dim + entropy) / math.log(2.0)

    # --- During training ---

    def picture(self, x: np.ndarray, path: Path) -> None:
        """Saves the first 64 images as a grid."""
        image_grid(x[:64], path, low=self.dequantize.low, high=self.dequantize.high)

    def watch(self, settings: ImageExperiment, model: Any, samples: sd.Sample) -> dict[str, float]:
        """Returns bits/dim of some held-out images, and the Fréchet distance of the samples."""
        if not self.watched:
            return {}

        x = self.dequantize(
            jax.random.key(settings.seed), jnp.asarray(self.validated[: self.watched])
        )
        likelihood = log_likelihood(settings, jax.random.key(settings.seed + 1), model, x)

        bits = self.bits_per_dim(likelihood.log_prob)
        good = np.asarray(likelihood.success)
        return {
            "bits_per_dim": float(np.mean(bits[good])),
            "frechet_distance": self.frechet_distance(succeeded(samples)),
        }

    # --- After training ---

    def evaluate(
        self,
        settings: ImageExperiment,
        key: jax.Array,
        model: sd.ScoreModel,
        samples: sd.Sample,
        folder: Path,
        clock: Clock,
    ) -> pipeline.Outcome:
        """Evaluates the likelihood of the held-out images, and the quality of the samples."""
        key_dequantize, key_probes = jax.random.split(key)

        with clock("likelihood"):
            dequantization = self.dequantization(model)
            x = dequantization(key_dequantize, jnp.asarray(self.test))
            likelihood = log_likelihood(
                settings, key_probes, model, x, batch_size=settings.evaluation_batch, progress=True
            )

        with clock("distances"):
            held_out = np.asarray(self.dequantize(key_dequantize, jnp.asarray(self.test)))
            comparisons = self.compare(succeeded(samples), held_out)
        figures = self.figures(samples, likelihood, held_out, float(dequantization.entropy))
        outcome = image_report.outcome(self, settings, figures, comparisons)

        # Tables that only some experiments have.
        rows, _ = read_rows(folder / "metrics.jsonl")
        watched = [row for row in rows if "bits_per_dim" in row]
        if watched:
            outcome.tables.append(image_report.table_while_training(self, watched))
        if self.others:
            with clock("other samplers"):
                outcome.tables.append(self.compare_samplers(settings, key, model))
        return outcome

    def compare(self, samples: np.ndarray, held_out: np.ndarray) -> list[Comparison]:
        """Returns the distances of samples and of held-out images to the training images."""
        spaces = [PCAFeatures.fit(self.real, 16), self.classifier]
        if math.prod(self.shape) <= 256:  # the jackknife in 784 dimensions takes minutes
            spaces.insert(0, RawFeatures())
        return compare(samples, self.real, held_out, spaces)

    def figures(
        self,
        samples: sd.Sample,
        likelihood: sd.Likelihood,
        held_out: np.ndarray,
        entropy: float | None = None,
    ) -> dict[str, float]:
        """Returns the figures of the model, of the fitted Gaussian, and of the held-out images.

        held_out: the dequantised test set. entropy: that of the likelihood's dequantisation.
        Examples that failed are counted and left out of means.
        """
        good = np.asarray(likelihood.success)
        bits = self.bits_per_dim(likelihood.log_prob, entropy)[good]
        drawn = succeeded(samples)

        # The baseline.
        gaussian = self.gaussian.sample(seed=0, n=len(drawn))
        baseline = self.bits_per_dim(jnp.asarray(self.gaussian.log_prob(held_out)))

        return {
            "bits_per_dim": float(bits.mean()),
            "bits_per_dim_stderr": float(bits.std(ddof=1) / np.sqrt(len(bits))),
            "bits_per_dim_gaussian": float(baseline.mean()),
            "likelihood_evaluations": float(np.mean(np.asarray(likelihood.nfe)[good])),
            "likelihood_failures": float((~good).sum()),
            "fd": self.frechet_distance(drawn),
            "fd_gaussian": self.frechet_distance(gaussian),
            "fd_real": self.frechet_distance(held_out),
            "sure": self.recognised(drawn),
            "sure_gaussian": self.recognised(gaussian),
            "sure_real": self.recognised(held_out),
            "sampling_evaluations": float(np.mean(samples.nfe)),
            "sampling_failures": float(len(samples.x) - len(drawn)),
        }

    def compare_samplers(
        self, settings: ImageExperiment, key: jax.Array, model: sd.ScoreModel
    ) -> dict[str, Any]:
        """Returns the page's table of the same network under the samplers in `others`."""
        rows = []
        for name, sampler in self.others.items():
            samples = pipeline.draw(settings, self, model, key, sampler)
            drawn = succeeded(samples)
            distance = f"{self.frechet_distance(drawn):.2f}"
            recognised = f"{100 * self.recognised(drawn):.0f} %"
            rows.append([name, float(np.mean(samples.nfe)), distance, recognised])

        return {
            "title": "The same network, other samplers",
            "rows": rows,
            "columns": ["sampler", "evaluations", "Fréchet distance", "recognised"],
        }
