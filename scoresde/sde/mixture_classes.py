"""The components of a mixture as classes: exact conditional scores and an exact classifier.

    p(k | x_t) = r_k(x, t)                                                     (Eq. 1)
    grad log p_t(x | k) = s_k(x, t),   grad log p_t(x) = Σ_k r_k s_k           (Eq. 2)

r_k and s_k are the responsibility and the score of component k at time t (mixture.py, Eq. 4 and 5).
With them every kind of guidance has an answer that is known.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from scoresde.sde.base import SDE
from scoresde.sde.mixture import GaussianMixture
from scoresde.types import Time, pytree_dataclass


@pytree_dataclass()
class MixtureClassScore:
    """The exact score of a mixture given a component: a ScoreFn with `denoise`.

    x: (batch, d); t: a scalar, or (batch,); label: (batch,), 0 … k - 1, or k for the whole mixture.
    """

    sde: SDE
    mixture: GaussianMixture

    def __call__(
        self, x: Float[Array, " batch d"], t: Time, label: Int[Array | np.ndarray, " batch"]
    ) -> Float[Array, " batch d"]:
        """Returns the score of each example's component (Eq. 2)."""

        def score(mixture, x, t, label):
            weights, scores = self._parts(mixture, x, t, label)
            return jnp.sum(weights[:, None] * scores, axis=0)

        return self.mixture._over_batch(score, x, t, jnp.asarray(label))

    def denoise(
        self, x: Float[Array, " batch d"], t: Time, label: Int[Array | np.ndarray, " batch"]
    ) -> Float[Array, " batch d"]:
        """Returns E[x_0 | x_t = x] of each example's component."""

        def denoised(mixture, x, t, label):
            weights, scores = self._parts(mixture, x, t, label)
            means = mixture._denoised(self.sde, t, scores)
            return jnp.sum(weights[:, None] * means, axis=0)

        return self.mixture._over_batch(denoised, x, t, jnp.asarray(label))

    def _parts(
        self, mixture: GaussianMixture, x: Array, t: Array, label: Array
    ) -> tuple[Array, Array]:
        """Returns the weights of the components, one of them 1 or r_k, and their scores."""
        responsibility, scores = mixture._responsibilities(self.sde, x, t)
        components = len(responsibility)
        own = jax.nn.one_hot(label, components, dtype=responsibility.dtype)
        return jnp.where(label == components, responsibility, own), scores

    @property
    def num_classes(self) -> int:
        """k, the number of components."""
        return len(self.mixture.means)

    def drop_cond(
        self, label: Int[Array | np.ndarray, " batch"], dropped: Array
    ) -> Int[Array, " batch"]:
        """Returns the labels, without those of the `dropped` examples."""
        return jnp.where(dropped, len(self.mixture.means), label)


@pytree_dataclass()
class MixtureClassifier:
    """The exact classifier of noisy points of a mixture (Eq. 1)."""

    sde: SDE
    mixture: GaussianMixture

    def __call__(self, x: Float[Array, " batch d"], t: Time) -> Float[Array, " batch k"]:
        """Returns log p(component | x_t = x), nats."""

        def log_probs(mixture, x, t):
            log_joint, _ = mixture._components(self.sde, x, t)
            return jax.nn.log_softmax(log_joint)

        return self.mixture._over_batch(log_probs, x, t)

    @property
    def num_classes(self) -> int:
        """k, the number of components."""
        return len(self.mixture.means)
