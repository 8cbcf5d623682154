"""A VP diffusion model of Fashion-MNIST, 28×28 (Xiao et al. 2017, arXiv:1708.07747).

    python experiments/fashion_vp.py                     # --help lists every setting; the same command resumes
    python experiments/fashion_vp.py --smoke             # 2 steps of a tiny network on noise: does it run at all

Data: apt install dataset-fashion-mnist, or --folder with the four idx files; pip install 'scoresde[data,experiments]'.
Hardware: 2 CPU cores, about 12 minutes. Song et al. 2021 report no figure for this set; measured here (seed 0, 0.28 M
parameters): 3.829 ± 0.051 bits/dim on 256 held-out images (a fitted Gaussian 6.66), Fréchet distance 14.1 of 500
samples (Gaussian 48.4, the 256 held-out images 15.0). The report's "While training" follows both from checkpoint to
checkpoint; after 500, 1000, 1500, 2000 steps, of 32 images and 256 samples: 4.158, 3.976, 3.884, 3.849 bits/dim;
distance 67, 31, 29, 23.

On a GPU, a larger network; on one NVIDIA H100 80GB HBM3 in 8 minutes, compilation in them:

    python experiments/fashion_vp.py --name fashion_vp_gpu --net.channels 64 --net.num-blocks 2 --held-out 1000 \\
        --training.batch-size 256 --training.steps 12000 --training.validate-every 3000 --training.log-every 300 \\
        --training.learning-rate 1e-3 --num-samples 1000

6.5 M parameters: 2.936 ± 0.025 bits/dim on 1000 held-out images, distance 4.39 of 1000 samples (held-out images 4.39);
11 960 images/s in training, 4.9 GiB of the device's memory. Every 3000 steps: 3.195, 3.086, 3.026, 2.990 bits/dim.
"""

from __future__ import annotations

import dataclasses

import fashion

import scoresde as sd
from scoresde.cli.flags import run
from scoresde.train.model_settings import AnySDE


@dataclasses.dataclass(frozen=True)
class FashionVP(fashion.Fashion):
    """Train a VP score network on Fashion-MNIST, sample, and evaluate exact likelihoods."""

    name: str = "fashion_vp"
    sde: AnySDE = sd.VP()


if __name__ == "__main__":
    run(fashion.run, FashionVP, description=__doc__)
