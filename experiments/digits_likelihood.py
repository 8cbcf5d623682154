"""A VE diffusion model of scikit-learn's 8×8 digits, trained for likelihood.

    python experiments/digits_likelihood.py     # --help lists every setting

The same command, given again, resumes an interrupted run.

Under VE, times uniform in t are uniform in log SNR. That is the importance sampling of the
likelihood weighting in Song et al. 2021b (`sd.times.LogSNR`), so the plain loss estimates the
variational bound. Network, steps and everything else are those of `digits_vp.py`. sigma = 10 is
far beyond the data; a larger sigma_max would spend steps where there is nothing to learn.

Hardware: 2 CPU cores.

Expect, on held-out digits with uniform dequantisation: 1.867, 1.873, 1.863 bits/dim with seeds 0,
1, 2, each ± 0.015. With the same digits, noise and probes `digits_vp.py` needs 0.062, 0.055,
0.059 more: 0.059 ± 0.002 (standard error over the seeds). `digits_ve.py`, with sigma up to 20, is
as good (0.057 ± 0.004 below VP); sigma up to 50 is less so (0.043 ± 0.004). To measure this
again, paired digit by digit, in half an hour:

    python benchmarks/likelihood_recipe.py --runs runs --settings uniform --draws 1

Also tried: times half uniform in log SNR under VP, truncated-normal dequantisation, twice the
steps (another 0.076 less), and augmentation by `--shift 1`, which harms.
"""

from __future__ import annotations

if __name__ == "__main__":
    from scoresde.cli.start import end_on_signals

    end_on_signals()  # before the imports below, which take seconds

import digits

import scoresde as sd
from scoresde.cli.flags import run_script

EXPERIMENT = digits.Digits(
    name="digits_likelihood",
    sde=sd.VE(sigma_min=0.01, sigma_max=10.0),
)


if __name__ == "__main__":
    run_script(digits.run, EXPERIMENT, description=__doc__)
