"""MNIST: settings, data and evaluation that its experiments share.

Settings are chosen on the last 5 000 training images, which no network is trained on; the test
images are seen by the final evaluation alone.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
import pipeline
from bookkeeping import Clock
from idx_experiment import IdxExperiment, some_of, with_place
from image_experiment import succeeded
from image_task import ImageTask

import scoresde as sd
from scoresde.data import images
from scoresde.evaluation.memorisation import Nearest, nearest, remembered
from scoresde.runs.plots import image_grid
from scoresde.sampling.choices import AnySampler
from scoresde.train.model_settings import AnyNet, AnyParameterization, AnySDE

CHOOSING = 5_000
"""Training images that are not trained on: settings are chosen by them."""

VALIDATED = 512
"""How many of these are validated on while training."""

SHOWN = 12
"""Samples that are shown above their nearest training images."""


DRAWN = "drawn.npz"
"""The file in a run's folder samples that holds the final samples, x."""


@dataclasses.dataclass(frozen=True)
class Mnist(IdxExperiment):
    """Settings of an experiment on MNIST."""

    name: str = "mnist"
    sde: AnySDE = sd.VP()
    net: AnyNet = sd.UNetConfig(
        channels=16, multipliers=(1, 2, 2), num_blocks=1, attention_levels=(2,)
    )
    parameterization: AnyParameterization = sd.EDM(sigma_data=0.6)
    training: sd.Training = sd.Training(
        steps=2000, batch_size=64, learning_rate=2e-3, final_rate=0.02, validate_every=500
    )
    sampler: AnySampler = sd.UniPC(order=3, num_steps=20)
    num_samples: int = 1000
    likelihood_tolerance: float = 1e-3
    evaluation_batch: int = 250
    held_out: int = 500
    """Test images for likelihoods and distances."""
    watched: int = 16
    draws: int = 64


class Splits(NamedTuple):
    """The images with their labels."""

    train: images.Images
    """What networks are trained on."""
    choosing: images.Images
    """Images to choose settings by."""
    test: images.Images


def splits(settings: Mnist, place: dict[str, Any]) -> Splits:
    """Returns the images, read from `place`: see `with_place`."""
    choosing = CHOOSING if not settings.smoke else 20
    return Splits(
        train=images.mnist(f"train[:-{choosing}]", **place),
        choosing=images.mnist(f"train[-{choosing}:]", **place),
        test=images.mnist("test", **place),
    )


@dataclasses.dataclass(frozen=True)
class MnistTask(ImageTask):
    """An `ImageTask` that looks for training images among the samples."""

    everything: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0))
    """All that the network is trained on, integers."""

    @classmethod
    def of(cls, settings: Mnist, data: Splits) -> Self:
        """Returns the task, its references some of the training images."""
        some = some_of(len(data.train))
        drawn = some_of(len(data.test), settings.held_out)
        return cls.build(
            noun="digits",
            train=data.train.without_labels(),
            test=data.test.pixels[drawn],
            reference=data.train.pixels[some],
            labels=np.asarray(data.train.labels)[some],
            levels=256,
            watched=settings.watched,
            draws=settings.draws,
            choosing=data.choosing.pixels[:VALIDATED],
            everything=data.train.pixels,
        )

    def evaluate(
        self,
        settings: Any,
        key: jax.Array,
        model: sd.ScoreModel,
        samples: sd.Sample,
        folder: Path,
        clock: Clock,
    ) -> pipeline.Outcome:
        """Evaluates likelihood and samples, and looks for training images among the samples."""
        # Pixels lie in [-1, 1], and so do those of samples that are looked at.
        in_range = jnp.clip(samples.x, self.dequantize.low, self.dequantize.high)
        samples = dataclasses.replace(samples, x=in_range)
        outcome = super().evaluate(settings, key, model, samples, folder, clock)

        drawn = succeeded(samples)
        np.savez_compressed(folder / "samples" / DRAWN, x=drawn)
        with clock("nearest training images"):
            self._add_nearest(outcome, drawn, folder)
        return outcome

    def scaled(self, pixels: np.ndarray) -> np.ndarray:
        """Returns integers as the middles of their bins, in [-1, 1]."""
        low, high = self.dequantize.low, self.dequantize.high
        return low + (high - low) * (pixels.astype(np.float32) + 0.5) / self.dequantize.levels

    def _add_nearest(self, outcome: pipeline.Outcome, drawn: np.ndarray, folder: Path) -> None:
        """Adds how far samples and test images lie from the training set, and a picture."""
        train = self.scaled(self.everything)
        of_samples = nearest(drawn, train)
        of_test = nearest(self.scaled(self.test), train)

        share = remembered(of_samples, of_test)
        outcome.figures["nearest"] = float(np.median(of_samples.distance))
        outcome.figures["nearest_real"] = float(np.median(of_test.distance))
        outcome.figures["remembered"] = share
        outcome.tables.append(
            {
                "title": "Distance to the nearest of all training images",
                "columns": ["", "median", "smallest", "nearer than 99 % of the test images are"],
                "rows": [
                    _row("samples", of_samples, share),
                    _row("test images", of_test, remembered(of_test, of_test)),
                ],
            }
        )

        shown = slice(SHOWN)
        pairs = np.concatenate([drawn[shown], train[of_samples.index[shown]]])
        (folder / "figures").mkdir(exist_ok=True)
        picture = folder / "figures" / "samples above their nearest training images.png"
        columns = min(SHOWN, len(drawn))
        image_grid(pairs, picture, columns, low=self.dequantize.low, high=self.dequantize.high)


def _row(name: str, found: Nearest, share: float) -> list[Any]:
    middle, smallest = np.median(found.distance), found.distance.min()
    return [name, f"{middle:.2f}", f"{smallest:.2f}", f"{100 * share:.1f} %"]


def run(settings: Mnist, kind: type[MnistTask] = MnistTask) -> int:
    """Trains or resumes, draws samples, evaluates and reports; returns the exit code.

    kind: what is done with the images.
    """
    settings, place = with_place(settings)
    return pipeline.run(settings, lambda: kind.of(settings, splits(settings, place)))
