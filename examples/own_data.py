"""Arrays of your own, of any rank: vectors, signals, images of any size, volumes.

    python examples/own_data.py

The last axis holds channels; an MLP takes vectors, a U-Net everything with one, two or three axes before the channels.
"""

import jax
import numpy as np
from flax import nnx

import scoresde as sd


def sines(n: int, length: int = 30) -> np.ndarray:
    """n sine waves of random frequency and phase, (n, length, 1), in [-1, 1]."""
    rng = np.random.default_rng(0)
    frequency, phase = rng.uniform(1.0, 3.0, (n, 1)), rng.uniform(0.0, 2.0 * np.pi, (n, 1))
    return np.sin(2.0 * np.pi * frequency * np.arange(length) / length + phase)[..., None].astype(
        np.float32
    )


def train(data: np.ndarray, run: str, steps: int = 300) -> sd.ScoreModel:
    """All that own data need: a network for their shape, a model around it, fit."""
    settings = sd.MLPConfig() if data.ndim == 2 else sd.UNetConfig(channels=16, num_blocks=1)
    net = settings.build(data.shape[1:], rngs=nnx.Rngs(0))
    model = sd.ScoreModel(sd.VP(), net, sd.EDM(sigma_data=float(data.std())))
    return sd.fit(jax.random.key(0), model, data, training=sd.Training(steps=steps), run=run).model


if __name__ == "__main__":
    sd.use_cpu_cores()
    train(sines(2000), "runs/sines")
    model = sd.load("runs/sines")
    out = sd.sample(
        jax.random.key(1), sd.ProbabilityFlow(rtol=1e-3, atol=1e-3), model.sde, model, (256, 30, 1)
    )
    print(f"std of 256 samples {out.x.std():.2f}, of the data 0.71")
