"""Training on arrays of any rank: vectors, signals, images of any size, volumes.

    python examples/own_data.py

Hardware: a CPU. Expect the spread of samples to be that of the data, 0.71.

The last axis holds channels. An MLP takes vectors; a U-Net takes everything with one, two or three
axes before the channels.
"""

import jax
import numpy as np
from flax import nnx

import scoresde as sd


def sines(n: int, length: int = 30) -> np.ndarray:
    """Returns n sine waves of random frequency and phase in [-1, 1], of shape (n, length, 1)."""
    rng = np.random.default_rng(0)
    frequency = rng.uniform(1.0, 3.0, (n, 1))
    phase = rng.uniform(0.0, 2.0 * np.pi, (n, 1))

    position = np.arange(length) / length
    waves = np.sin(2.0 * np.pi * frequency * position + phase)
    return waves[..., None].astype(np.float32)


def train(data: np.ndarray, run: str, steps: int = 300) -> sd.ScoreModel:
    """Trains a network that fits the data's shape, and keeps it in the folder `run`."""
    config = sd.MLPConfig() if data.ndim == 2 else sd.UNetConfig(channels=16, num_blocks=1)
    net = config.build(data.shape[1:], rngs=nnx.Rngs(0))
    model = sd.ScoreModel(sd.VP(), net, sd.EDM(sigma_data=float(data.std())))
    return sd.fit(jax.random.key(0), model, data, training=sd.Training(steps=steps), run=run).model


if __name__ == "__main__":
    sd.use_cpu_cores()
    train(sines(2000), "runs/sines")

    model = sd.load("runs/sines")
    sampler = sd.ProbabilityFlow(rtol=1e-3, atol=1e-3)
    x = sd.sample(jax.random.key(1), sampler, model.sde, model, (256, 30, 1)).x
    print(f"std of 256 samples {x.std():.2f}, of the data 0.71")
