"""A custom SDE: the scale of the signal and the variance of the noise, as functions of time.

    python examples/own_sde.py

Hardware: a CPU, for seconds. Expect the second moment of samples to match that of the data.

Drift, diffusion, transitions, log SNR, reverse SDE and probability flow follow from the two
functions by differentiation. This class is one of the `PROCESSES` in tests/families.py, on which
every test of SDEs runs: add yours there.
"""

import dataclasses

import jax
import jax.numpy as jnp

import scoresde as sd


@jax.tree_util.register_dataclass  # JAX sees the fields, so they may be traced or learnt
@dataclasses.dataclass(frozen=True)
class Cosine(sd.SDE):
    """Variance-preserving SDE of Nichol & Dhariwal 2021 (arXiv:2102.09672), without their offset.

    alpha = cos(a t),   sigma = sin(a t)
    """

    angle: float | jax.Array = 1.5  # a: a little below pi / 2, where log alpha would be infinite

    def log_alpha(self, t):
        return jnp.log(jnp.cos(self.angle * t))

    def variance(self, t):
        # sin^2 is exact near t = 0, where 1 - cos^2 would lose its digits.
        return jnp.sin(self.angle * t) ** 2


if __name__ == "__main__":
    # A mixture has an exact score under any SDE, so nothing needs training.
    mixture = sd.GaussianMixture(means=[[-1.0, 0.0], [1.0, 0.0]], covs=[0.04, 0.04])
    sde = Cosine()
    score = mixture.score(sde)

    x = sd.sample(jax.random.key(0), sd.EulerMaruyama(num_steps=500), sde, score, (5000, 2)).x
    second_moment = jnp.mean(jnp.sum(x**2, axis=1))
    print(f"E|x|² of 5000 samples {second_moment:.3f}, of the mixture 1.080")
