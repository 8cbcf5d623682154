"""Posterior scores: the score of p(x_t | y), y = A(x_0) + noise_std n, from the score of p(x_t).

    ∇ log p(x_t | y) = ∇ log p(x_t) + ∇ log p(y | x_t)                               (Eq. 1)
    p(y | x_t) ≈ N(y; A(x^), S),   x^ = E[x_0 | x_t]                                 (Eq. 2)
    ∇ log p(y | x_t) ≈ (∂x^/∂x_t)ᵀ Aᵀ S⁻¹ (y - A(x^)) =: G                           (Eq. 3)
    E[x_0 | x_t, y] ≈ x^ + (σ² / α) G                                                (Eq. 4)

S is the covariance of y given x_t, noise_std² I + A Cov[x_0 | x_t] Aᵀ, and the methods differ in
what they take for Cov[x_0 | x_t]:

    DPS      0; Chung et al. 2023 (arXiv:2209.14687), Eq. 16                         (Eq. 5)
    PiGDM    r² I, r² = σ² s² / (α² s² + σ²), s the standard deviation of the data;
             Song et al. 2023 (ICLR), Eq. 7 and App. A.3                             (Eq. 6)
    MMPS     V = (σ² / α) ∂x^/∂x_t, its exact value, without ever forming it;
             Rozet et al. 2024 (arXiv:2405.13712), Eq. 18                            (Eq. 7)

G is the exact derivative where S does not depend on x_t, so MMPS is exact on Gaussian data, and
PiGDM where Cov[x_0 | x_t] is r² I.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from scoresde import checks
from scoresde.inverse.conjugate_gradients import conjugate_gradients
from scoresde.inverse.linear_operator import LinearOperator, check_operator
from scoresde.inverse.measurement import Measurement, held_measurement, held_noise_std
from scoresde.parallel.held import rows_for
from scoresde.sde.base import SDE, check_sde, times_of
from scoresde.sde.bound_score import bind
from scoresde.sde.pure_noise import denoises_noise
from scoresde.standardization import in_model_units, standardization_of
from scoresde.types import (
    Cond,
    Scalar,
    ScoreFn,
    ShownShort,
    Time,
    pytree_dataclass,
    right_pad,
    sum_data,
    wider,
)


class Parts(NamedTuple):
    """One evaluation of a posterior score: what it consists of."""

    x0: Array
    """E[x_0 | x_t], without y."""
    noise: Array
    """E[noise | x_t], without y."""
    gradient: Array
    """G (Eq. 3)."""
    log_likelihood: Array
    """-½ rᵀ S⁻¹ r, the logarithm of Eq. 2 up to what depends on t alone, (batch,)."""


class PosteriorScore(ShownShort):
    """What the posterior scores share: everything but S (Eq. 1 to 4).

    A new method is a pytree dataclass with the fields score, sde, operator, y and noise_std that
    defines `solve`, S⁻¹ times a residual.
    """

    score: ScoreFn
    sde: SDE
    operator: LinearOperator
    y: Any
    noise_std: Any

    needs_linear = True
    """Whether the method wants a linear operator."""
    twists = True
    """Whether S does not depend on x_t, so that Eq. 2 has a known weight (twisted_smc.py)."""

    def __post_init__(self):
        check_sde(self.sde)
        check_operator(self.operator)
        object.__setattr__(self, "y", held_measurement(self.y))
        object.__setattr__(self, "noise_std", held_noise_std(self.noise_std))

    def solve(self, r: Array, noise: Array, t: Array, around: Around) -> Array:
        """Returns S⁻¹ r; noise: noise_std² of each example, t: (batch,)."""
        raise NotImplementedError(f"{type(self).__name__} must define solve, S⁻¹ r.")

    # --- What a ScoreFn offers ---

    def __call__(
        self, x: Float[Array, " batch *data"], t: Time, cond: Cond = None
    ) -> Float[Array, " batch *data"]:
        """Returns the score of p(x_t | y) (Eq. 1).

        Raises:
            ValueError: if y is not of the shape of A(x), there is another number of measurements
                than of examples, or the operator is not linear where it must be.
        """
        t = times_of(t, x)
        parts = self.parts(x, t, cond)
        score = -parts.noise / right_pad(self.sde.sigma(t), x)
        return (score + parts.gradient).astype(x.dtype)

    def denoise(
        self, x: Float[Array, " batch *data"], t: Time, cond: Cond = None
    ) -> Float[Array, " batch *data"]:
        """Returns E[x_0 | x_t, y] (Eq. 4)."""
        return self.data_and_noise(x, t, cond)[0]

    def data_and_noise(
        self, x: Float[Array, " batch *data"], t: Time, cond: Cond = None
    ) -> tuple[Float[Array, " batch *data"], Float[Array, " batch *data"]]:
        """Returns E[x_0 | x_t, y] (Eq. 4), and the noise that belongs to it."""
        t = times_of(t, x)
        parts = self.parts(x, t, cond)
        sigma = right_pad(self.sde.sigma(t), x)
        alpha = right_pad(self.sde.alpha(t), x)
        x0 = parts.x0 + sigma**2 / alpha * parts.gradient
        noise = parts.noise - sigma * parts.gradient
        return x0.astype(x.dtype), noise.astype(x.dtype)

    def parts(
        self, x: Float[Array, " batch *data"], t: Float[Array, " batch"], cond: Cond = None
    ) -> Parts:
        """Returns the parts of the score at x, by one evaluation of the score and its backward
        pass."""
        dtype = wider(x.dtype, jnp.float32)
        score = bind(self.sde, in_model_units(self.score), self._passed(cond))

        def evaluate(x: Array) -> tuple[Array, Array]:
            x0, noise = score.data_and_noise(x, t)
            return x0.astype(dtype), noise.astype(dtype)

        x0, to_x, noise = jax.vjp(evaluate, x, has_aux=True)
        if self.needs_linear:
            self.operator.check_linear(x0)
        else:
            self.operator.check_differentiable(x0)
        measurement = Measurement(self.operator, self.y, standardization_of(self.score))
        measured, to_x0 = jax.vjp(measurement, x0)
        r = measurement.residual(measured)

        noise_std = rows_for(self.noise_std, len(x), "noise_std").astype(dtype)
        around = Around(measurement, x0, lambda v: to_x(*to_x0(v))[0].astype(dtype))
        u = self.solve(r, noise_std**2, t.astype(dtype), around)
        return Parts(x0, noise, around.to_x(u), -0.5 * sum_data(r * u))

    def _passed(self, cond: Cond) -> Cond:
        return cond if getattr(self.score, "takes_cond", True) else None

    def check_cond(self, cond: Cond, batch: int) -> None:
        """Refuses measurements, masks and noise of another batch, and a condition that the score
        does not take.

        Raises:
            ValueError: if one does not fit.
        """
        rows_for(self.y, batch, "y")
        rows_for(self.noise_std, batch, "noise_std")
        self.operator.check_rows(batch)
        check = getattr(self.score, "check_cond", None)
        if check is not None:
            check(cond, batch)

    @property
    def denoises_noise(self) -> bool:
        """Whether the denoiser is finite at t = 1: not where alpha is 0 (Eq. 4)."""
        return denoises_noise(self.score) and not self.sde.ends_in_noise

    @property
    def standardization(self) -> Any:
        """The units of the score's data, in which y is measured."""
        return standardization_of(self.score)

    def __getattr__(self, name: str) -> Any:
        """Offers what guidance of this score asks for: its conditions, and how to drop them."""
        if name in ("drop_cond", "conditions", "null_is_trained", "takes_cond"):
            return getattr(self.score, name)
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")


class Around(NamedTuple):
    """What `solve` may use beside the residual."""

    measurement: Measurement
    x0: Array
    to_x: Callable[[Array], Array]
    """v ↦ (∂x^/∂x_t)ᵀ Aᵀ v."""


@pytree_dataclass()
class DPS(PosteriorScore):
    """Diffusion posterior sampling (Eq. 5): x_0 is taken to be known given x_t, which pulls too
    hard towards y at large t, and leaves samples that are too much alike.

    The paper's own rule, whose step does not depend on noise_std, is `sd.inverse.GradientSteps`.
    One evaluation and its backward pass. The operator may be any function with a derivative.

    Raises:
        TypeError: if sde is not an SDE, the operator is not one, or y is not of floating-point
            numbers.
        ValueError: if noise_std is not positive, scale is not finite, or y has no batch axis.
    """

    score: ScoreFn
    """The score of p(x_t): a ScoreModel, or any."""
    sde: SDE
    """The SDE."""
    operator: LinearOperator
    """A."""
    y: Any
    """The measurement: (1, *measured) for all examples, or one per example."""
    noise_std: Any
    """Standard deviation of the noise in y: one number, or one per example; in the units of y."""
    scale: Scalar = 1.0
    """A factor on the gradient."""

    needs_linear = False

    def __post_init__(self):
        super().__post_init__()
        held_noise_std(self.noise_std, positive=True)
        checks.setting("scale", self.scale, "(-inf, inf)")
        checks.one_number("scale", self.scale)
        object.__setattr__(self, "scale", jnp.asarray(self.scale, jnp.float32))

    def solve(self, r: Array, noise: Array, t: Array, around: Around) -> Array:
        """Returns scale r / noise_std²."""
        return jnp.asarray(self.scale, r.dtype) * r / right_pad(noise, r)


@pytree_dataclass()
class PiGDM(PosteriorScore):
    """Pseudo-inverse guidance (Eq. 6): every entry of x_0 is taken to be known up to the same
    independent error.

    One evaluation and its backward pass, and a solve with A Aᵀ.

    Raises:
        TypeError: if sde is not an SDE, the operator is not one, or y is not of floating-point
            numbers.
        ValueError: if noise_std is negative, data_std not positive, or y has no batch axis.
    """

    score: ScoreFn
    """The score of p(x_t): a ScoreModel, or any."""
    sde: SDE
    """The SDE."""
    operator: LinearOperator
    """A, linear."""
    y: Any
    """The measurement: (1, *measured) for all examples, or one per example."""
    noise_std: Any
    """Standard deviation of the noise in y: one number, or one per example; in the units of y."""
    data_std: Scalar = 1.0
    """s, the standard deviation of the data in the model's units (the paper's: 1; images in [-1,
    1] have about 0.5)."""

    def __post_init__(self):
        super().__post_init__()
        checks.setting("data_std", self.data_std, "(0, inf)")
        checks.one_number("data_std", self.data_std)
        object.__setattr__(self, "data_std", jnp.asarray(self.data_std, jnp.float32))

    def solve(self, r: Array, noise: Array, t: Array, around: Around) -> Array:
        """Returns (r² A Aᵀ + noise_std² I)⁻¹ r."""
        return isotropic_solve(self.sde, self.data_std, around, r, noise, t)


def isotropic_solve(
    sde: SDE, data_std: Scalar, around: Around, r: Array, noise: Array, t: Array
) -> Array:
    """Returns S⁻¹ r with Cov[x_0 | x_t] = r² I (Eq. 6)."""
    s2 = jnp.asarray(data_std, r.dtype) ** 2
    variance = sde.variance(t)
    scale = variance * s2 / (sde.alpha(t) ** 2 * s2 + variance)
    return around.measurement.solve(r, scale, noise, around.x0.shape[1:])


@pytree_dataclass("iterations", "tolerance", "precondition")
class MMPS(PosteriorScore):
    """Moment-matching posterior sampling (Eq. 7): the covariance of x_0 given x_t is that of the
    score itself, by conjugate gradients. Exact on Gaussian data with a converged solve.

    One evaluation, and one backward pass for every iteration and one more.

    Raises:
        TypeError: if sde is not an SDE, the operator is not one, or y is not of floating-point
            numbers.
        ValueError: if noise_std is negative, iterations < 1, tolerance is negative, or y has no
            batch axis.
    """

    score: ScoreFn
    """The score of p(x_t): a ScoreModel, or any."""
    sde: SDE
    """The SDE."""
    operator: LinearOperator
    """A, linear."""
    y: Any
    """The measurement: (1, *measured) for all examples, or one per example."""
    noise_std: Any
    """Standard deviation of the noise in y: one number, or one per example; in the units of y."""
    iterations: int = 5
    """Most conjugate gradients of one evaluation, a backward pass each."""
    tolerance: float = 1e-4
    """An example has converged where |S u - r| is at most this times |r|."""
    precondition: bool = False
    """Whether to begin from PiGDM's solve with data_std = 1: fewer iterations where A Aᵀ is far
    from a multiple of I."""

    twists = False

    def __post_init__(self):
        super().__post_init__()
        checks.count("iterations", self.iterations)
        checks.setting("tolerance", self.tolerance, "[0, 1)")

    def solve(self, r: Array, noise: Array, t: Array, around: Around) -> Array:
        """Returns (noise_std² I + A V Aᵀ)⁻¹ r by conjugate gradients."""
        factor = right_pad(self.sde.variance(t) / self.sde.alpha(t), around.x0)

        def product(v: Array) -> Array:
            covariance = factor * around.to_x(v)  # V Aᵀ v, V symmetric
            _, measured = jax.jvp(around.measurement, (around.x0,), (covariance,))
            return right_pad(noise, v) * v + measured

        def near(v: Array) -> Array:
            return isotropic_solve(self.sde, 1.0, around, v, noise, t)

        preconditioner = near if self.precondition else None
        return conjugate_gradients(
            product, r, self.iterations, self.tolerance, preconditioner, least=noise
        )
