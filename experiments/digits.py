"""The digits, and what a model of them is held against: the task that the digits experiments share."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pipeline

import scoresde as sd
from scoresde.data.arrays import Arrays, digits
from scoresde.evaluation import Comparison, GaussianFit, compare, frechet_distance
from scoresde.features import ClassifierFeatures, PCAFeatures, RawFeatures
from scoresde.model import AnyNet, AnyParameterization, AnySDE
from scoresde.plots import image_grid
from scoresde.sampling.choices import AnySampler

SHAPE = (8, 8, 1)
DIM = 64


@dataclasses.dataclass(frozen=True)
class Digits(pipeline.Experiment):
    """Settings of a digits experiment."""

    name: str = "digits"
    """The run's folder is <runs>/<name>."""
    sde: AnySDE = sd.VP()
    net: AnyNet = sd.UNetConfig(channels=32, num_blocks=1)
    parameterization: AnyParameterization = sd.EDM(sigma_data=0.6)
    training: sd.Training = sd.Training(steps=1800, learning_rate=2e-3, final_rate=0.02, validate_every=600)
    sampler: AnySampler = sd.ProbabilityFlow(rtol=1e-3, atol=1e-3)
    num_samples: int = 1000
    """Samples for the distances; the picture shows the first 64."""
    likelihood_tolerance: float = 1e-4
    """Relative and absolute tolerance of the likelihood's solver."""
    likelihood_t_min: float = 1e-5
    """Where the likelihood starts; a network of discrete levels has learnt nothing below its lowest."""
    seed: int = 0
    """Decides the initial weights, every batch, and every draw."""
    runs: str = "runs"
    """Where runs' folders stand."""


def run(settings: Digits, others: dict[str, AnySampler] | None = None) -> int:
    """Train or resume, sample, evaluate, report; the exit code. others: samplers to compare the run's own with."""
    return pipeline.run(settings, lambda: DigitsTask.build(others or {}))


@dataclasses.dataclass(frozen=True)
class DigitsTask:
    """The data, and what samples and likelihoods are held against: a classifier's eye, and a fitted Gaussian."""

    data: Arrays
    prepare: sd.UniformDequantization
    classifier: ClassifierFeatures
    gaussian: GaussianFit
    real: np.ndarray
    others: dict[str, AnySampler]

    @classmethod
    def build(cls, others: dict[str, AnySampler]) -> DigitsTask:
        """1500 training and 297 held-out digits, dequantised once for the classifier and the Gaussian."""
        data = digits()
        dequantize = sd.UniformDequantization(levels=data.levels)
        real = np.asarray(dequantize(jax.random.key(0), jnp.asarray(data.train)))
        return cls(
            data, dequantize, ClassifierFeatures.fit(real, data.train_labels), GaussianFit.fit(real), real, others
        )

    @property
    def train(self) -> np.ndarray:
        """Integers 0 … 16."""
        return self.data.train

    @property
    def test(self) -> np.ndarray:
        """Integers 0 … 16."""
        return self.data.test

    def picture(self, x: np.ndarray, path: Path) -> None:
        """The first 64 as a grid."""
        image_grid(x[:64], path)

    def evaluate(self, settings: Digits, key: jax.Array, model: sd.ScoreModel, samples: sd.Sample, folder: Path,
                 clock: pipeline.Clock) -> pipeline.Outcome:  # fmt: skip
        """Exact likelihoods of the held-out digits; distances and recognition of the samples."""
        key_dequantize, key_probes = jax.random.split(key)
        tolerance = settings.likelihood_tolerance
        with clock("likelihood"):
            x = self.prepare(key_dequantize, jnp.asarray(self.test))
            likelihood = sd.log_likelihood(key_probes, model.sde, model, x, rtol=tolerance, atol=tolerance,
                                           t_min=settings.likelihood_t_min, batch_size=100, progress=True)  # fmt: skip
        with clock("distances"):
            drawn = np.asarray(samples.x)[np.asarray(samples.success)]
            spaces = (RawFeatures(), PCAFeatures.fit(self.real, 16), self.classifier)
            comparisons = compare(drawn, self.real, np.asarray(x), spaces)
        figures = self.figures(samples, likelihood, np.asarray(x))
        outcome = self.outcome(settings, figures, comparisons)
        if not self.others:
            return outcome
        with clock("other samplers"):
            table = self.compare_samplers(settings, key, model)
        return dataclasses.replace(outcome, tables=[*outcome.tables, table])

    def compare_samplers(self, settings: Digits, key: jax.Array, model: sd.ScoreModel) -> dict[str, Any]:
        """A table for the page: evaluations and quality of the same network under `others`."""
        rows, shape = [], (settings.num_samples, *SHAPE)
        for name, sampler in self.others.items():
            samples = sd.sample(key, sampler, model.sde, model, shape, batch_size=250, progress=True)
            drawn = np.asarray(samples.x)[np.asarray(samples.success)]
            features, train = (self.classifier.features(rows) for rows in (drawn, self.real))
            sure = 100 * float(np.mean(self.classifier.confidence(drawn) >= 0.95))
            rows.append(
                [name, float(np.mean(samples.nfe)), f"{frechet_distance(features, train):.2f}", f"{sure:.0f} %"]
            )
        return {"title": "The same network, other samplers", "rows": rows,
                "columns": ["sampler", "evaluations", "Fréchet distance", "recognised"]}  # fmt: skip

    def figures(self, samples: sd.Sample, likelihood: sd.Likelihood, x: np.ndarray) -> dict[str, float]:
        """The figures of the headline; x is the dequantised test set. Failures are counted, not averaged in."""
        good = np.asarray(likelihood.success)
        bits = np.asarray(sd.bits_per_dim(likelihood.log_prob, DIM, levels=self.data.levels))[good]
        drawn = np.asarray(samples.x)[np.asarray(samples.success)]
        gaussian = self.gaussian.sample(seed=0, n=len(drawn))
        features = {name: self.classifier.features(rows) for name, rows in
                    (("train", self.real), ("model", drawn), ("gaussian", gaussian), ("real", x))}  # fmt: skip
        sure = lambda rows: float(np.mean(self.classifier.confidence(rows) >= 0.95))  # noqa: E731
        baseline = sd.bits_per_dim(jnp.asarray(self.gaussian.log_prob(x)), DIM, levels=self.data.levels)
        return {
            "bits_per_dim": float(bits.mean()),
            "bits_per_dim_stderr": float(bits.std(ddof=1) / np.sqrt(len(bits))),
            "bits_per_dim_gaussian": float(baseline.mean()),
            "likelihood_evaluations": float(np.mean(np.asarray(likelihood.nfe)[good])),
            "likelihood_failures": float((~good).sum()),
            "fd": frechet_distance(features["model"], features["train"]),
            "fd_gaussian": frechet_distance(features["gaussian"], features["train"]),
            "fd_real": frechet_distance(features["real"], features["train"]),
            "sure": sure(drawn),
            "sure_gaussian": sure(gaussian),
            "sure_real": sure(x),
            "sampling_evaluations": float(np.mean(samples.nfe)),
            "sampling_failures": float(len(samples.x) - len(drawn)),
        }

    def outcome(self, settings: Digits, f: dict[str, float], comparisons: list[Comparison]) -> pipeline.Outcome:
        """The figures as the page's tables and the lines printed last."""
        count = len(self.test)
        (equal,) = (c for c in comparisons if c.distance == "Fréchet distance" and c.features == self.classifier.name)
        floor = f"{equal.rows} each: samples {equal.value:.2f} ± {equal.stderr:.2f}, real {equal.floor:.2f} ± " \
                f"{equal.floor_stderr:.2f}"  # fmt: skip
        headline = [
            ["bits/dim, held out", f"{f['bits_per_dim']:.3f} ± {f['bits_per_dim_stderr']:.3f}",
             f"{count} digits; uniform dequantisation of 17 levels, 1 Rademacher probe, t_min "
             f"{settings.likelihood_t_min:.2g}, tolerance {settings.likelihood_tolerance:g}; ± one standard error "
             "over digits"],
            ["Fréchet distance", f"{f['fd']:.2f}", f"hidden features of a small classifier, {settings.num_samples} "
             f"samples against 1500 training digits; fewer read higher: {floor}"],
            ["recognised", f"{100 * f['sure']:.0f} %", "samples of which that classifier is at least 95 % sure"],
        ]  # fmt: skip
        rows = [
            ["this model", f"{f['bits_per_dim']:.3f}", f"{f['fd']:.2f}", f"{100 * f['sure']:.0f} %",
             settings.num_samples],
            ["fitted Gaussian", f"{f['bits_per_dim_gaussian']:.3f}", f"{f['fd_gaussian']:.2f}",
             f"{100 * f['sure_gaussian']:.0f} %", settings.num_samples],
            ["real held-out digits", "–", f"{f['fd_real']:.2f}", f"{100 * f['sure_real']:.0f} %", count],
        ]  # fmt: skip
        cost = [
            ["sampling", f["sampling_evaluations"], int(f["sampling_failures"])],
            ["likelihood", f["likelihood_evaluations"], int(f["likelihood_failures"])],
        ]
        tables = [
            {"title": "Against what is known", "rows": rows,
             "columns": ["", "bits/dim", "Fréchet distance", "recognised", "examples"]},
            {"title": "Distances to the training set, samples and held-out digits in equal numbers",
             "columns": list(Comparison.COLUMNS), "rows": [c.row() for c in comparisons]},
            {"title": "Solver", "columns": ["", "evaluations per example", "failed examples"], "rows": cost},
        ]  # fmt: skip
        summary = [
            f"bits/dim on held-out digits  {f['bits_per_dim']:.3f} ± {f['bits_per_dim_stderr']:.3f}   "
            f"(fitted Gaussian {f['bits_per_dim_gaussian']:.2f})",
            f"Fréchet distance             {f['fd']:.2f}            (fitted Gaussian {f['fd_gaussian']:.2f}; {floor})",
            f"recognised with 95 %         {100 * f['sure']:.0f} %            "
            f"(fitted Gaussian {100 * f['sure_gaussian']:.0f} %, real digits {100 * f['sure_real']:.0f} %)",
        ]
        return pipeline.Outcome(f, headline, tables, summary)
