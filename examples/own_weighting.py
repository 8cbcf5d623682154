"""A custom weighting: how much each time counts in the loss, as a function of (sde, t).

    python examples/own_weighting.py

Hardware: a CPU, for about a minute. Expect samples to lie where the data are.

The loss is w(t) |sigma score + noise|^2, and a weighting returns w, one value per example. Pass it
to `sd.dsm_loss` in a custom training loop, or to `sd.fit` in `sd.Training`.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

import scoresde as sd


@dataclasses.dataclass(frozen=True)
class MinSNR:
    """Weight min(SNR, gamma) on the error of the denoiser D (Hang et al. 2023, arXiv:2303.09556).

    With SNR = alpha^2 / sigma^2,  |x_0 - D|^2 = |sigma score + noise|^2 / SNR,  so

    w = min(SNR, gamma) / SNR = min(1, gamma / SNR)
    """

    gamma: float = 5.0

    def __call__(self, sde, t):
        return jnp.minimum(1.0, self.gamma * jnp.exp(-sde.log_snr(t)))


def train(weighting, data, run):
    """Trains a small network, and returns it with its moving-average weights."""
    net = sd.MLPConfig(width=64).build((2,), rngs=nnx.Rngs(0))
    model = sd.ScoreModel(sd.VP(), net, sd.EDM(sigma_data=0.7))
    training = sd.Training(steps=500, weighting=weighting)
    return sd.fit(jax.random.key(1), model, data, training=training, run=run).model


if __name__ == "__main__":
    mixture = sd.GaussianMixture(means=[[-1.0, 0.0], [1.0, 0.0]], covs=[0.04, 0.04])
    data = mixture.sample(jax.random.key(0), 4096)
    model = train(MinSNR(), data, run="runs/own_weighting")

    # The loss at times between the data and the prior, with the weighting and without it.
    t = jnp.linspace(0.01, 1.0, len(data))
    key = jax.random.key(2)
    weighted = sd.dsm_loss(key, model.sde, model, data, t, weighting=MinSNR())
    plain = sd.dsm_loss(key, model.sde, model, data, t)
    print(f"mean loss {weighted.mean():.3f}, without the weighting {plain.mean():.3f}")

    sampler = sd.DPMSolverPP(num_steps=20)
    x = sd.sample(jax.random.key(3), sampler, model.sde, model, (2000, 2)).x
    found = abs(x[:, 0]).mean()
    want = abs(data[:, 0]).mean()
    print(f"mean |x1| of 2000 samples {found:.2f}, of the data {want:.2f}")
