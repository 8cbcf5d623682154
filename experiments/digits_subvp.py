"""A sub-VP diffusion model of scikit-learn's 8×8 digits.

    python experiments/digits_subvp.py                  # --help lists every setting; the same command resumes

Hardware: 2 CPU cores, about 5 minutes. To expect (seed 0): bits/dim on 297 held-out digits (17 levels, uniform
dequantisation) 1.92 ± 0.015, against 2.96 of a fitted Gaussian; Fréchet distance on a small classifier's features 0.7,
against 2.4; 85 % of the samples recognised.
"""

from __future__ import annotations

import dataclasses

import digits

import scoresde as sd
from scoresde.cli.flags import run
from scoresde.train.model_settings import AnySDE


@dataclasses.dataclass(frozen=True)
class DigitsSubVP(digits.Digits):
    """Train a sub-VP score network on the digits, sample, and evaluate exact likelihoods."""

    name: str = "digits_subvp"
    sde: AnySDE = sd.SubVP()


if __name__ == "__main__":
    run(digits.run, DigitsSubVP, description=__doc__)
