"""NCSN++ on CelebA, 64×64, under the VE SDE (Song et al. 2021, configs/ve/celeba_ncsnpp.py and its defaults).

    python experiments/celeba64_ve.py                    # --help lists every setting; the same command resumes
    python experiments/celeba64_ve.py --smoke            # 2 steps of a tiny network on noise: does it run at all

The network is that of CIFAR-10, sigma_max 90, snr 0.17. Levels are continuous here, with a Fourier embedding of
log sigma; 1000 discrete ones there, with a positional one of their index. Images are cropped to the central 140×140 and
resized; held out are some of TFDS's test split, where theirs takes its validation split.

Data: TFDS's celeb_a, prepared (its source allows few downloads a day), or --data FOLDER with the aligned images.
Hardware: one GPU of 80 GB, days, with --training.accumulate 2: the whole batch's activations are 80 GiB, counted from
shapes; of 40 GB with 4. Also --net.dtype bfloat16, --net.remat.
To expect: the paper publishes no figure for this configuration, and it is not trained here.
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
class CelebA64VE(photographs.Photographs):
    """Train NCSN++ on CelebA at 64×64 under the VE SDE, sample, and evaluate exact likelihoods."""

    name: str = "celeba64_ve"
    sde: AnySDE = sd.VE(0.01, 90.0)
    net: AnyNet = ORIGINAL.net
    parameterization: AnyParameterization = ORIGINAL.parameterization
    training: sd.Training = photographs.of_half_sum(
        dataclasses.replace(photographs.ADAM, ema=0.999), 64
    )
    sampler: AnySampler = dataclasses.replace(
        ORIGINAL.sampler,
        corrector=sd.correctors.Langevin(1, sd.correctors.NoiseLevelStep(snr=0.17)),
    )
    data: str = "celeb_a"
    size: int = 64
    crop: int = 140


if __name__ == "__main__":
    run(photographs.run, CelebA64VE, description=__doc__)
