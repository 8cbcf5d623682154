"""DDPM on scikit-learn's 8×8 digits: 300 levels, L_simple, ancestral sampling.

    python experiments/digits_ddpm.py      # --help lists every setting

The same command, given again, resumes an interrupted run.

The network learns the noise at DDPM's levels, the reverse chain samples from it, and likelihoods
are computed through the VP SDE. The chain is `DDPM.from_sde(VP(), 300, exact=True)`: its levels
are VP's own at t = (i + 1) / 300. The default table, beta_i = beta(i / 299) / 300, agrees with
them to first order.

Hardware: 2 CPU cores, about 10 minutes.

Expect (seed 0): 1.929 ± .014 bits/dim (from the lowest level on), a Fréchet distance of .50 and
89 % recognised, after 300 evaluations. The last table of the report has fewer steps and other
samplers.
"""

from __future__ import annotations

if __name__ == "__main__":
    from scoresde.cli.start import end_on_signals

    end_on_signals()  # before the imports below, which take seconds

import dataclasses
from functools import partial

import digits

import scoresde as sd
from scoresde.cli.flags import run_script
from scoresde.sampling.choices import AnySampler

LEVELS = 300
T_MIN = 1.0 / LEVELS  # the lowest level: the network has learnt nothing below it

EXPERIMENT = digits.Digits(
    name="digits_ddpm",
    sde=sd.VP(),
    net=sd.UNetConfig(channels=32, num_blocks=1, time_scale=1.0),
    parameterization=sd.Noise(label=sd.labels.Index(LEVELS)),
    training=dataclasses.replace(digits.TRAINING, times=sd.times.Levels(LEVELS)),
    sampler=sd.Ancestral(LEVELS),
    likelihood_t_min=T_MIN,
)

OTHERS: dict[str, AnySampler] = {
    "ancestral, 10 steps": sd.Ancestral(10),
    "ancestral, 30 steps": sd.Ancestral(30),
    "ancestral, 100 steps": sd.Ancestral(100),
    "ancestral, 30 steps, variance beta": sd.Ancestral(30, "beta"),
    "predictor-corrector, 50 steps": sd.PredictorCorrector(num_steps=50, t_min=T_MIN),
    "probability flow": sd.ProbabilityFlow(rtol=1e-3, atol=1e-3, t_min=T_MIN),
}
"""Fewer steps, and the continuous samplers, with the same network."""


if __name__ == "__main__":
    run_script(partial(digits.run, others=OTHERS), EXPERIMENT, description=__doc__)
