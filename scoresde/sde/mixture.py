"""Gaussian mixtures: data whose density, score, denoiser and divergence are known exactly at every t, under any SDE."""

from __future__ import annotations

import math
from collections.abc import Callable
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
from scoresde.types import Cond, Key, Time, pytree_dataclass


@pytree_dataclass()
class GaussianMixture:
    """p_0 = sum_k w_k N(m_k, C_k). A linear SDE keeps it a mixture:

        p_t = sum_k w_k N(alpha m_k, alpha^2 C_k + sigma^2 I)

    means: (k, d); covs: (k,) isotropic variances, (k, d) diagonal, or (k, d, d) full; weights: (k,), positive, any
    sum (normalised), equal if left out. For a (k, k) array with d = k, diagonal is meant. Everything below is in
    closed form, in the precision of the arrays.

    Raises:
        ValueError: if shapes do not fit, a weight is negative, or a covariance is not symmetric positive definite.
    """

    means: Any  # arrays after building; whatever makes one before
    covs: Any
    weights: Any = None

    def __post_init__(self):
        means, covs = jnp.asarray(self.means), jnp.asarray(self.covs)
        dtype = jnp.result_type(
            float, means.dtype if jnp.issubdtype(means.dtype, jnp.floating) else float
        )
        weights = jnp.ones(means.shape[:1]) if self.weights is None else jnp.asarray(self.weights)
        _check_shapes(means.shape, covs.shape, weights.shape)
        if is_concrete(means, covs, weights):
            _check_values(*(np.asarray(a, np.float64) for a in (means, covs, weights)))
        for name, value in (("means", means), ("covs", covs), ("weights", weights / weights.sum())):
            object.__setattr__(self, name, value.astype(dtype))

    @property
    def dim(self) -> int:
        """d, the dimension of the data."""
        return self.means.shape[1]

    def mean(self) -> Float[Array, " d"]:
        """E[x_0]."""
        return self.weights @ self.means

    def cov(self) -> Float[Array, "d d"]:
        """Cov[x_0]: within plus between the components."""
        eye = jnp.eye(self.dim, dtype=self.means.dtype)
        match self.covs.ndim:
            case 1:
                full = self.covs[:, None, None] * eye
            case 2:
                full = self.covs[:, :, None] * eye
            case _:
                full = self.covs
        centred = self.means - self.mean()
        return jnp.einsum("k,kij->ij", self.weights, full) + jnp.einsum(
            "k,ki,kj->ij", self.weights, centred, centred
        )

    def sample(self, key: Key, n: int) -> Float[Array, "n d"]:
        """n independent draws; draw i depends on (key, i) alone."""
        key_component, key_noise = split_examples(example_keys(key, n))
        which = self._draw_components(key_component)
        noise = jax.vmap(lambda k: jax.random.normal(k, (self.dim,), self.means.dtype))(key_noise)
        if self.covs.ndim == 3:
            spread = jnp.einsum("nij,nj->ni", jnp.linalg.cholesky(self.covs)[which], noise)
        else:
            spread = jnp.sqrt(self.covs).reshape(len(self.covs), -1)[which] * noise
        return self.means[which] + spread

    def log_prob(self, sde: SDE, x: Float[Array, " batch d"], t: Time) -> Float[Array, " batch"]:
        """log p_t(x) in nats; t = 0.0 gives the data density itself, whatever sigma(0) is.

        Raises:
            ValueError: if x is not (batch, d), or t is neither a scalar nor one time per example in [0, 1].
        """

        def log_prob(
            x, t
        ):  # t = 0 means the data: VE's marginal there has sigma_min, which the data do not
            return jax.nn.logsumexp(self._components(sde, x, t, data=t == 0.0)[0], axis=-1)

        return self._over_batch(log_prob, x, t)

    def score(self, sde: SDE) -> MixtureScore:
        """The exact score, a ScoreFn: score(x, t), with `denoise`, `divergence` besides. Always of the SDE's marginal:
        under VE at t = 0, NCSN's lowest level, of the data with noise of sigma(0)."""
        return MixtureScore(sde, self)

    def _draw_components(self, keys: Array) -> Array:
        return jax.vmap(lambda k: jax.random.categorical(k, jnp.log(self.weights)))(keys)

    def _over_batch(self, function: Callable[[Array, Array], Array], x: Array, t: Time) -> Array:
        """function of points (..., d) and times (...), over a batch.

        A batch of one, as solvers have it under vmap, loses its axis meanwhile: XLA's sums on a CPU take twice as long
        with an axis of one.
        """
        _check_points(x, t, self.dim)
        t = jnp.broadcast_to(as_time(t), x.shape[:1])
        return function(x[0], t[0])[None] if len(x) == 1 else function(x, t)

    def _components(
        self, sde: SDE, x: Array, t: Array, data: Array | bool = False
    ) -> tuple[Array, Array]:
        """For each x (..., d) and component: log w_k N(x; ...) and the component's score -C_t^-1 (x - alpha m_k)."""
        t = t.astype(x.dtype)
        variance = jnp.where(data, 0.0, sde.variance(t))[..., None, None]
        alpha = sde.alpha(t)[..., None, None]
        centred = x[..., None, :] - alpha * self.means  # (..., k, d)
        if self.covs.ndim < 3:
            spectrum = (
                alpha**2 * self.covs.reshape(len(self.covs), -1) + variance
            )  # (..., k, 1 or d)
            spectrum = jnp.broadcast_to(spectrum, centred.shape)
            score = -centred / spectrum
        else:
            # One eigenbasis per component serves every t: alpha^2 C + sigma^2 I shares it.
            values, basis = jnp.linalg.eigh(self.covs)
            spectrum = alpha**2 * values + variance
            rotated = jnp.einsum("kij,...ki->...kj", basis, centred, precision="highest")
            score = -jnp.einsum("kij,...kj->...ki", basis, rotated / spectrum, precision="highest")
        log_normal = 0.5 * jnp.sum(
            score * centred - jnp.log(spectrum), axis=-1
        ) - 0.5 * self.dim * math.log(2.0 * math.pi)
        return jnp.log(self.weights) + log_normal, score

    def _inverse_trace(self, sde: SDE, x: Array, t: Array) -> Array:
        """trace of C_t^-1 per component, (..., k)."""
        t = t.astype(x.dtype)
        values = (
            jnp.linalg.eigvalsh(self.covs)
            if self.covs.ndim == 3
            else self.covs.reshape(len(self.covs), -1)
        )
        spectrum = sde.alpha(t)[..., None, None] ** 2 * values + sde.variance(t)[..., None, None]
        return jnp.sum(jnp.broadcast_to(1.0 / spectrum, (*t.shape, len(values), self.dim)), axis=-1)


@pytree_dataclass()
class MixtureScore:
    """The exact score of a Gaussian mixture under an SDE: a ScoreFn that also offers `denoise` and `divergence`."""

    sde: SDE
    mixture: GaussianMixture

    def __call__(
        self, x: Float[Array, " batch d"], t: Time, cond: Cond = None
    ) -> Float[Array, " batch d"]:
        """sum_k r_k(x) s_k(x), r_k the posterior probability of component k; `cond` is ignored."""

        def score(x, t):
            responsibility, scores = self._components(x, t)
            return jnp.sum(responsibility[..., None] * scores, axis=-2)

        return self.mixture._over_batch(score, x, t)

    def denoise(
        self, x: Float[Array, " batch d"], t: Time, cond: Cond = None
    ) -> Float[Array, " batch d"]:
        """E[x_0 | x_t] = sum_k r_k (m_k + alpha C_k C_t^-1 (x - alpha m_k)), by Gaussian conditioning."""
        means, covs = self.mixture.means, self.mixture.covs

        def denoised(x, t):
            responsibility, scores = self._components(x, t)
            if covs.ndim == 3:
                gain = -jnp.einsum("kij,...kj->...ki", covs, scores, precision="highest")
            else:
                gain = -covs.reshape(len(covs), -1) * scores
            alpha = self.sde.alpha(t.astype(x.dtype))[..., None, None]
            return jnp.sum(responsibility[..., None] * (means + alpha * gain), axis=-2)

        return self.mixture._over_batch(denoised, x, t)

    def divergence(
        self, x: Float[Array, " batch d"], t: Time, cond: Cond = None
    ) -> Float[Array, " batch"]:
        """trace of the score's Jacobian: sum_k r_k (|s_k|^2 - tr C_t^-1) - |s|^2."""

        def divergence(x, t):
            responsibility, scores = self._components(x, t)
            trace = self.mixture._inverse_trace(self.sde, x, t)
            mean = jnp.sum(responsibility[..., None] * scores, axis=-2)
            second = jnp.sum(responsibility * (jnp.sum(scores**2, axis=-1) - trace), axis=-1)
            return second - jnp.sum(mean**2, axis=-1)

        return self.mixture._over_batch(divergence, x, t)

    def _components(self, x: Array, t: Array) -> tuple[Array, Array]:
        """r_k(x) and s_k(x)."""
        log_joint, scores = self.mixture._components(self.sde, x, t)
        return jax.nn.softmax(log_joint, axis=-1), scores


def _check_shapes(means: tuple[int, ...], covs: tuple[int, ...], weights: tuple[int, ...]) -> None:
    if len(means) != 2 or 0 in means:
        raise ValueError(
            f"means has shape {means}: wanted (components, dimensions), at least one of each."
        )
    k, d = means
    if covs not in ((k,), (k, d), (k, d, d)):
        raise ValueError(
            f"covs has shape {covs} for means {means}: wanted ({k},) isotropic variances, ({k}, {d}) "
            f"diagonal or ({k}, {d}, {d}) full covariances."
        )
    if weights != (k,):
        raise ValueError(
            f"weights has shape {weights}: wanted {k} positive numbers, one per component."
        )


def _check_values(means: np.ndarray, covs: np.ndarray, weights: np.ndarray) -> None:
    if not np.all(np.isfinite(weights) & (weights > 0)):
        raise ValueError(
            f"weights = {weights}: wanted {len(means)} positive numbers, one per component."
        )
    if not (np.all(np.isfinite(means)) and np.all(np.isfinite(covs))):
        raise ValueError("means or covs hold NaN or infinity.")
    if covs.ndim == 3 and not np.allclose(covs, np.swapaxes(covs, 1, 2), rtol=1e-5, atol=1e-7):
        raise ValueError(
            "covs are not symmetric: write 0.5 * (covs + np.swapaxes(covs, 1, 2)) if rounding did it."
        )
    smallest = np.linalg.eigvalsh(covs).min() if covs.ndim == 3 else covs.min()
    if smallest <= 0.0:
        raise ValueError(
            f"a covariance has the eigenvalue {smallest:g}: wanted positive variances (std squared)."
        )


def _check_points(x: Array, t: Time, dim: int) -> None:
    checks.batch_at_times(x, t)
    if x.ndim != 2 or x.shape[1] != dim:
        raise ValueError(
            f"x has shape {x.shape}, the mixture lives in {dim} dimensions: wanted (batch, {dim})."
        )


def ring(components: int = 5, radius: float = 1.5) -> GaussianMixture:
    """Gaussians of unequal weight and width on a ring in the plane: well separated, no symmetry.

    Component k of K has standard deviation 0.2 … 0.4 and weight 1/2 … 3/2 of 1/K, rising with k.
    """
    angle = 2.0 * np.pi * np.arange(components) / components
    means = radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return GaussianMixture(
        means, np.linspace(0.2, 0.4, components) ** 2, np.linspace(0.5, 1.5, components)
    )
