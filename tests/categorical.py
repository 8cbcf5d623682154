"""A law on integers with everything about it known: probabilities, entropy, denoiser."""

import jax
import jax.numpy as jnp
import numpy as np

import scoresde as sd


class Categorical:
    """P(k) on `levels` bins of [-1, 1], as a score under an SDE: the exact E[x | x_t] of one
    pixel, and of several that are independent."""

    is_bound = True

    def __init__(self, probabilities, sde):
        self.p = np.asarray(probabilities) / np.sum(probabilities)
        self.sde = sde
        self.levels = len(self.p)
        self.centres = -1.0 + 2.0 * (np.arange(self.levels) + 0.5) / self.levels

    @property
    def entropy(self):
        """In nats."""
        return float(-np.sum(self.p * np.log(self.p)))

    def sample(self, seed, n):
        return np.random.default_rng(seed).choice(self.levels, size=(n, 1), p=self.p)

    def posterior(self, x, t):
        """P(k | x_t = x), (..., levels)."""
        alpha, sigma = (
            a.reshape(-1, *[1] * x.ndim) for a in (self.sde.alpha(t), self.sde.sigma(t))
        )
        distance = (x[..., None] - alpha * jnp.asarray(self.centres, x.dtype)) / sigma
        return jax.nn.softmax(jnp.log(jnp.asarray(self.p, x.dtype)) - 0.5 * distance**2)

    def data_and_noise(self, x, t):
        x0 = self.posterior(x, t) @ jnp.asarray(self.centres, x.dtype)
        alpha, sigma = (
            a.reshape(-1, *[1] * (x.ndim - 1)) for a in (self.sde.alpha(t), self.sde.sigma(t))
        )
        return x0, (x - alpha * x0) / sigma

    def denoise(self, x, t):
        return self.data_and_noise(x, t)[0]

    def __call__(self, x, t):
        _, sigma = self._scales(t, x.ndim - 1)
        return -self.data_and_noise(x, t)[1] / sigma

    def _scales(self, t, axes):
        t = jnp.asarray(t)
        return (a.reshape(-1, *[1] * axes) for a in (self.sde.alpha(t), self.sde.sigma(t)))

    def mixture(self):
        """The same law as a mixture of nearly points."""
        return sd.GaussianMixture(
            jnp.asarray(self.centres)[:, None], jnp.full(self.levels, 1e-12), jnp.asarray(self.p)
        )


def hump(levels=17):
    """Probabilities with two humps, none of them zero."""
    k = np.arange(levels)
    first = np.exp(-0.5 * ((k - 0.25 * levels) / (0.1 * levels)) ** 2)
    return first + 0.4 * np.exp(-0.5 * ((k - 0.8 * levels) / (0.08 * levels)) ** 2) + 1e-3
