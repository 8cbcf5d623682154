"""The variational bound on the probability of integers, term by term, with its error.

    -log P(k) <= KL(p(x_1 | x) || prior)                          prior                 (Eq. 1)
                 + 1/2 ∫ gamma'(t) E|noise - noise_hat|^2 dt      diffusion             (Eq. 2)
                 + E[-log P(k | x_0)]                             reconstruction        (Eq. 3)

with gamma = -log SNR and x = c(k), the centre of the bin of k; x_0 is the state at t_min.
With T steps, Eq. 2 is T times the mean of expm1(gamma(t_i) - gamma(t_{i-1})) |...|^2 / 2 over
steps, which is larger. Eq. 3 asks the softmax over the bins, not the network. The terms for one
draw are in loss/bound_terms.py. Kingma et al. 2021 (arXiv:2107.00630), Eq. 4, 11 and 14.

The n draws of an example are spread evenly, u_j = mod(u + j / n, 1) with u ~ U[0, 1). Under
`sd.LearntVP` they are uniform in t, so that its schedule is the importance sampling; under other
SDEs they are uniform in log SNR (sde/pure_noise.py).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Real

from scoresde import checks
from scoresde.data.pixel_range import PixelRange, whole_numbers
from scoresde.keys import fold_in_examples
from scoresde.loss import bound_terms
from scoresde.parallel.per_example import per_example
from scoresde.precision import full_precision, precision_of
from scoresde.sde.base import SDE, check_sde
from scoresde.sde.bound_score import bind
from scoresde.sde.learnt_vp import LearntVP
from scoresde.sde.pure_noise import even, evenness, log_snr_of_even
from scoresde.standardization import standardization_of, to_model_units
from scoresde.types import Cond, Key, pytree_dataclass

OF_ELBO = (
    "For real-valued data write sd.variational_bound(...), for other integers elbo(..., levels)."
)


@pytree_dataclass()
class ELBO:
    """nll >= -log P(k) on average over its draws, in nats, one per example: the sum of three
    terms."""

    nll: Float[Array, " batch"]
    stderr: Float[Array, " batch"] | None
    """Standard error of nll over the draws; None with one draw."""
    prior: Float[Array, " batch"]
    """Eq. 1."""
    diffusion: Float[Array, " batch"]
    """Eq. 2."""
    reconstruction: Float[Array, " batch"]
    """Eq. 3."""
    success: Bool[Array, " batch"]
    """Whether nll is a number: infinity is a bound, and NaN is none."""

    def bits_per_dim(self, dim: int) -> Float[Array, " batch"]:
        """Returns nll / (D ln 2), with no offset: it bounds a probability, not a density.

        Raises:
            ValueError: if dim is not a positive whole number.
        """
        checks.count("dim", dim)
        with precision_of(self.nll):
            return self.nll / (dim * math.log(2.0))


def elbo(
    key: Key,
    model: Any,
    x: Real[Array | np.ndarray, " batch *data"],
    levels: int = 256,
    num_steps: int | None = None,
    num_draws: int = 1,
    cond: Cond = None,
    *,
    low: float = -1.0,
    high: float = 1.0,
    t_min: float = 1e-5,
    float64: bool = False,
    batch_size: int | None = None,
    progress: bool = False,
) -> ELBO:
    """Returns an upper bound of -log P(x) in nats for integers x (Eq. 1 to 3), one per example.

    Each draw has one time, one noise there and one at t_min. On average over the data the bound is
    that of the generative model: the reverse SDE, in `num_steps` steps or continuous, and the
    softmax. Draws depend on (key, i) alone.

    Args:
        key: one random key, or one per example.
        model: an `sd.ScoreModel`, or any score that holds its SDE as `.sde`.
        x: whole numbers 0 … levels - 1.
        levels: the number of values that an entry of x can take.
        num_steps: T, the number of steps; None for continuous time.
        num_draws: draws per example; stderr needs two. It takes them to be independent, which is
            rather too large, as they are evenly spread.
        cond: a condition with leaves (batch, ...).
        low: the lower end of the range that the model's data are scaled to.
        high: its upper end.
        t_min: where the bound begins, unless t = 0 is a noise level of the SDE, as it is of
            `sd.LearntVP`, EDM and VE.
        float64: whether to compute in it, with the weights cast.
        batch_size: examples a chunk.
        progress: whether to show a bar.

    Raises:
        ValueError: if x are not whole numbers 0 … levels - 1, a count is below 1, t_min lies
            outside (0, 1), or the SDE ends in pure noise and num_steps is given.
        TypeError: if the model holds no SDE.
    """
    sde = getattr(model, "sde", None)
    if not isinstance(sde, SDE):
        raise TypeError(
            f"model is a {type(model).__name__} without an SDE as .sde: wanted "
            f"sd.ScoreModel(sde, net, parameterization)."
        )
    check_sde(sde)
    pixels = PixelRange(levels, float(low), float(high))
    x = whole_numbers(x, levels, OF_ELBO)
    checks.count("num_draws", num_draws, at_most=checks.MOST_STEPS)
    t_min = 0.0 if sde.noisy_at_zero else checks.fixed("t_min", t_min)
    checks.setting("t_min", t_min, "[0, 1)" if sde.noisy_at_zero else "(0, 1)")
    if num_steps is not None:
        checks.count("num_steps", num_steps, at_most=checks.MOST_STEPS)
        if sde.ends_in_noise:
            raise ValueError(
                f"{sde} ends in pure noise, so the last of num_steps = {num_steps} steps has an "
                f"infinite weight: leave num_steps out."
            )

    return per_example(
        _elbo,
        Settings(pixels, None if num_steps is None else int(num_steps), int(num_draws), t_min),
        key,
        sde,
        model,
        x,
        cond,
        x.shape[0],
        float64=float64,
        batch_size=batch_size,
        progress=progress,
        what="bounds",
        goal="a number",
        advice=checks.OF_BOUNDS,
    )


class Settings(NamedTuple):
    """The static argument of the program."""

    pixels: PixelRange
    num_steps: int | None
    num_draws: int
    t_min: float


@eqx.filter_jit
def _elbo(
    settings: Settings,
    sde: SDE,
    model: Any,
    keys: Array,
    x: Real[Array, " batch *data"],
    cond: Cond,
) -> ELBO:
    """Averages Eq. 2 and 3 over the draws."""
    pixels, num_steps, num_draws, t_min = settings
    score = bind(sde, model, cond)
    position = jnp.asarray(x, jnp.result_type(float))
    centre = to_model_units(model, pixels.centre(position))
    width = _bin_width(model, pixels)
    end = jnp.full(x.shape[0], t_min, position.dtype)
    first = jax.vmap(lambda key: jax.random.uniform(key, dtype=position.dtype))(
        fold_in_examples(keys, 0)
    )

    def draw(_, j):
        u = jnp.mod(first + j.astype(position.dtype) / num_draws, 1.0)
        if num_steps is None:
            t, weight = _time_and_weight(sde, u, t_min)
        else:
            t, weight = _step_and_weight(sde, u, t_min, num_steps)

        error = bound_terms.noise_error(fold_in_examples(keys, 2 * j + 1), sde, score, centre, t)
        reconstruction = bound_terms.reconstruction(
            fold_in_examples(keys, 2 * j + 2), sde, position, width, pixels.levels, end
        )
        return None, (weight * error, reconstruction)

    with full_precision():
        _, (diffusion, reconstruction) = jax.lax.scan(draw, None, jnp.arange(num_draws))

    prior = sde.prior_kl(centre)  # Eq. 1
    stderr = None
    if num_draws > 1:
        spread = jnp.std(diffusion + reconstruction, axis=0, ddof=1)
        stderr = spread / math.sqrt(num_draws)
    diffusion = diffusion.mean(axis=0)
    reconstruction = reconstruction.mean(axis=0)
    nll = prior + diffusion + reconstruction
    return ELBO(nll, stderr, prior, diffusion, reconstruction, ~jnp.isnan(nll))


def _time_and_weight(sde: SDE, u: Array, t_min: float) -> tuple[Array, Array]:
    """Returns the times at u in [0, 1) and the weights that make the mean over u Eq. 2."""
    if isinstance(sde, LearntVP):
        return u, bound_terms.continuous_weight(sde, u)

    highest, lowest = even(sde, sde.log_snr(jnp.asarray([t_min, 1.0], u.dtype)))
    log_snr = log_snr_of_even(sde, highest - (highest - lowest) * u)
    t = jnp.clip(sde.time_from_log_snr(log_snr), t_min, 1.0).astype(u.dtype)
    return t, 0.5 * (highest - lowest) / evenness(sde, log_snr)


def _step_and_weight(sde: SDE, u: Array, t_min: float, num_steps: int) -> tuple[Array, Array]:
    """Returns the end of the step at u in [0, 1), and the weight that makes the mean over u the sum
    over steps of equal length."""
    i = jnp.floor(u * num_steps)
    before = t_min + (1.0 - t_min) * i / num_steps
    t = t_min + (1.0 - t_min) * (i + 1.0) / num_steps
    return t, num_steps * bound_terms.step_weight(sde, before, t)


def _bin_width(model: Any, pixels: PixelRange) -> Any:
    """Returns the width of a bin in the model's units."""
    standardization = standardization_of(model)
    if standardization is None:
        return pixels.bin_width
    return pixels.bin_width / jnp.asarray(standardization.std)
