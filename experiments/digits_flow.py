"""Flow matching on scikit-learn's 8×8 digits: straight paths from data to noise.

    python experiments/digits_flow.py      # --help lists every setting

The same command, given again, resumes an interrupted run. The network returns the velocity of the
path, noise - x_0 (Lipman et al. 2023, arXiv:2210.02747); samples and likelihoods are those of the
probability flow, from pure noise at t = 1.

Hardware: 2 CPU cores, about 5 minutes.

Expect (seed 0): 1.88 ± 0.014 bits/dim on 297 held-out digits (17 levels, uniform dequantisation),
against 2.96 for a fitted Gaussian; a Fréchet distance of 0.5 on the features of a small
classifier, against 2.4; 89 % of the samples recognised.
"""

from __future__ import annotations

if __name__ == "__main__":
    from scoresde.cli.start import end_on_signals

    end_on_signals()  # before the imports below, which take seconds

import dataclasses

import digits

import scoresde as sd
from scoresde.cli.flags import run_script

EXPERIMENT = digits.Digits(
    name="digits_flow",
    sde=sd.RectifiedFlow(),
    parameterization=sd.Flow(),
    training=dataclasses.replace(digits.TRAINING, objective=sd.objectives.OutputMatching()),
)


if __name__ == "__main__":
    run_script(digits.run, EXPERIMENT, description=__doc__)
