"""TITLE

    python experiments/fashion_ve.py                     # --help lists every setting; the same command resumes
    python experiments/fashion_ve.py --smoke             # 2 steps of a tiny network on noise: does it run at all

TODO
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
