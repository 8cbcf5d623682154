"""A VE diffusion model of scikit-learn's 8×8 digits, sampled by predictor-corrector.

    python experiments/digits_ve.py        # --help lists every setting

The same command, given again, resumes an interrupted run.

Hardware: 2 CPU cores, about 5 minutes.

Expect (seed 0): 1.87 ± 0.015 bits/dim on 297 held-out digits (17 levels, uniform dequantisation),
against 2.96 for a fitted Gaussian; a Fréchet distance of 1.0 on the features of a small
classifier, against 2.4; 85 % of the samples recognised.
"""

from __future__ import annotations

if __name__ == "__main__":
    from scoresde.cli.start import end_on_signals

    end_on_signals()  # before the imports below, which take seconds

import digits

import scoresde as sd
from scoresde.cli.flags import run_script

EXPERIMENT = digits.Digits(
    name="digits_ve",
    sde=sd.VE(sigma_min=0.01, sigma_max=20.0),
    sampler=sd.PredictorCorrector(num_steps=100, t_min=1e-5),
)


if __name__ == "__main__":
    run_script(digits.run, EXPERIMENT, description=__doc__)
