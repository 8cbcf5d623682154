"""TITLE

    python experiments/fashion_vp.py                     # --help lists every setting; the same command resumes
    python experiments/fashion_vp.py --smoke             # 2 steps of a tiny network on noise: does it run at all

TODO
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
