"""Small images, and what a model of them is held against: the task that the digits and fashion experiments share."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pipeline

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
class ImageExperiment(pipeline.Experiment):
    """Settings that experiments on images have beside."""

    likelihood_t_min: float
    """Where the likelihood starts; a network of discrete levels has learnt nothing below its lowest."""


@dataclasses.dataclass(frozen=True)
class ImageTask:
    """The data, and what samples and likelihoods are held against: a classifier's eye, and a fitted Gaussian."""

    noun: str
    """What the images are, in the plural."""
    train: Any
    """Integers: an array, or a source of them."""
    test: np.ndarray
    """Held-out ones."""
    dequantize: sd.UniformDequantization
    classifier: ClassifierFeatures
    gaussian: GaussianFit
    real: np.ndarray
    """Dequantised training images, which both were fitted to."""
    others: dict[str, AnySampler] = dataclasses.field(default_factory=dict)
    """Samplers to compare the run's own with."""
    watched: int = 0
    """Held-out images whose bits/dim are watched while training; 0: neither these nor distances."""
    shift: int = 0
    """Training images are moved at random by up to so many pixels; 0: not at all."""
    draws: int = 64
    """Samples at every checkpoint: the picture shows 64, a distance is of all."""

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
    ) -> ImageTask:
        """reference, labels: training images, dequantised once for the classifier and the Gaussian."""
        dequantize = sd.UniformDequantization(levels=levels)
        real = np.asarray(dequantize(jax.random.key(0), jnp.asarray(reference)))
        classifier, gaussian = ClassifierFeatures.fit(real, labels), GaussianFit.fit(real)
        return cls(noun, train, test, dequantize, classifier, gaussian, real, **options)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one image."""
        return self.test.shape[1:]

    @property
    def prepare(self) -> sd.UniformDequantization | RandomShift:
        """What training does to a batch."""
        return RandomShift(self.shift, self.dequantize) if self.shift else self.dequantize

    def watch(
        self, settings: ImageExperiment, model: sd.ScoreModel, samples: sd.Sample
    ) -> dict[str, float]:
        """bits/dim of some held-out images, and the Fréchet distance of the samples that are drawn on the way."""
        if not self.watched:
            return {}
        x = self.dequantize(jax.random.key(settings.seed), jnp.asarray(self.test[: self.watched]))
        tolerance = settings.likelihood_tolerance
        likelihood = sd.log_likelihood(
            jax.random.key(settings.seed + 1),
            model.sde,
            model,
            x,
            rtol=tolerance,
            atol=tolerance,
            t_min=settings.likelihood_t_min,
        )
        bits = sd.bits_per_dim(
            likelihood.log_prob, math.prod(self.shape), levels=self.dequantize.levels
        )
        features, real = (self.classifier.features(rows) for rows in (drawn(samples), self.real))
        return {
            "bits_per_dim": float(np.mean(np.asarray(bits)[np.asarray(likelihood.success)])),
            "frechet_distance": frechet_distance(features, real),
        }

    def picture(self, x: np.ndarray, path: Path) -> None:
        """The first 64 as a grid."""
        image_grid(x[:64], path)

    def evaluate(
        self,
        settings: ImageExperiment,
        key: jax.Array,
        model: sd.ScoreModel,
        samples: sd.Sample,
        folder: Path,
        clock: pipeline.Clock,
    ) -> pipeline.Outcome:
        """Exact likelihoods of the held-out images; distances and recognition of the samples."""
        key_dequantize, key_probes = jax.random.split(key)
        tolerance = settings.likelihood_tolerance
        with clock("likelihood"):
            x = self.dequantize(key_dequantize, jnp.asarray(self.test))
            likelihood = sd.log_likelihood(
                key_probes,
                model.sde,
                model,
                x,
                rtol=tolerance,
                atol=tolerance,
                t_min=settings.likelihood_t_min,
                batch_size=settings.evaluation_batch,
                progress=True,
            )
        with clock("distances"):
            spaces = [PCAFeatures.fit(self.real, 16), self.classifier]
            if math.prod(self.shape) <= 256:  # a jackknife of 784 dimensions takes minutes
                spaces.insert(0, RawFeatures())
            comparisons = compare(drawn(samples), self.real, np.asarray(x), spaces)
        figures = self.figures(samples, likelihood, np.asarray(x))
        outcome = self.outcome(settings, figures, comparisons)
        watched = [row for row in read_rows(folder / "metrics.jsonl")[0] if "bits_per_dim" in row]
        if watched:
            names = ["step", "valid_loss", "bits_per_dim", "frechet_distance"]
            outcome.tables.append(
                {
                    "title": f"While training: bits/dim of {self.watched} held-out {self.noun}, distance of {self.draws} "
                    "samples",
                    "columns": ["step", "held-out loss", "bits/dim", "Fréchet distance"],
                    "rows": [[row[name] for name in names] for row in watched],
                }
            )
        if not self.others:
            return outcome
        with clock("other samplers"):
            table = self.compare_samplers(settings, key, model)
        return dataclasses.replace(outcome, tables=[*outcome.tables, table])

    def compare_samplers(
        self, settings: ImageExperiment, key: jax.Array, model: sd.ScoreModel
    ) -> dict[str, Any]:
        """A table for the page: evaluations and quality of the same network under `others`."""
        rows, shape = [], (settings.num_samples, *self.shape)
        for name, sampler in self.others.items():
            samples = sd.sample(
                key,
                sampler,
                model.sde,
                model,
                shape,
                batch_size=settings.evaluation_batch,
                progress=True,
            )
            found = drawn(samples)
            features, train = (self.classifier.features(rows) for rows in (found, self.real))
            sure = 100 * float(np.mean(self.classifier.confidence(found) >= 0.95))
            rows.append(
                [
                    name,
                    float(np.mean(samples.nfe)),
                    f"{frechet_distance(features, train):.2f}",
                    f"{sure:.0f} %",
                ]
            )
        return {
            "title": "The same network, other samplers",
            "rows": rows,
            "columns": ["sampler", "evaluations", "Fréchet distance", "recognised"],
        }

    def figures(
        self, samples: sd.Sample, likelihood: sd.Likelihood, x: np.ndarray
    ) -> dict[str, float]:
        """The figures of the headline; x is the dequantised test set. Failures are counted, not averaged in."""
        good = np.asarray(likelihood.success)
        dim, levels = math.prod(self.shape), self.dequantize.levels
        bits = np.asarray(sd.bits_per_dim(likelihood.log_prob, dim, levels=levels))[good]
        found = drawn(samples)
        gaussian = self.gaussian.sample(seed=0, n=len(found))
        features = {
            name: self.classifier.features(rows)
            for name, rows in (
                ("train", self.real),
                ("model", found),
                ("gaussian", gaussian),
                ("real", x),
            )
        }
        sure = lambda rows: float(np.mean(self.classifier.confidence(rows) >= 0.95))  # noqa: E731
        baseline = sd.bits_per_dim(jnp.asarray(self.gaussian.log_prob(x)), dim, levels=levels)
        return {
            "bits_per_dim": float(bits.mean()),
            "bits_per_dim_stderr": float(bits.std(ddof=1) / np.sqrt(len(bits))),
            "bits_per_dim_gaussian": float(baseline.mean()),
            "likelihood_evaluations": float(np.mean(np.asarray(likelihood.nfe)[good])),
            "likelihood_failures": float((~good).sum()),
            "fd": frechet_distance(features["model"], features["train"]),
            "fd_gaussian": frechet_distance(features["gaussian"], features["train"]),
            "fd_real": frechet_distance(features["real"], features["train"]),
            "sure": sure(found),
            "sure_gaussian": sure(gaussian),
            "sure_real": sure(x),
            "sampling_evaluations": float(np.mean(samples.nfe)),
            "sampling_failures": float(len(samples.x) - len(found)),
        }

    def outcome(
        self, settings: ImageExperiment, f: dict[str, float], comparisons: list[Comparison]
    ) -> pipeline.Outcome:
        """The figures as the page's tables and the lines printed last."""
        count = len(self.test)
        (equal,) = (
            c
            for c in comparisons
            if c.distance == "Fréchet distance" and c.features == self.classifier.name
        )
        floor = (
            f"{equal.rows} each: samples {equal.value:.2f} ± {equal.stderr:.2f}, real {equal.floor:.2f} ± "
            f"{equal.floor_stderr:.2f}"
        )
        headline = [
            [
                "bits/dim, held out",
                f"{f['bits_per_dim']:.3f} ± {f['bits_per_dim_stderr']:.3f}",
                f"{count} {self.noun}; uniform dequantisation of {self.dequantize.levels} levels, 1 Rademacher probe, "
                f"t_min {settings.likelihood_t_min:.2g}, tolerance {settings.likelihood_tolerance:g}; ± one "
                f"standard error over {self.noun}",
            ],
            [
                "Fréchet distance",
                f"{f['fd']:.2f}",
                f"hidden features of a small classifier, {settings.num_samples} "
                f"samples against {len(self.real)} training {self.noun}; fewer read higher: {floor}",
            ],
            [
                "recognised",
                f"{100 * f['sure']:.0f} %",
                "samples of which that classifier is at least 95 % sure",
            ],
        ]
        rows = [
            [
                "this model",
                f"{f['bits_per_dim']:.3f}",
                f"{f['fd']:.2f}",
                f"{100 * f['sure']:.0f} %",
                settings.num_samples,
            ],
            [
                "fitted Gaussian",
                f"{f['bits_per_dim_gaussian']:.3f}",
                f"{f['fd_gaussian']:.2f}",
                f"{100 * f['sure_gaussian']:.0f} %",
                settings.num_samples,
            ],
            [
                f"real held-out {self.noun}",
                "–",
                f"{f['fd_real']:.2f}",
                f"{100 * f['sure_real']:.0f} %",
                count,
            ],
        ]
        cost = [
            ["sampling", f["sampling_evaluations"], int(f["sampling_failures"])],
            ["likelihood", f["likelihood_evaluations"], int(f["likelihood_failures"])],
        ]
        tables = [
            {
                "title": "Against what is known",
                "rows": rows,
                "columns": ["", "bits/dim", "Fréchet distance", "recognised", "examples"],
            },
            {
                "title": f"Distances to the training set, samples and held-out {self.noun} in equal numbers",
                "columns": list(Comparison.COLUMNS),
                "rows": [c.row() for c in comparisons],
            },
            {
                "title": "Solver",
                "columns": ["", "evaluations per example", "failed examples"],
                "rows": cost,
            },
        ]
        summary = [
            f"bits/dim on held-out {self.noun}  {f['bits_per_dim']:.3f} ± {f['bits_per_dim_stderr']:.3f}   "
            f"(fitted Gaussian {f['bits_per_dim_gaussian']:.2f})",
            f"Fréchet distance             {f['fd']:.2f}            (fitted Gaussian {f['fd_gaussian']:.2f}; {floor})",
            f"recognised with 95 %         {100 * f['sure']:.0f} %            "
            f"(fitted Gaussian {100 * f['sure_gaussian']:.0f} %, real {self.noun} {100 * f['sure_real']:.0f} %)",
        ]
        return pipeline.Outcome(f, headline, tables, summary)


def drawn(samples: sd.Sample) -> np.ndarray:
    """The samples that did not fail."""
    return np.asarray(samples.x)[np.asarray(samples.success)]
