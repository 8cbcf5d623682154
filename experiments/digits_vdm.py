r"""A variational diffusion model of scikit-learn's 8×8 digits: its noise schedule trains with it.

    python experiments/digits_vdm.py      # --help lists every setting

The same command, given again, resumes an interrupted run. Kingma et al. 2021 (arXiv:2107.00630):
the loss is the bound on the probability of the integers, in continuous time. The ends of
gamma = -log SNR descend on it, its shape on the variance of its estimate; the network also sees
Fourier features of its input. Each part can be turned off:

    python experiments/digits_vdm.py sde.schedule:linear-gamma --sde.schedule.low -8
    python experiments/digits_vdm.py sde.schedule:linear-gamma --sde.schedule.low -8 \
        --sde.schedule.learn-ends
    python experiments/digits_vdm.py --sde.schedule.no-learn-ends
    python experiments/digits_vdm.py --net.fourier-features
    python experiments/digits_vdm.py --training.objective.num-steps 100

The first keeps the schedule fixed, the second learns its ends alone, the third its shape alone; the
fourth has no Fourier features, and the last has T = 100 steps.

Network and steps are those of `digits_likelihood.py`. gamma begins at -8: the paper's -13.3 for 256
levels, and 2 log(256 / 17) more.

Hardware: 2 CPU cores, about 6 minutes.
"""

from __future__ import annotations

if __name__ == "__main__":
    from scoresde.cli.start import end_on_signals

    end_on_signals()  # before the imports below, which take seconds

import dataclasses

import digits
from variational_task import VariationalTask

import scoresde as sd
from scoresde.cli.flags import run_script

EXPERIMENT = digits.Digits(
    name="digits_vdm",
    sde=sd.LearntVP(sd.MonotoneGamma(low=-8.0, high=5.0, learn_ends=True)),
    net=sd.UNetConfig(channels=32, num_blocks=1, fourier_features=(2, 3)),
    training=dataclasses.replace(digits.TRAINING, objective=sd.objectives.VariationalBound(17)),
    likelihood_t_min=0.0,
)


def run(settings: digits.Digits) -> int:
    """Trains or resumes, draws samples, evaluates and reports; returns the exit code."""
    return digits.run(settings, kind=VariationalTask)


if __name__ == "__main__":
    run_script(run, EXPERIMENT, description=__doc__)
