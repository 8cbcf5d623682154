"""DDPM++ on CIFAR-10 under the VP SDE, continuous training (Song et al. 2021, configs/vp/cifar10_ddpmpp_continuous.py).

    python experiments/cifar10_vp.py                     # --help lists every setting; the same command resumes
    python experiments/cifar10_vp.py --name cifar10_vp_deep --net.num-blocks 8 --training.steps 950000
    python experiments/cifar10_vp.py --name cifar10_vp_ncsnpp --net.fir --net.input-path residual
    python experiments/cifar10_vp.py --smoke             # 2 steps of a tiny network on noise: does it run at all

Data: TFDS's cifar10, prepared (--download does so, with a network); pip install 'scoresde[data,experiments]'.
Hardware: one GPU of 40 GB, days: 21 GiB of activations, counted from shapes; deep 37, so --training.accumulate 2 there.
To expect: 61.8 M parameters (deep 106.6 M); published by the probability flow: FID 3.93 and 3.16 bits/dim (deep
3.08 and 3.13); the best checkpoint's FID by 1000 steps: 2.55 (deep 2.41). Not trained here.
"""

from __future__ import annotations

import dataclasses

import photographs

from scoresde.cli.flags import run
from scoresde.originals.configurations import ORIGINALS
from scoresde.sampling.choices import AnySampler
from scoresde.train.model_settings import AnyNet, AnyParameterization, AnySDE

ORIGINAL = ORIGINALS["vp/cifar10_ddpmpp_continuous"]


@dataclasses.dataclass(frozen=True)
class Cifar10VP(photographs.Photographs):
    """Train DDPM++ on CIFAR-10 under the VP SDE, sample, and evaluate exact likelihoods."""

    name: str = "cifar10_vp"
    sde: AnySDE = ORIGINAL.sde
    net: AnyNet = ORIGINAL.net
    parameterization: AnyParameterization = ORIGINAL.parameterization
    sampler: AnySampler = ORIGINAL.sampler


if __name__ == "__main__":
    run(photographs.run, Cifar10VP, description=__doc__)
