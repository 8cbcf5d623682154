"""DDPM++ on CIFAR-10 under the sub-VP SDE (Song et al. 2021, configs/subvp/cifar10_ddpmpp_continuous.py).

    python experiments/cifar10_subvp.py                  # --help lists every setting; the same command resumes
    python experiments/cifar10_subvp.py --name cifar10_subvp_deep --net.num-blocks 8 --training.steps 950000
    python experiments/cifar10_subvp.py --smoke          # 2 steps of a tiny network on noise: does it run at all

Data: TFDS's cifar10, prepared (--download does so, with a network); pip install 'scoresde[data,experiments]'.
Hardware: one GPU of 40 GB, days: 21 GiB of activations, counted from shapes; deep 37, so --training.accumulate 2 there.
To expect: 61.8 M parameters (deep 106.6 M); published by the probability flow at tolerance 1e-5: FID 3.16 and 3.02
bits/dim, deep 2.92 and 2.99, all with uniform dequantisation. Not trained here.
"""

from __future__ import annotations

import dataclasses

import photographs

from scoresde.cli.flags import run
from scoresde.originals.configurations import ORIGINALS
from scoresde.sampling.choices import AnySampler
from scoresde.train.model_settings import AnyNet, AnyParameterization, AnySDE

ORIGINAL = ORIGINALS["subvp/cifar10_ddpmpp_continuous"]


@dataclasses.dataclass(frozen=True)
class Cifar10SubVP(photographs.Photographs):
    """Train DDPM++ on CIFAR-10 under the sub-VP SDE, sample, and evaluate exact likelihoods."""

    name: str = "cifar10_subvp"
    sde: AnySDE = ORIGINAL.sde
    net: AnyNet = ORIGINAL.net
    parameterization: AnyParameterization = ORIGINAL.parameterization
    sampler: AnySampler = ORIGINAL.sampler


if __name__ == "__main__":
    run(photographs.run, Cifar10SubVP, description=__doc__)
