"""A VE diffusion model of Fashion-MNIST, 28×28 (Xiao et al. 2017, arXiv:1708.07747).

    python experiments/fashion_ve.py                     # --help lists every setting; the same command resumes
    python experiments/fashion_ve.py --smoke             # 2 steps of a tiny network on noise: does it run at all

Data: apt install dataset-fashion-mnist, or --folder with the four idx files; pip install 'scoresde[data,experiments]'.
Hardware: 2 CPU cores, about 12 minutes. Song et al. 2021 report no figure for this set; measured here (seed 0, 0.28 M
parameters): 3.674 ± 0.049 bits/dim on 256 held-out images (a fitted Gaussian 6.66), Fréchet distance 22.3 of 500
samples (Gaussian 48.4, the 256 held-out images 15.0). The report's "While training" follows both from checkpoint to
checkpoint; after 500, 1000, 1500, 2000 steps, of 32 images and 256 samples: 3.862, 3.729, 3.690, 3.680 bits/dim;
distance 87, 50, 49.5, 41. A larger network on a GPU: see fashion_vp.py.
"""

from __future__ import annotations

import dataclasses

import fashion

import scoresde as sd
from scoresde.cli.flags import run
from scoresde.train.model_settings import AnySDE


@dataclasses.dataclass(frozen=True)
class FashionVE(fashion.Fashion):
    """Train a VE score network on Fashion-MNIST, sample, and evaluate exact likelihoods."""

    name: str = "fashion_ve"
    sde: AnySDE = sd.VE(sigma_min=0.01, sigma_max=50.0)


if __name__ == "__main__":
    run(fashion.run, FashionVE, description=__doc__)
