"""A VE diffusion model of scikit-learn's 8×8 digits, sampled by predictor-corrector.

    python experiments/digits_ve.py                     # --help lists every setting; the same command resumes

Hardware: 2 CPU cores, about 5 minutes. To expect (seed 0): bits/dim on 297 held-out digits (17 levels, uniform
dequantisation) 1.87 ± 0.015, against 2.96 of a fitted Gaussian; Fréchet distance on a small classifier's features 1.0,
against 2.4; 85 % of the samples recognised.
"""

from __future__ import annotations

import dataclasses

import digits

import scoresde as sd
from scoresde.cli.flags import run
from scoresde.sampling.choices import AnySampler
from scoresde.train.model_settings import AnySDE


@dataclasses.dataclass(frozen=True)
class DigitsVE(digits.Digits):
    """Train a VE score network on the digits, sample, and evaluate exact likelihoods."""

    name: str = "digits_ve"
    sde: AnySDE = sd.VE(sigma_min=0.01, sigma_max=20.0)
    sampler: AnySampler = sd.PredictorCorrector(num_steps=100, t_min=1e-5)


if __name__ == "__main__":
    run(digits.run, DigitsVE, description=__doc__)
