"""MNIST: settings, data and evaluation that its experiments share.

Settings are chosen on the last 5 000 training images, which no network is trained on; the test
images are seen by the final evaluation alone.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
import pipeline
from bookkeeping import Clock
from idx_experiment import IdxExperiment, some_of, with_place
from image_experiment import log_likelihood, succeeded
from image_task import ImageTask

import scoresde as sd
from scoresde.data import images
from scoresde.evaluation.nearest import Nearest, nearest, remembered
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
    trained_on: int = 0
    """Training images whose bits/dim are computed too: below those of the test images, the network
    has learnt them by heart."""


@dataclasses.dataclass(frozen=True)
class MnistTask(ImageTask):
    """An `ImageTask` that validates on images of the training set, and looks for copies of it."""

    choosing: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0))
    """Images to choose settings by, integers."""
    everything: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0))
    """All that the network is trained on, integers."""

    @classmethod
    def of(cls, settings: Mnist, place: dict[str, Any], **options: Any) -> Self:
        """Returns the task, its images read from `place`: see `with_place`."""
        choosing = CHOOSING if not settings.smoke else 20
        train = images.mnist(f"train[:-{choosing}]", **place)
        test = images.mnist("test", **place)
        some = some_of(len(train))
        drawn = some_of(len(test), settings.held_out)

        return cls.build(
            noun="digits",
            train=train.without_labels(),
            test=test.pixels[drawn],
            reference=train.pixels[some],
            labels=np.asarray(train.labels)[some],
            levels=256,
            watched=settings.watched,
            draws=settings.draws,
            choosing=images.mnist(f"train[-{choosing}:]", **place).pixels,
            everything=train.pixels,
            **options,
        )

    @property
    def held_out(self) -> np.ndarray:
        """What training is validated on."""
        return self.choosing[:VALIDATED]

    @property
    def watched_images(self) -> np.ndarray:
        """Images whose bits/dim are computed during training."""
        return self.choosing[: self.watched]

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
        if settings.trained_on:
            with clock("likelihood of training images"):
                self._add_trained_on(outcome, settings, key, model)
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

    def _add_trained_on(
        self, outcome: pipeline.Outcome, settings: Mnist, key: jax.Array, model: sd.ScoreModel
    ) -> None:
        """Adds the bits/dim of training images."""
        key_dequantize, key_probes = jax.random.split(jax.random.fold_in(key, 1))
        some = jnp.asarray(self.everything[: settings.trained_on])
        likelihood = log_likelihood(
            settings,
            key_probes,
            model,
            self.dequantize(key_dequantize, some),
            batch_size=settings.evaluation_batch,
            progress=True,
        )
        bits = self.bits_per_dim(likelihood.log_prob)[np.asarray(likelihood.success)]
        mean, stderr = float(bits.mean()), float(bits.std(ddof=1) / math.sqrt(len(bits)))
        outcome.figures["bits_per_dim_train"] = mean
        outcome.figures["bits_per_dim_train_stderr"] = stderr
        outcome.headline.insert(
            1,
            [
                "bits/dim of training images",
                f"{mean:.3f} ± {stderr:.3f}",
                f"the first {len(some)} that the network was trained on",
            ],
        )


def _row(name: str, found: Nearest, share: float) -> list[Any]:
    middle, smallest = np.median(found.distance), found.distance.min()
    return [name, f"{middle:.2f}", f"{smallest:.2f}", f"{100 * share:.1f} %"]


def run(settings: Mnist, kind: type[MnistTask] = MnistTask, **options: Any) -> int:
    """Trains or resumes, draws samples, evaluates and reports; returns the exit code.

    kind: what is done with the images.
    """
    settings, place = with_place(settings)
    return pipeline.run(settings, lambda: kind.of(settings, place, **options))
