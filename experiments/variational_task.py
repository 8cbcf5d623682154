"""Images as integers: the task of experiments that train by the variational bound."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pipeline
from bookkeeping import Clock
from image_experiment import ImageExperiment
from image_task import ImageTask

import scoresde as sd
from scoresde.data.prepare import BinCentres, RandomShift

DRAWS = 100
"""Times at which the bound is evaluated for each held-out image."""


@dataclasses.dataclass(frozen=True)
class VariationalTask(ImageTask):
    """An `ImageTask` whose network is trained on the centres of bins, without dequantisation."""

    @property
    def centres(self) -> BinCentres:
        """The bins of the pixels."""
        return BinCentres(self.dequantize.levels, self.dequantize.low, self.dequantize.high)

    @property
    def prepare(self) -> Any:
        """What training does to a batch."""
        return RandomShift(self.shift, self.centres) if self.shift else self.centres

    def dequantization(self, model: Any) -> sd.TruncatedNormalDequantization:
        """Returns the noise of the SDE at t = 0, cut to the bins: the data that the flow knows."""
        bins = self.centres
        return sd.TruncatedNormalDequantization(model.sde, 0.0, bins.levels, bins.low, bins.high)

    @property
    def dequantization_name(self) -> str:
        """The name of `dequantization`, as the page says it."""
        return "truncated-normal"

    def evaluate(
        self,
        settings: ImageExperiment,
        key: jax.Array,
        model: sd.ScoreModel,
        samples: sd.Sample,
        folder: Path,
        clock: Clock,
    ) -> pipeline.Outcome:
        """Evaluates the bound beside the exact likelihood, and the quality of the samples."""
        key_bins, key_bound, key_rest = jax.random.split(key, 3)
        in_bins = dataclasses.replace(samples, x=self.with_uniform_noise(key_bins, samples.x))
        outcome = super().evaluate(settings, key_rest, model, in_bins, folder, clock)

        with clock("bound"):
            bound = self.bound(settings, key_bound, model)
        figures, table = self.of_bound(bound, model.sde, outcome.figures)
        outcome.figures.update(figures)
        outcome.tables.insert(0, table)
        outcome.summary.append(
            f"bound {figures['bound']:.3f} ± {figures['bound_stderr']:.3f} bits/dim"
        )
        return outcome

    def with_uniform_noise(self, key: jax.Array, x: jax.Array) -> jax.Array:
        """Returns samples as the images that they are compared with: rounded to integers, with
        uniform noise in their bins."""
        bins = self.centres
        k = jnp.floor((jnp.asarray(x) - bins.low) / bins.bin_width)
        return self.dequantize(key, jnp.clip(k, 0, bins.levels - 1).astype(jnp.int32))

    # --- The bound ---

    def bound(self, settings: ImageExperiment, key: jax.Array, model: sd.ScoreModel) -> sd.ELBO:
        """Returns the bound of the held-out images, in the steps of the training."""
        return sd.elbo(
            key,
            model,
            self.test,
            self.dequantize.levels,
            getattr(settings.training.objective, "num_steps", None),
            DRAWS,
            low=self.dequantize.low,
            high=self.dequantize.high,
            batch_size=settings.evaluation_batch,
            progress=True,
        )

    def of_bound(
        self, bound: sd.ELBO, sde: sd.SDE, figures: dict[str, float]
    ) -> tuple[dict[str, float], dict[str, Any]]:
        """Returns the figures of the bound in bits/dim, and the page's table of its parts."""
        scale = math.prod(self.shape) * math.log(2.0)

        def mean_and_error(nats: Any) -> tuple[float, float]:
            bits = np.asarray(nats) / scale
            return float(bits.mean()), float(bits.std(ddof=1) / math.sqrt(len(bits)))

        rows = []
        for name in ("prior", "diffusion", "reconstruction", "nll"):
            mean, stderr = mean_and_error(getattr(bound, name))
            rows.append(["bound" if name == "nll" else name, f"{mean:.4f}", f"{stderr:.4f}"])
        exact = [f"{figures['bits_per_dim']:.4f}", f"{figures['bits_per_dim_stderr']:.4f}"]
        rows.append(["exact, probability flow", *exact])

        mean, stderr = mean_and_error(bound.nll)
        ends = np.asarray(sde.log_snr(jnp.asarray([0.0, 1.0])))
        found = {
            "bound": mean,
            "bound_stderr": stderr,
            "bound_prior": mean_and_error(bound.prior)[0],
            "bound_diffusion": mean_and_error(bound.diffusion)[0],
            "bound_reconstruction": mean_and_error(bound.reconstruction)[0],
            "gamma_low": float(-ends[0]),
            "gamma_high": float(-ends[1]),
        }
        table = {
            "title": "The variational bound and its parts, beside the exact likelihood",
            "columns": ["", "bits/dim", f"standard error over {self.noun}"],
            "rows": rows,
        }
        return found, table
