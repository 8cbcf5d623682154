"""Gaussian mixtures: data whose density and score are known exactly at every t, under any SDE.

    p_0 = sum_k w_k N(m_k, C_k)                                                   (Eq. 1)
    p_t = sum_k w_k N(alpha m_k, S_k),   S_k = alpha^2 C_k + sigma^2 I            (Eq. 2)
    Cov[x_0] = sum_k w_k C_k + sum_k w_k (m_k - E[x_0]) (m_k - E[x_0])^T          (Eq. 3)

    r_k = w_k N(x; alpha m_k, S_k) / p_t(x)                                       (Eq. 4)
    s_k = -S_k^{-1} (x - alpha m_k)                                               (Eq. 5)

    score = sum_k r_k s_k                                                         (Eq. 6)
    E[x_0 | x_t = x] = sum_k r_k (m_k - alpha C_k s_k)                            (Eq. 7)
    trace of the score's Jacobian = sum_k r_k (|s_k|^2 - tr S_k^{-1}) - |score|^2 (Eq. 8)

r_k is the posterior probability of component k, and s_k its score. Where C_k is full, S_k shares
its eigenbasis, so one decomposition serves every t.

The posterior given a linear measurement is in mixture_posterior.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from scoresde import checks
from scoresde.checks import is_concrete
from scoresde.keys import example_keys, split_examples
from scoresde.sde.base import SDE, as_time
from scoresde.sde.mixture_posterior import condition
from scoresde.types import Cond, Key, Time, pytree_dataclass, wider


@pytree_dataclass()
class GaussianMixture:
    """A mixture of Gaussians as data (Eq. 1), with everything below in closed form.

    Results are in the precision of the means, or in that of x if it is wider. If d = k, covs of
    shape (k, k) are read as diagonal.

    Raises:
        ValueError: if shapes do not fit, a weight is not positive, a number is not finite, or a
            covariance is not symmetric positive definite.
    """

    means: Any  # arrays once built; whatever makes one before
    """m_k: (k, d)."""
    covs: Any
    """C_k: (k,) isotropic variances, (k, d) diagonal, or (k, d, d) full."""
    weights: Any = None
    """w_k: (k,), positive, normalised to sum to 1; equal if left out."""

    def __post_init__(self):
        means = jnp.asarray(checks.unmasked(self.means, "means"))
        covs = jnp.asarray(checks.unmasked(self.covs, "covs"))
        weights = jnp.ones(means.shape[:1])
        if self.weights is not None:
            weights = jnp.asarray(checks.unmasked(self.weights, "weights"))

        _check_shapes(means.shape, covs.shape, weights.shape)
        if is_concrete(means, covs, weights):
            _check_values(*(np.asarray(a, np.float64) for a in (means, covs, weights)))

        floating = jnp.issubdtype(means.dtype, jnp.floating)
        dtype = jnp.result_type(float, means.dtype if floating else float)
        object.__setattr__(self, "means", means.astype(dtype))
        object.__setattr__(self, "covs", covs.astype(dtype))
        object.__setattr__(self, "weights", (weights / weights.sum()).astype(dtype))

    # --- The data ---

    @property
    def dim(self) -> int:
        """d, the dimension of the data."""
        return self.means.shape[1]

    def mean(self) -> Float[Array, " d"]:
        """Returns E[x_0]."""
        return self.weights @ self.means

    def cov(self) -> Float[Array, "d d"]:
        """Returns Cov[x_0], within plus between the components (Eq. 3)."""
        centred = self.means - self.mean()[None]

        within = jnp.einsum("k,kij->ij", self.weights, self._full_covs())
        between = jnp.einsum("k,ki,kj->ij", self.weights, centred, centred)
        return within + between

    def sample(self, key: Key, n: int) -> Float[Array, "n d"]:
        """Draws n independent points of the data; draw i depends on (key, i) alone."""
        key_component, key_noise = split_examples(example_keys(key, n))
        component = self._draw_components(key_component)
        noise = jax.vmap(lambda k: jax.random.normal(k, (self.dim,), self.means.dtype))(key_noise)

        if self._is_full:
            factors = jnp.linalg.cholesky(self.covs)[component]
            centred = jnp.einsum("nij,nj->ni", factors, noise)
        else:
            centred = jnp.sqrt(self._diagonals)[component] * noise
        return self.means[component] + centred

    def posterior(self, matrix: Any, y: Any, noise_std: float) -> GaussianMixture:
        """Returns p(x_0 | y) of y = matrix x_0 + noise_std n, n ~ N(0, I): a mixture
        (mixture_posterior.py, Eq. 1).

        matrix: (m, d); y: (m,), measured of one point; noise_std: a positive number. The result has
        as many components as this mixture: one that y excludes keeps a weight of 1e-30. It is
        computed by NumPy in float64, so not inside jit.

        Raises:
            TypeError: if the matrix or y is not of numbers.
            ValueError: if the matrix is not (m, d), y is not (m,), a number is not finite, or
                noise_std is not positive, or so small that rounding hides it.
        """
        means, covs, weights = condition(
            self.means, self._full_covs(), self.weights, matrix, y, noise_std
        )
        return GaussianMixture(means, covs, weights)

    # --- Under an SDE ---

    def log_prob(self, sde: SDE, x: Float[Array, " batch d"], t: Time) -> Float[Array, " batch"]:
        """Returns log p_t(x) in nats (Eq. 2); at t = 0.0 the density of the data themselves.

        Under VE, whose marginal at t = 0 has the noise sigma_min, that is the density without it.

        Raises:
            ValueError: if x is not (batch, d), or t is neither a scalar nor one time per example
                in [0, 1].
        """

        def log_prob(mixture, x, t):
            log_joint, _ = mixture._components(sde, x, t, data=t == 0.0)
            return jax.nn.logsumexp(log_joint)

        return self._over_batch(log_prob, x, t)

    def score(self, sde: SDE) -> MixtureScore:
        """Returns the exact score, a ScoreFn that also offers `denoise` and `divergence`.

        It is the score of the SDE's marginal at every t. Under VE at t = 0, NCSN's lowest level,
        that is the score of the data with noise of sigma(0).
        """
        return MixtureScore(sde, self)

    # --- Components ---

    def _draw_components(self, keys: Array) -> Array:
        log_weights = jnp.log(self.weights)
        return jax.vmap(lambda k: jax.random.categorical(k, log_weights))(keys)

    def _over_batch(self, function: Callable[..., Array], x: Array, t: Time, *rows: Array) -> Array:
        """Applies a function of (mixture, x, t, *rows), for one point x (d,), to a batch.

        A batch of one, which solvers make under vmap, is passed without its axis: on a CPU, XLA's
        sums take twice as long with an axis of one.
        """
        _check_points(x, t, self.dim)

        dtype = wider(x.dtype, self.means.dtype)
        mixture = jax.tree.map(lambda a: a.astype(dtype), self)
        x = x.astype(dtype)
        t = jnp.broadcast_to(as_time(t), x.shape[:1]).astype(dtype)
        if len(x) == 1:
            return function(mixture, x[0], t[0], *(row[0] for row in rows))[None]
        return jax.vmap(partial(function, mixture))(x, t, *rows)

    def _components(
        self, sde: SDE, x: Array, t: Array, data: Array | bool = False
    ) -> tuple[Array, Array]:
        """Returns log w_k N(x; alpha m_k, S_k), (k,), and s_k (Eq. 5), (k, d).

        x: (d,); t: one time; `data` says whether to leave out the noise of S_k.
        """
        variance = jnp.where(data, 0.0, sde.variance(t))
        alpha = sde.alpha(t)
        centred = x[None] - alpha * self.means  # (k, d)

        if self._is_full:
            values, basis = jnp.linalg.eigh(self.covs)
            spectrum = alpha**2 * values + variance
            rotated = jnp.einsum("kij,ki->kj", basis, centred, precision="highest")
            score = -jnp.einsum("kij,kj->ki", basis, rotated / spectrum, precision="highest")
        else:
            spectrum = alpha**2 * self._diagonals + variance  # (k, 1 or d)
            spectrum = jnp.broadcast_to(spectrum, centred.shape)
            score = -centred / spectrum

        exponent = 0.5 * jnp.sum(score * centred - jnp.log(spectrum), axis=-1)
        log_normal = exponent - 0.5 * self.dim * math.log(2.0 * math.pi)
        return jnp.log(self.weights) + log_normal, score

    def _responsibilities(self, sde: SDE, x: Array, t: Array) -> tuple[Array, Array]:
        """Returns r_k (Eq. 4), (k,), and s_k (Eq. 5), (k, d)."""
        log_joint, scores = self._components(sde, x, t)
        return jax.nn.softmax(log_joint), scores

    def _denoised(self, sde: SDE, t: Array, scores: Array) -> Array:
        """Returns E[x_0 | x_t] of each component from its score (Eq. 7), (k, d)."""
        if self._is_full:
            gain = jnp.einsum("kij,kj->ki", self.covs, scores, precision="highest")
        else:
            gain = self._diagonals * scores
        return self.means - sde.alpha(t) * gain

    def _inverse_trace(self, sde: SDE, t: Array) -> Array:
        """Returns tr S_k^{-1}, (k,)."""
        values = jnp.linalg.eigvalsh(self.covs) if self._is_full else self._diagonals
        spectrum = sde.alpha(t) ** 2 * values + sde.variance(t)
        return jnp.sum(jnp.broadcast_to(1.0 / spectrum, (len(values), self.dim)), axis=-1)

    @property
    def _is_full(self) -> bool:
        return self.covs.ndim == 3

    def _full_covs(self) -> Array:
        """The covariances of all components, (k, d, d)."""
        if self._is_full:
            return self.covs
        return jax.vmap(jnp.diag)(jnp.broadcast_to(self._diagonals, self.means.shape))

    @property
    def _diagonals(self) -> Array:
        """The variances of isotropic or diagonal components, (k, 1 or d)."""
        return self.covs.reshape(len(self.covs), -1)


@pytree_dataclass()
class MixtureScore:
    """The exact score of a mixture under an SDE: a ScoreFn with `denoise` and `divergence`.

    x: (batch, d); t: a scalar, or (batch,). `cond` is ignored.

    Raises:
        ValueError: when called, if x is not (batch, d), or t is neither a scalar nor one time per
            example in [0, 1].
    """

    sde: SDE
    mixture: GaussianMixture

    def __call__(
        self, x: Float[Array, " batch d"], t: Time, cond: Cond = None
    ) -> Float[Array, " batch d"]:
        """Returns the score (Eq. 6); like x."""

        def score(mixture, x, t):
            responsibility, scores = mixture._responsibilities(self.sde, x, t)
            return jnp.sum(responsibility[:, None] * scores, axis=0)

        return self.mixture._over_batch(score, x, t)

    def denoise(
        self, x: Float[Array, " batch d"], t: Time, cond: Cond = None
    ) -> Float[Array, " batch d"]:
        """Returns E[x_0 | x_t = x], by Gaussian conditioning (Eq. 7); like x."""

        def denoised(mixture, x, t):
            responsibility, scores = mixture._responsibilities(self.sde, x, t)
            means = mixture._denoised(self.sde, t, scores)
            return jnp.sum(responsibility[:, None] * means, axis=0)

        return self.mixture._over_batch(denoised, x, t)

    def data_and_noise(
        self, x: Float[Array, " batch d"], t: Time, cond: Cond = None
    ) -> tuple[Float[Array, " batch d"], Float[Array, " batch d"]]:
        """Returns E[x_0 | x_t = x] and E[noise | x_t = x]; like x."""
        sigma = self.sde.sigma(jnp.broadcast_to(as_time(t), x.shape[:1]))
        return self.denoise(x, t), -sigma[:, None] * self(x, t)

    def divergence(
        self, x: Float[Array, " batch d"], t: Time, cond: Cond = None
    ) -> Float[Array, " batch"]:
        """Returns the trace of the score's Jacobian (Eq. 8), one per example."""

        def divergence(mixture, x, t):
            responsibility, scores = mixture._responsibilities(self.sde, x, t)
            trace = mixture._inverse_trace(self.sde, t)
            squared = jnp.sum(scores**2, axis=-1)

            score = jnp.sum(responsibility[:, None] * scores, axis=0)
            mean_of_parts = jnp.sum(responsibility * (squared - trace))
            return mean_of_parts - jnp.sum(score**2)

        return self.mixture._over_batch(divergence, x, t)


def ring(components: int = 5, radius: float = 1.5) -> GaussianMixture:
    """Returns well-separated Gaussians on a ring in the plane, without symmetry.

    Component k of K has standard deviation 0.2 … 0.4 and weight 1/2 … 3/2 of 1/K, rising with k.
    """
    angle = 2.0 * np.pi * np.arange(components) / components
    means = radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    variances = np.linspace(0.2, 0.4, components) ** 2
    weights = np.linspace(0.5, 1.5, components)
    return GaussianMixture(means, variances, weights)


# --- Checks ---


def _check_shapes(means: tuple[int, ...], covs: tuple[int, ...], weights: tuple[int, ...]) -> None:
    if len(means) != 2 or 0 in means:
        raise ValueError(
            f"means has shape {means}: wanted (components, dimensions), at least one of each. For "
            f"data in one dimension write means[:, None]."
        )

    k, d = means
    if covs not in ((k,), (k, d), (k, d, d)):
        raise ValueError(
            f"covs has shape {covs} for means {means}: wanted ({k},) isotropic variances, "
            f"({k}, {d}) diagonal or ({k}, {d}, {d}) full covariances."
        )
    if weights != (k,):
        raise ValueError(
            f"weights has shape {weights}: wanted {k} positive numbers, one per component."
        )


def _check_values(means: np.ndarray, covs: np.ndarray, weights: np.ndarray) -> None:
    if not np.all(np.isfinite(weights) & (weights > 0)):
        raise ValueError(
            f"weights is {weights}: wanted {len(means)} positive numbers, one per component."
        )
    for name, values in (("means", means), ("covs", covs)):
        if not np.all(np.isfinite(values)):
            raise ValueError(f"{name} holds NaN or infinity: wanted finite numbers.")

    full = covs.ndim == 3
    if full and not np.allclose(covs, np.swapaxes(covs, 1, 2), rtol=1e-5, atol=1e-7):
        raise ValueError(
            "covs holds a matrix that is not symmetric: if rounding is the cause, write "
            "0.5 * (covs + np.swapaxes(covs, 1, 2))."
        )
    smallest = np.linalg.eigvalsh(covs).min() if full else covs.min()
    if smallest <= 0.0:
        raise ValueError(
            f"a covariance has the eigenvalue {smallest:g}: wanted positive variances, std**2."
        )


def _check_points(x: Array, t: Time, dim: int) -> None:
    checks.batch_at_times(x, t)
    if x.ndim != 2 or x.shape[1] != dim:
        raise ValueError(
            f"x has shape {x.shape}, but the mixture lives in {dim} dimensions: wanted "
            f"(batch, {dim})."
        )
