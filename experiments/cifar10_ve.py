"""NCSN++ on CIFAR-10 under the VE SDE, trained in continuous time (Song et al. 2021).

    python experiments/cifar10_ve.py               # --help lists every setting
    python experiments/cifar10_ve.py --smoke       # 2 steps of a tiny network on noise
    python experiments/cifar10_ve.py --name cifar10_ve_deep --net.num-blocks 8 \\
        --training.steps 950000

The same command, given again, resumes an interrupted run. --smoke only checks that everything
runs.

Source: configs/ve/cifar10_ncsnpp_continuous.py of the authors' release.

Data: the TFDS data set cifar10, already prepared; --download lets TFDS fetch and prepare it.
pip install 'scoresde[data,experiments]'.

Hardware: one GPU with 40 GB, days. Activations take 21 GiB, counted from shapes; those of the
deep network 37 GiB, so add --training.accumulate 2 there.

Expect: 62.8 M parameters (deep 107.6 M). Published FID of the best checkpoint by 1000 steps of
reverse diffusion with one Langevin step each: 2.38 (deep 2.20, Inception score 9.89). Not trained
here.
"""

from __future__ import annotations

if __name__ == "__main__":
    from scoresde.cli.start import end_on_signals

    end_on_signals()  # before the imports below, which take seconds

import dataclasses

import photographs

from scoresde.cli.flags import run_script
from scoresde.originals.configurations import ORIGINALS

ORIGINAL = ORIGINALS["ve/cifar10_ncsnpp_continuous"]

EXPERIMENT = photographs.Photographs(
    name="cifar10_ve",
    sde=ORIGINAL.sde,
    net=ORIGINAL.net,
    parameterization=ORIGINAL.parameterization,
    training=photographs.of_half_sum(dataclasses.replace(photographs.ADAM, ema=0.999), size=32),
    sampler=ORIGINAL.sampler,
)


if __name__ == "__main__":
    run_script(photographs.run, EXPERIMENT, description=__doc__)
