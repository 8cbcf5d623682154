"""NCSN++ on FFHQ, 256×256, under the VE SDE (Song et al. 2021).

    python experiments/ffhq256_ve.py --data FOLDER     # --help lists every setting
    python experiments/ffhq256_ve.py --smoke           # 2 steps of a tiny network on noise

The same command, given again, resumes an interrupted run. --smoke only checks that everything
runs.

Source: configs/ve/ffhq_256_ncsnpp_continuous.py of the authors' release: sigma_max 348, snr
0.075, 2000 steps of reverse diffusion with one Langevin step each; batches of 64, no dropout.

Data: a folder with the images, of any size (TFDS has no FFHQ). They are decoded once to 256×256:
13 GB, memory mapped.

Hardware: one GPU with 80 GB, weeks, with --net.dtype bfloat16 --net.remat --training.accumulate
4.

Expect: the paper shows samples and publishes no figure. Not trained here.
"""

from __future__ import annotations

if __name__ == "__main__":
    from scoresde.cli.start import end_on_signals

    end_on_signals()  # before the imports below, which take seconds

import dataclasses

import photographs

from scoresde.cli.flags import run_script
from scoresde.originals.configurations import ORIGINALS

ORIGINAL = ORIGINALS["ve/ffhq_256_ncsnpp_continuous"]
ADAM = dataclasses.replace(photographs.ADAM, steps=2_400_000, batch_size=64, ema=0.999)

EXPERIMENT = photographs.Photographs(
    name="ffhq256_ve",
    sde=ORIGINAL.sde,
    net=ORIGINAL.net,
    parameterization=ORIGINAL.parameterization,
    training=photographs.of_half_sum(ADAM, size=256),
    sampler=ORIGINAL.sampler,
    num_samples=256,
    data="",
    size=256,
    held_out=256,
    evaluation_batch=16,
    references=1_000,
)


if __name__ == "__main__":
    run_script(photographs.run, EXPERIMENT, description=__doc__)
