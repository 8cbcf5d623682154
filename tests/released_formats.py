"""A run of this version, kept so that every later version is seen to read it.

    python tests/released_formats.py tests/released/FORMAT

writes one: half of a small training, which a test resumes, and likelihoods of a few examples.
"""

import contextlib
import os
import sys
from pathlib import Path

import jax
import numpy as np
from flax import nnx

import scoresde as sd
from scoresde.cli.main import main

KEY = jax.random.key(7)


def settings(steps):
    return sd.Training(
        steps=steps, batch_size=8, warmup=2, log_every=1, validate_every=2, learning_rate=1e-2
    )


def data():
    return np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)


def train(run, steps):
    """Trains in a folder, or without one for None."""
    net = sd.MLPConfig(width=4, depth=1).build((2,), rngs=nnx.Rngs(0))
    model = sd.ScoreModel(sd.VP(beta_max=15.0), net, sd.EDM(sigma_data=1.0))
    return sd.fit(KEY, model, data(), training=settings(steps), run=run, progress=False)


LIKELIHOOD = ["--num", "3", "--exact", "--tolerance", "1e-3"]

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True)
    with contextlib.chdir(folder):
        train("run", 4)
        assert main(["likelihood", "run", *LIKELIHOOD, "--json"]) == 0
    for lock in folder.rglob("*.lock"):
        os.unlink(lock)
