"""An SDE of your own: the signal's scale and the noise's variance, and nothing else.

    python examples/own_sde.py

Drift, diffusion, transitions, log SNR and its inverse, reverse SDE and probability flow follow by differentiation.
This very class is in the fixtures of tests/conftest.py, so every family test runs on it; add yours to `PROCESSES`.
"""

import dataclasses

import jax
import jax.numpy as jnp

import scoresde as sd


@jax.tree_util.register_dataclass  # JAX sees through it: settings may be traced, learnt, differentiated
@dataclasses.dataclass(frozen=True)
class Cosine(sd.SDE):
    """alpha = cos(a t), sigma = sin(a t): variance preserving (Nichol & Dhariwal 2021, arXiv:2102.09672, without s)."""

    angle: float | jax.Array = 1.5  # a little below pi / 2, where log alpha ends

    def log_alpha(self, t):
        return jnp.log(jnp.cos(self.angle * t))

    def variance(self, t):
        return (
            jnp.sin(self.angle * t) ** 2
        )  # keep the digits near t = 0: sin, expm1, never 1 - cos or 1 - exp


if __name__ == "__main__":
    sde = Cosine()
    mixture = sd.GaussianMixture(
        [[-1.0, 0.0], [1.0, 0.0]], [0.04, 0.04]
    )  # its exact score is known under any SDE
    samples = sd.sample(
        jax.random.key(0), sd.EulerMaruyama(500), sde, mixture.score(sde), (5000, 2)
    ).x
    print(
        f"E|x|² of 5000 samples {jnp.mean(jnp.sum(samples**2, axis=1)):.3f}, of the mixture 1.080"
    )
