"""NCSN++ on CIFAR-10 under the VE SDE, continuous training (Song et al. 2021, configs/ve/cifar10_ncsnpp_continuous.py).

    python experiments/cifar10_ve.py                     # --help lists every setting; the same command resumes
    python experiments/cifar10_ve.py --name cifar10_ve_deep --net.num-blocks 8 --training.steps 950000
    python experiments/cifar10_ve.py --smoke             # 2 steps of a tiny network on noise: does it run at all

Data: TFDS's cifar10, prepared (--download does so, with a network); pip install 'scoresde[data,experiments]'.
Hardware: one GPU of 40 GB, days: 21 GiB of activations, counted from shapes; deep 37, so --training.accumulate 2 there.
To expect: 62.8 M parameters (deep 107.6 M); published FID 2.38 (deep 2.20, Inception score 9.89) by 1000 steps of
reverse diffusion with one Langevin step each, the best checkpoint. Not trained here.
"""

from __future__ import annotations

import dataclasses

import photographs

import scoresde as sd
from scoresde.cli.flags import run
from scoresde.originals.configurations import ORIGINALS
from scoresde.sampling.choices import AnySampler
from scoresde.train.model_settings import AnyNet, AnyParameterization, AnySDE

ORIGINAL = ORIGINALS["ve/cifar10_ncsnpp_continuous"]


@dataclasses.dataclass(frozen=True)
class Cifar10VE(photographs.Photographs):
    """Train NCSN++ on CIFAR-10 under the VE SDE, sample, and evaluate exact likelihoods."""

    name: str = "cifar10_ve"
    sde: AnySDE = ORIGINAL.sde
    net: AnyNet = ORIGINAL.net
    parameterization: AnyParameterization = ORIGINAL.parameterization
    training: sd.Training = photographs.of_half_sum(
        dataclasses.replace(photographs.ADAM, ema=0.999), 32
    )
    sampler: AnySampler = ORIGINAL.sampler


if __name__ == "__main__":
    run(photographs.run, Cifar10VE, description=__doc__)
