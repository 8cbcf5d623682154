"""MNIST for likelihood: exact bits/dim beside the published ones of continuous flows.

    python experiments/mnist_likelihood.py               # --help lists every setting
    python experiments/mnist_likelihood.py --smoke       # 2 steps of a tiny network on noise

The same command, given again, resumes an interrupted run, so that the hours may come in pieces.

Four fifths of the pixels are 0. Dequantised, they are uniform on an interval of width w = 2 / 256,
and noise of standard deviation sigma blurs its two ends. For sigma << w, a pixel costs on average

    (2 sigma / w) ∫_0^∞ -log2 Phi(u) du = 1.38 sigma / w bits,                            (Eq. 1)

Phi the distribution function of N(0, 1). VP has sigma = 0.001 at t_min = 1e-5, which costs 0.14
bits/dim; the VE below begins at 0.0001. Its times are uniform in log SNR, so that the plain loss
estimates the variational bound (digits_likelihood.py). The network sees Fourier features of the
pixels, without which an interval so narrow is hard to see.

Data: as for mnist_ddpm.py; pip install 'scoresde[data,experiments]'.
"""

from __future__ import annotations

if __name__ == "__main__":
    from scoresde.cli.start import end_on_signals

    end_on_signals()  # before the imports below, which take seconds

import dataclasses
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import mnist
import numpy as np
import pipeline
from bookkeeping import Clock
from image_experiment import log_likelihood

import scoresde as sd
from scoresde.cli.flags import run_script
from scoresde.sampling.choices import AnySampler
from scoresde.train.model_settings import AnyNet, AnySDE

PUBLISHED = {
    "RealNVP (Dinh et al. 2017)": 1.06,
    "Glow (Kingma & Dhariwal 2018)": 1.05,
    "FFJORD (Grathwohl et al. 2019)": 0.99,
    "RNODE (Finlay et al. 2020)": 0.97,
    "Residual Flow (Chen et al. 2019)": 0.97,
}
"""Exact bits/dim of MNIST, 8 bits with uniform dequantisation: arXiv:1810.01367, Table 2;
2002.02798; 1906.02735."""


@dataclasses.dataclass(frozen=True)
class MnistLikelihood(mnist.Mnist):
    """Settings of the experiment."""

    name: str = "mnist_likelihood"
    sde: AnySDE = sd.VE(sigma_min=1e-4, sigma_max=10.0)
    net: AnyNet = sd.UNetConfig(
        channels=24,
        multipliers=(1, 2, 2),
        num_blocks=1,
        attention_levels=(2,),
        fourier_features=(6, 7),
    )
    training: sd.Training = sd.Training(
        steps=20_000,
        batch_size=64,
        learning_rate=2e-3,
        final_rate=0.02,
        log_every=100,
        validate_every=1000,
    )
    sampler: AnySampler = sd.ProbabilityFlow(rtol=1e-3, atol=1e-3)
    held_out: int = 1000
    likelihood_probes: int = 4
    likelihood_tolerance: float = 1e-4
    trained_on: int = 1000
    """Training images whose bits/dim are computed too: where they are below those of the test
    images, the network has learnt them by heart."""
    bound_times: int = 100
    """Times at which the variational bound of each test image is evaluated."""


class LikelihoodTask(mnist.MnistTask):
    """A `MnistTask` whose page has bits/dim of test and training images, the bound, and others'."""

    def evaluate(
        self,
        settings: Any,
        key: jax.Array,
        model: sd.ScoreModel,
        samples: sd.Sample,
        folder: Path,
        clock: Clock,
    ) -> pipeline.Outcome:
        outcome = super().evaluate(settings, key, model, samples, folder, clock)

        key_train, key_bound = jax.random.split(jax.random.fold_in(key, 1))
        with clock("likelihood of training images"):
            of_training = self._of_training(settings, key_train, model)
        with clock("bound"):
            bound = self._bound(settings, key_bound, model)

        figures = outcome.figures
        for name, bits in (("train", of_training), ("bound", bound)):
            figures[f"bits_per_dim_{name}"], figures[f"bits_per_dim_{name}_stderr"] = bits
        exact = (figures["bits_per_dim"], figures["bits_per_dim_stderr"])
        ours = [
            ["this model, test images", *map(_rounded, exact)],
            ["the same, training images", *map(_rounded, of_training)],
            ["the same, the variational bound of test images", *map(_rounded, bound)],
        ]
        published = [[name, f"{bits:.2f}", ""] for name, bits in PUBLISHED.items()]
        outcome.tables.insert(
            0,
            {
                "title": f"Bits/dim; this model on {len(self.test)} of 10 000 test images",
                "columns": ["", "bits/dim", "standard error over images"],
                "rows": [*ours, *published],
            },
        )
        outcome.summary.extend(f"{name:<48} {bits:>6} {error}" for name, bits, error in ours)
        return outcome

    def _of_training(
        self, settings: MnistLikelihood, key: jax.Array, model: sd.ScoreModel
    ) -> tuple[float, float]:
        """Returns the bits/dim of the first training images, and the standard error."""
        key_dequantize, key_probes = jax.random.split(key)
        some = jnp.asarray(self.everything[: settings.trained_on])
        likelihood = log_likelihood(
            settings,
            key_probes,
            model,
            self.dequantize(key_dequantize, some),
            batch_size=settings.evaluation_batch,
            progress=True,
        )
        bits = self.bits_per_dim(likelihood.log_prob)
        return _mean_and_error(bits[np.asarray(likelihood.success)])

    def _bound(
        self, settings: MnistLikelihood, key: jax.Array, model: sd.ScoreModel
    ) -> tuple[float, float]:
        """Returns the variational bound of the test images in bits/dim, and the standard error."""
        key_dequantize, key_times = jax.random.split(key)
        bound = sd.variational_bound(
            key_times,
            model.sde,
            model,
            self.dequantize(key_dequantize, jnp.asarray(self.test)),
            num_times=settings.bound_times,
            t_min=settings.likelihood_t_min,
            batch_size=settings.evaluation_batch,
            progress=True,
        )
        return _mean_and_error(self.bits_per_dim(-bound.nll))


def _mean_and_error(bits: np.ndarray) -> tuple[float, float]:
    return float(bits.mean()), float(bits.std(ddof=1) / math.sqrt(len(bits)))


def _rounded(bits: float) -> str:
    return f"{bits:.3f}"


def run(settings: MnistLikelihood) -> int:
    """Trains or resumes, draws samples, evaluates and reports; returns the exit code."""
    if settings.smoke:
        settings = dataclasses.replace(settings, trained_on=8, likelihood_probes=1)
    return mnist.run(settings, LikelihoodTask)


if __name__ == "__main__":
    run_script(run, MnistLikelihood(), description=__doc__)
