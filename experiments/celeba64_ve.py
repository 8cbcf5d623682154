"""NCSN++ on CelebA, 64×64, under the VE SDE (Song et al. 2021).

    python experiments/celeba64_ve.py              # --help lists every setting
    python experiments/celeba64_ve.py --smoke      # 2 steps of a tiny network on noise

The same command, given again, resumes an interrupted run. --smoke only checks that everything
runs.

Source: configs/ve/celeba_ncsnpp.py of the authors' release and its defaults. The network is that
of CIFAR-10, sigma_max is 90, snr 0.17. Two things differ. Levels are continuous here, with a
Fourier embedding of log sigma; there they are 1000 discrete ones, with a positional embedding of
their index. Held-out images come from the test split of TFDS here, from its validation split
there. Images are cropped to the central 140×140 and resized.

Data: the TFDS data set celeb_a, already prepared (its source allows few downloads a day), or
--data FOLDER with the aligned images.

Hardware: one GPU with 80 GB and --training.accumulate 2, days: the activations of a whole batch
take 80 GiB, counted from shapes. With 40 GB, accumulate 4. --net.dtype bfloat16 and --net.remat
save more.

Expect: the paper publishes no figure for this configuration. Not trained here.
"""

from __future__ import annotations

if __name__ == "__main__":
    from scoresde.cli.start import end_on_signals

    end_on_signals()  # before the imports below, which take seconds

import dataclasses

import photographs

import scoresde as sd
from scoresde.cli.flags import run_script
from scoresde.originals.configurations import ORIGINALS

ORIGINAL = ORIGINALS["ve/cifar10_ncsnpp_continuous"]
CORRECTOR = sd.correctors.Langevin(1, sd.correctors.NoiseLevelStep(snr=0.17))

EXPERIMENT = photographs.Photographs(
    name="celeba64_ve",
    sde=sd.VE(0.01, 90.0),
    net=ORIGINAL.net,
    parameterization=ORIGINAL.parameterization,
    training=photographs.of_half_sum(dataclasses.replace(photographs.ADAM, ema=0.999), size=64),
    sampler=dataclasses.replace(ORIGINAL.sampler, corrector=CORRECTOR),
    data="celeb_a",
    size=64,
    crop=140,
)


if __name__ == "__main__":
    run_script(photographs.run, EXPERIMENT, description=__doc__)
