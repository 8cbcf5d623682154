"""The digits trained for likelihood: half of the training times uniform in t, half uniform in log SNR.

    python experiments/digits_likelihood.py             # --help lists every setting; the same command resumes

Uniform log SNR is the importance sampling of Song et al. 2021b's likelihood weighting (`sd.LogSNRTime`): the loss it
averages is the variational bound. Network, steps and all else are those of `digits_vp.py`. Measured by
`python benchmarks/likelihood_recipe.py --runs runs`, paired over digits, noise, probes and seeds 0, 1, 2, bits/dim
minus those of `digits_vp.py`: -0.0058 ± 0.0017 with uniform dequantisation (1.910 for 1.916), -0.0325 ± 0.0020 with
truncated-normal from t_min = 3e-3 (2.191 for 2.223); ± one standard error over digits.
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
    """Train a VP score network on the digits for likelihood, sample, and evaluate exact likelihoods."""

    name: str = "digits_likelihood"
    sde: AnySDE = sd.VP()
    training: sd.Training = TRAINING


if __name__ == "__main__":
    run(digits.run, DigitsLikelihood, description=__doc__)
