"""A VE diffusion model of Fashion-MNIST, 28×28 (Xiao et al. 2017, arXiv:1708.07747).

    python experiments/fashion_ve.py                     # --help lists every setting; the same command resumes
    python experiments/fashion_ve.py --smoke             # 2 steps of a tiny network on noise: does it run at all

Data: apt install dataset-fashion-mnist, or --folder with the four idx files; pip install 'scoresde[data,experiments]'.
Hardware: 2 CPU cores. To expect: Song et al. 2021 report no figure for this set, and ours are still to be measured. The
report's "While training" follows bits/dim of held-out images and a Fréchet distance from checkpoint to checkpoint;
"Against what is known" has the fitted Gaussian beside the model.
"""

from __future__ import annotations

import dataclasses

import fashion

import scoresde as sd
from scoresde.flags import run
from scoresde.model import AnySDE


@dataclasses.dataclass(frozen=True)
class FashionVE(fashion.Fashion):
    """Train a VE score network on Fashion-MNIST, sample, and evaluate exact likelihoods."""

    name: str = "fashion_ve"
    sde: AnySDE = sd.VE(sigma_min=0.01, sigma_max=50.0)


if __name__ == "__main__":
    run(fashion.run, FashionVE, description=__doc__)
