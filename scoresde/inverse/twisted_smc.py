"""Twisted sequential Monte Carlo: weighted particles of p(x_0 | y), exact as their number grows.

The chain from t to s < t without y, and with the denoiser of a posterior score (posterior.py):

    p(x_s | x_t)    = N(a x_t + b E[x_0 | x_t], c² I)                                (Eq. 1)
    q(x_s | x_t, y) = N(a x_t + b E[x_0 | x_t, y], c² I)
    a = σ_s / σ_t e^{-h},  b = α_s (1 - e^{-2h}),  c² = σ_s² (1 - e^{-2h})
    h = log(α_s / σ_s) - log(α_t / σ_t)

    w ← w · p(x_s | x_t) / q(x_s | x_t, y) · p~(y | x_s) / p~(y | x_t)               (Eq. 2)
    effective sample size = 1 / Σ W²,   W = w / Σ w                                  (Eq. 3)

p~(y | x_t) is the Gaussian of the posterior score. Whatever it is, particles drawn from q with the
weights w have the law p(x) p~(y | x_{t_min}); they are drawn again by their weights once the
effective sample size is below a share of their number. Wu et al. 2023 (arXiv:2306.17775), Alg. 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

from scoresde import checks
from scoresde.checks import is_concrete
from scoresde.inverse.posterior import Parts, PosteriorScore
from scoresde.keys import example_keys, fold_in_examples, normal_like, split_examples
from scoresde.parallel.held import moved_back, repeat_held
from scoresde.parallel.per_example import per_example
from scoresde.precision import full_precision
from scoresde.sampling.base import check_times
from scoresde.sampling.on_grid import grid_times, on_grid
from scoresde.sampling.time_grid import AnyGrid, UniformLogSNR
from scoresde.sde.base import SDE, plain_settings
from scoresde.sde.pure_noise import START
from scoresde.standardization import to_data_units
from scoresde.types import Cond, Key, pytree_dataclass, right_pad, sum_data


@pytree_dataclass()
class Particles:
    """What `twisted_smc` returns: weighted draws of p(x_0 | y) of each observation."""

    x: Float[Array, " batch particles *data"]
    """In the data's units."""
    weights: Float[Array, "batch particles"]
    """Their sum over the particles is 1."""
    ess: Float[Array, "batch points"]
    """Effective sample size at every point of the grid, before drawing again; the last is that of
    `weights`. Ancestors that are lost where it is small do not come back: look at its minimum."""
    success: Bool[Array, " batch"]

    def mean(self) -> Float[Array, " batch *data"]:
        """Returns the estimate of E[x_0 | y]."""
        return jnp.sum(self._weights() * self.x, axis=1)

    def std(self) -> Float[Array, " batch *data"]:
        """Returns the estimate of the standard deviation of x_0 given y, entry by entry."""
        centred = self.x - self.mean()[:, None]
        return jnp.sqrt(jnp.sum(self._weights() * centred**2, axis=1))

    def sample(self, key: Key, num: int) -> Float[Array, " batch num *data"]:
        """Draws `num` particles of each observation by their weights, with replacement; that of
        observation i depends on (key, i) alone."""
        checks.count("num", num)
        keys = example_keys(key, len(self.x))
        index = jax.vmap(lambda key, w: jax.random.choice(key, len(w), (num,), p=w))
        return jax.vmap(lambda x, i: x[i])(self.x, index(keys, self.weights))

    def _weights(self) -> Array:
        return self.weights.reshape(self.weights.shape + (1,) * (self.x.ndim - 2))


class Settings(NamedTuple):
    """The static argument of the compiled program."""

    data_shape: tuple[int, ...]
    num_particles: int
    num_steps: int
    t_min: float
    grid: AnyGrid
    threshold: float


def twisted_smc(
    key: Key,
    posterior: PosteriorScore,
    shape: Sequence[int],
    num_particles: int = 100,
    cond: Cond = None,
    *,
    num_steps: int = 100,
    t_min: float = 1e-3,
    grid: AnyGrid = UniformLogSNR(),
    threshold: float = 0.5,
    batch_size: int | None = None,
    progress: bool = False,
) -> Particles:
    """Draws weighted particles of p(x_0 | y) for each of shape[0] observations (Eq. 1 and 2).

    The reference for cheaper methods on one's own problem: as num_particles grows its particles
    have the law p(x_0 | y) of the chain of num_steps steps, which is narrower than the SDE's by a
    share that falls with their number. It fails where the effective sample
    size is near 1: then a few particles carry all the weight. Cost: num_particles × (num_steps + 1)
    evaluations of the posterior score for each observation.

    key: one, or one per observation. posterior: sd.inverse.PiGDM or sd.inverse.DPS, which holds
    score, SDE, operator, y and its noise. shape: (observations, *data). grid, threshold: where the
    steps lie, and the share of particles below which they are drawn again. batch_size: observations
    a chunk, all at once if None.

    Raises:
        TypeError: if posterior is not such a score.
        ValueError: if a count is not one, t_min or threshold is out of range, the scale of a DPS is
            not 1, or y, a mask or a condition has another number of rows than shape.
    """
    _check_posterior(posterior)
    checks.count("num_particles", num_particles, at_least=2)
    checks.count("num_steps", num_steps, at_most=checks.MOST_STEPS)
    check_times(t_min)
    checks.setting("threshold", threshold, "[0, 1]")

    batch, *data_shape = (int(n) for n in shape)
    settings = Settings(
        tuple(data_shape), num_particles, num_steps, float(t_min), grid, float(threshold)
    )
    out = per_example(
        _run,
        settings,
        key,
        plain_settings(posterior.sde),
        posterior,
        None,
        cond,
        batch,
        batch_size=batch_size,
        progress=progress,
        what="observations",
        goal="t_min",
    )
    x = out.x.reshape(-1, *out.x.shape[2:])
    return eqx.tree_at(lambda p: p.x, out, to_data_units(posterior, x).reshape(out.x.shape))


def _check_posterior(posterior: Any) -> None:
    """Refuses what has no p~(y | x_t), or one that does not end in p(y | x)."""
    if not isinstance(posterior, PosteriorScore) or not posterior.twists:
        raise TypeError(
            f"posterior is of type {type(posterior).__name__}: wanted sd.inverse.PiGDM(score, sde, "
            f"operator, y, noise_std) or sd.inverse.DPS(...), whose p~(y | x_t) is a Gaussian of a "
            f"variance that does not depend on x_t. Guidance and held conditions go inside, around "
            f"its score."
        )
    scale = getattr(posterior, "scale", 1.0)
    if is_concrete(scale) and float(scale) != 1.0:
        raise ValueError(
            f"the posterior's scale is {float(scale):g}, so what the particles are weighted by at "
            f"t_min would not be p(y | x): write scale=1.0."
        )


@eqx.filter_jit
def _run(
    settings: Settings, sde: SDE, posterior: Any, keys: Array, _: None, cond: Cond
) -> Particles:
    """Draws the particles of a chunk of observations."""
    batch, count = len(keys), settings.num_particles
    posterior, cond = moved_back(posterior, cond)
    posterior = repeat_held(posterior, count)
    cond = jax.tree.map(lambda leaf: jnp.repeat(leaf, count, axis=0), cond)

    start = START if sde.ends_in_noise else 1.0
    times = grid_times(settings.grid, sde, settings.num_steps, settings.t_min, start)
    table = on_grid(_coefficients, (), sde, times[:-1], times[1:])
    particle_keys, draw_keys = split_examples(keys)
    particle_keys = _each_particle(particle_keys, count)

    def evaluate(x: Array, t: Array) -> tuple[Parts, Array]:
        t = jnp.full(len(x), t)
        parts = posterior.parts(x, t, cond)
        shift = right_pad(sde.variance(t) / sde.alpha(t), x) * parts.gradient
        return parts, shift

    with full_precision():
        x = sde.prior_sample(
            fold_in_examples(particle_keys, 0), (batch * count, *settings.data_shape)
        )
        x = x * (sde.sigma(start) / sde.prior_std())
        parts, shift = evaluate(x, jnp.asarray(times[0], x.dtype))
        first = _State(x, parts.x0, shift, parts.log_likelihood, parts.log_likelihood)

        def step(state: _State, inputs: Any) -> tuple[_State, Array]:
            i, t_next, (a, b, c) = inputs
            state, ess = _redrawn(state, fold_in_examples(draw_keys, i), settings)

            z = normal_like(fold_in_examples(particle_keys, i), state.x)
            x = a * state.x + b * (state.x0 + state.shift) + c * z  # q of Eq. 1
            gap = b / c * state.shift
            log_ratio = -sum_data(z * gap) - 0.5 * sum_data(gap**2)  # log p - log q

            parts, shift = evaluate(x, t_next)
            log_weight = state.log_weight + log_ratio + parts.log_likelihood - state.log_likelihood
            return _State(x, parts.x0, shift, parts.log_likelihood, log_weight), ess

        steps = jnp.arange(1, len(times))
        rows = jax.tree.map(lambda a: jnp.asarray(a, x.dtype), (times[1:], table))
        state, ess = jax.lax.scan(step, first, (steps, *rows))

    log_weight = state.log_weight.reshape(batch, count)
    weights = jax.nn.softmax(log_weight, axis=1)
    x0 = (state.x0 + state.shift).reshape(batch, count, *settings.data_shape)
    ess = jnp.concatenate([ess, _effective_size(log_weight)[None]]).T
    finite = jnp.all(jnp.isfinite(weights), axis=1)
    success = finite & jnp.all(jnp.isfinite(x0), axis=tuple(range(1, x0.ndim)))
    return Particles(jnp.where(right_pad(success, x0), x0, jnp.nan), weights, ess, success)


class _State(NamedTuple):
    """All particles of all observations, (batch × particles, ...)."""

    x: Array
    x0: Array
    """E[x_0 | x_t]."""
    shift: Array
    """E[x_0 | x_t, y] - E[x_0 | x_t]."""
    log_likelihood: Array
    """log p~(y | x_t)."""
    log_weight: Array


def _coefficients(sde: SDE, t: Array, t_next: Array) -> tuple[Array, Array, Array]:
    """Returns a, b and c of Eq. 1."""
    h = 0.5 * (sde.log_snr(t_next) - sde.log_snr(t))
    sigma = sde.sigma(t_next)
    noise = -jnp.expm1(-2.0 * h)
    return sigma / sde.sigma(t) * jnp.exp(-h), sde.alpha(t_next) * noise, sigma * jnp.sqrt(noise)


def _each_particle(keys: Array, count: int) -> Array:
    """Returns one key per particle, (batch × particles,): that of particle k is fold_in(key, k)."""
    numbers = jnp.arange(count)
    return jax.vmap(lambda key: jax.vmap(lambda k: jax.random.fold_in(key, k))(numbers))(
        keys
    ).reshape(-1)


def _effective_size(log_weight: Float[Array, "batch particles"]) -> Float[Array, " batch"]:
    """Returns 1 / Σ W² of each observation (Eq. 3)."""
    weights = jax.nn.softmax(log_weight, axis=1)
    return 1.0 / jnp.sum(weights**2, axis=1)


def _redrawn(
    state: _State, keys: Array, settings: Settings
) -> tuple[_State, Float[Array, " batch"]]:
    """Returns the particles drawn again by their weights where the effective sample size is low,
    and that size before.

    The draw is systematic: particle k is drawn at (k + u) / K of the cumulative weights, u uniform.
    """
    batch, count = len(keys), settings.num_particles
    log_weight = state.log_weight.reshape(batch, count)
    ess = _effective_size(log_weight)
    low = ess < settings.threshold * count

    u = jax.vmap(lambda key: jax.random.uniform(key, (), log_weight.dtype))(keys)
    places = (jnp.arange(count) + u[:, None]) / count
    cumulative = jnp.cumsum(jax.nn.softmax(log_weight, axis=1), axis=1)
    drawn = jax.vmap(jnp.searchsorted)(cumulative, places).clip(0, count - 1)

    index = jnp.where(low[:, None], drawn, jnp.arange(count))
    index = (index + count * jnp.arange(batch)[:, None]).reshape(-1)
    kept = jnp.where(low[:, None], 0.0, log_weight).reshape(-1)
    state = jax.tree.map(lambda a: a[index], state)
    return state._replace(log_weight=kept), ess
