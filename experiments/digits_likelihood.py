"""The digits trained for likelihood: the VE SDE, and half of the training times uniform in t, half uniform in log SNR.

    python experiments/digits_likelihood.py             # --help lists every setting; the same command resumes

Uniform log SNR is the importance sampling of Song et al. 2021b's likelihood weighting (`sd.LogSNRTime`): the loss it
averages is the variational bound. Network, steps and all else are those of `digits_vp.py`. Measured by

    python benchmarks/likelihood_recipe.py --runs runs --recipes digits_vp "digits_likelihood sde:vp" digits_likelihood

paired over digits, noise, probes and seeds 0, 1, 2, in bits/dim with uniform dequantisation, minus those of
`digits_vp.py` (1.916): -0.040 ± 0.002 (1.876), seed by seed -.046, -.032, -.042. The times alone, under VP: -0.006 ±
0.002, seed by seed -.010, +.002, -.010; with truncated-normal dequantisation from t_min = 3e-3, -0.033 ± 0.002 (2.191
for 2.223). ± one standard error over digits.

Beyond the same steps: `--training.steps 3600` another -0.076 ± 0.003 (1.801, seeds 0 and 1: -.078, -.075); from step
3000 on its held-out loss is level. Augmentation by `--shift 1` harms, 2.046 for 1.881 with seed 0: digits fill their
frame.
"""

from __future__ import annotations

import dataclasses

import digits

import scoresde as sd
from scoresde.flags import run
from scoresde.model import AnySDE

TRAINING = dataclasses.replace(digits.Digits.training, times=sd.TimeMixture())


@dataclasses.dataclass(frozen=True)
class DigitsLikelihood(digits.Digits):
    """Train a VE score network on the digits for likelihood, sample, and evaluate exact likelihoods."""

    name: str = "digits_likelihood"
    sde: AnySDE = sd.VE()
    training: sd.Training = TRAINING


if __name__ == "__main__":
    run(digits.run, DigitsLikelihood, description=__doc__)
