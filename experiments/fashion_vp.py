"""A VP diffusion model of Fashion-MNIST, 28×28 (Xiao et al. 2017, arXiv:1708.07747).

    python experiments/fashion_vp.py                     # --help lists every setting; the same command resumes
    python experiments/fashion_vp.py --smoke             # 2 steps of a tiny network on noise: does it run at all

Data: apt install dataset-fashion-mnist, or --folder with the four idx files; pip install 'scoresde[data,experiments]'.
Hardware: 2 CPU cores. Song et al. 2021 report no figure for this set. To expect: bits/dim on held-out images and the
Fréchet distance on a small classifier's features fall from checkpoint to checkpoint (the report's "While training"),
below those of the fitted Gaussian, which the report shows beside them. No full run has been recorded yet.
"""

from __future__ import annotations

import dataclasses

import fashion

import scoresde as sd
from scoresde.flags import run
from scoresde.model import AnySDE


@dataclasses.dataclass(frozen=True)
class FashionVP(fashion.Fashion):
    """Train a VP score network on Fashion-MNIST, sample, and evaluate exact likelihoods."""

    name: str = "fashion_vp"
    sde: AnySDE = sd.VP()


if __name__ == "__main__":
    run(fashion.run, FashionVP, description=__doc__)
