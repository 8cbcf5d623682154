"""NCSN++ on FFHQ, 256×256, under the VE SDE (Song et al. 2021, configs/ve/ffhq_256_ncsnpp_continuous.py).

    python experiments/ffhq256_ve.py --data FOLDER       # --help lists every setting; the same command resumes
    python experiments/ffhq256_ve.py --smoke             # 2 steps of a tiny network on noise: does it run at all

sigma_max 348, snr 0.075, 2000 steps of reverse diffusion with one Langevin step each; batches of 64, no dropout.

Data: a folder with the images (TFDS has no FFHQ), of any size: decoded once to 256×256, 13 GB memory mapped.
Hardware: one GPU of 80 GB, weeks, with --net.dtype bfloat16 --net.remat --training.accumulate 4.
To expect: the paper shows samples and publishes no figure for it; not trained here.
"""

from __future__ import annotations

import dataclasses

import photographs

import scoresde as sd
from scoresde.cli.flags import run
from scoresde.originals.configurations import ORIGINALS
from scoresde.sampling.choices import AnySampler
from scoresde.train.model_settings import AnyNet, AnyParameterization, AnySDE

ORIGINAL = ORIGINALS["ve/ffhq_256_ncsnpp_continuous"]


@dataclasses.dataclass(frozen=True)
class FFHQ256VE(photographs.Photographs):
    """Train NCSN++ on FFHQ at 256×256 under the VE SDE, sample, and evaluate exact likelihoods."""

    name: str = "ffhq256_ve"
    sde: AnySDE = ORIGINAL.sde
    net: AnyNet = ORIGINAL.net
    parameterization: AnyParameterization = ORIGINAL.parameterization
    training: sd.Training = photographs.of_half_sum(
        dataclasses.replace(photographs.ADAM, steps=2_400_000, batch_size=64, ema=0.999), 256
    )
    sampler: AnySampler = ORIGINAL.sampler
    num_samples: int = 256
    data: str = ""
    size: int = 256
    held_out: int = 256
    evaluation_batch: int = 16
    references: int = 1_000


if __name__ == "__main__":
    run(photographs.run, FFHQ256VE, description=__doc__)
