"""Images with labels: the task of experiments that train one network with and without labels."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, TypeVar

import guidance_sweep
import jax
import jax.numpy as jnp
import numpy as np
import pipeline
from bookkeeping import Clock
from image_experiment import ImageExperiment
from image_task import ImageTask

import scoresde as sd
from scoresde.data.source import ArraySource
from scoresde.runs.plots import image_grid

INFORMED = 200
"""Held-out images whose label's information is computed, which takes a likelihood per class."""


@dataclasses.dataclass(frozen=True)
class Guided(ImageExperiment):
    """Settings that experiments on guidance have in addition."""

    weights: tuple[float, ...] = (0.0, 1.0, 1.5, 2.0, 3.0, 4.0)
    """Weights of the guidance to compare; 1 is the plain conditional model."""
    informed: int = INFORMED
    """Held-out images whose label's information is computed."""


Settings = TypeVar("Settings", bound=Guided)


def reduced(settings: Settings, classes: int = 10) -> Settings:
    """Returns the settings of --smoke: little guidance, and a network that takes labels."""
    net: Any = settings.net
    return dataclasses.replace(
        settings,
        net=dataclasses.replace(net, num_classes=classes),
        weights=(1.0, 2.0),
        informed=2,
        num_samples=20,
    )


@dataclasses.dataclass(frozen=True)
class ConditionalTask(ImageTask):
    """An `ImageTask` whose images have labels, which condition the network."""

    test_labels: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, int))
    reference_labels: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, int))
    """The labels of `real`."""
    choosing_labels: np.ndarray | None = None
    """The labels of `choosing`."""
    classes: int = 10

    @property
    def validated_labels(self) -> np.ndarray:
        """The labels of the images that training is validated on."""
        return self.test_labels if self.choosing_labels is None else self.choosing_labels

    @property
    def held_out(self) -> ArraySource:
        """What training is validated on."""
        return ArraySource(self.validated, self.validated_labels)

    def score(self, model: sd.ScoreModel, n: int) -> Any:
        """Returns the score that draws n samples, of the classes in turn."""
        return sd.conditioned(model, np.arange(n) % self.classes)

    def picture(self, x: np.ndarray, path: Path) -> None:
        """Saves the first images as a grid, a column a class."""
        shown = x[: guidance_sweep.ROWS * self.classes]
        low, high = self.dequantize.low, self.dequantize.high
        image_grid(shown, path, columns=self.classes, low=low, high=high)

    def watch(self, settings: Any, model: Any, samples: sd.Sample) -> dict[str, float]:
        """Returns bits/dim of some held-out images given their labels, and the distance."""
        labelled: Any = sd.conditioned(model, self.validated_labels[: self.watched])
        return super().watch(settings, labelled, samples)

    def evaluate(
        self,
        settings: Any,
        key: jax.Array,
        model: sd.ScoreModel,
        samples: sd.Sample,
        folder: Path,
        clock: Clock,
    ) -> pipeline.Outcome:
        """Evaluates the likelihood given the labels, what they tell, and guidance by weight."""
        labelled: Any = sd.conditioned(model, self.test_labels)
        outcome = super().evaluate(settings, key, labelled, samples, folder, clock)

        with clock("guidance"):
            found = guidance_sweep.sweep(
                settings,
                self,
                key,
                settings.sampler,
                model.sde,
                lambda weight, labels: sd.conditioned(
                    sd.ClassifierFreeGuidance(model, weight), labels
                ),
                settings.weights,
                self.classes,
                self.reference_labels,
                folder / "figures",
            )
        real = guidance_sweep.judge_real(
            self,
            self._held_out_images(key),
            self.test_labels,
            self.reference_labels,
            settings.num_samples,
        )
        guidance_sweep.plot(
            found, real, "weight of the guidance", folder / "figures" / "accuracy and diversity.png"
        )

        with clock("information of the labels"):
            information = self._information(settings, key, model)
        outcome.tables[:0] = [
            guidance_sweep.table(found, real, "Classifier-free guidance"),
            information,
        ]
        best = max(found, key=lambda row: row.accuracy)
        outcome.summary.append(
            f"of the class asked for      {100 * found[self._plain(found)].accuracy:.1f} % at "
            f"weight 1, {100 * best.accuracy:.1f} % at {best.weight:g} (real "
            f"{100 * real.accuracy:.1f} %)"
        )
        return dataclasses.replace(
            outcome, figures=outcome.figures | guidance_sweep.figures(found, "weight")
        )

    def _plain(self, found: list[guidance_sweep.Judged]) -> int:
        """Returns the row of the weight nearest to 1."""
        return min(range(len(found)), key=lambda i: abs((found[i].weight or 0.0) - 1.0))

    def _held_out_images(self, key: jax.Array) -> np.ndarray:
        return np.asarray(self.dequantize(key, jnp.asarray(self.test)))

    def _information(
        self, settings: Guided, key: jax.Array, model: sd.ScoreModel
    ) -> dict[str, Any]:
        """Returns the page's table of what a label tells of a held-out image."""
        some = slice(settings.informed)
        found = sd.label_information(
            key,
            model.sde,
            model,
            jnp.asarray(self._held_out_images(key)[some]),
            self.test_labels[some],
            rtol=settings.likelihood_tolerance,
            atol=settings.likelihood_tolerance,
            t_min=settings.likelihood_t_min,
            batch_size=settings.evaluation_batch,
        )
        return {
            "title": f"What the label tells of {len(found.bits)} held-out {self.noun}",
            "columns": ["", "", "±"],
            "rows": [
                [
                    "log p(x|y) - log Σ p(y) p(x|y), bits",
                    f"{found.mean:.3f}",
                    f"{found.stderr:.3f}",
                ],
                ["classified by p(y) p(x|y)", f"{100 * found.accuracy:.1f} %", ""],
            ],
        }
