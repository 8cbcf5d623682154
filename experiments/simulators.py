"""Simulators for simulation-based inference, with exact posteriors to compare with.

The linear Gaussian has, in each of d dimensions,

    theta ~ N(0, v),   y = theta + N(0, v),   theta | y ~ N(y / 2, v / 2),   v = 0.1    (Eq. 1)

Two moons (Greenberg et al. 2019, arXiv:1905.07488) has, in the plane,

    theta ~ U[-1, 1]^2,   a ~ U[-pi/2, pi/2],   r ~ N(0.1, 0.01^2)
    p = (0.25 + r cos a, r sin a)                                                       (Eq. 2)
    y = p + (-|s|, d),   s = (theta_1 + theta_2) / √2,   d = (theta_2 - theta_1) / √2   (Eq. 3)

p lies on a half ring, in polar coordinates around (0.25, 0), so that its density is

    f(p) = N(r; 0.1, 0.01^2) / (pi r)   where p_1 > 0.25,   else 0                      (Eq. 4)

(s, d) is theta turned by 45 degrees. Given y, theta follows from p and the sign of s:

    |s| = p_1 - y_1,   d = y_2 - p_2,   if |s| >= 0 and theta is in the box             (Eq. 5)

Neither the turn nor the shift changes an area, so that with the prior density 1/4 on each branch

    p(theta | y) = f(p(theta)) / (2 A),   A(y) = P(p meets the conditions of Eq. 5)     (Eq. 6)

Both branches have the same A: changing the sign of s maps theta to (-theta_2, -theta_1), which is
in the box with theta. Hence each moon has probability 1/2 for every y, and each observation has
the density p(y) = A(y) / 2.

Both simulators are those of sbibm (Lueckmann et al. 2021, arXiv:2101.04653). sbibm's own
likelihood of two moons is the density of r, without the 1 / (pi r) of Eq. 4.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Protocol

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import ndtr
from jax.scipy.stats import norm
from jaxtyping import Float

from scoresde import checks
from scoresde.keys import example_keys, normal_like
from scoresde.types import Key


class Simulator(Protocol):
    """A prior, a simulator and the exact posterior. Example i depends on (key, i) alone.

    Raises:
        ValueError: if theta is not (n, d), or y is not one observation (k,).
    """

    @property
    def dim(self) -> int:
        """d and k, the number of parameters and of numbers in an observation."""
        ...

    def prior_sample(self, key: Key, n: int) -> Float[Array, "n d"]:
        """Draws n parameters."""
        ...

    def simulate(self, key: Key, theta: Float[Array, "n d"]) -> Float[Array, "n k"]:
        """Draws one observation for each row of parameters."""
        ...

    def posterior_sample(self, key: Key, y: Float[Array, " k"], n: int) -> Float[Array, "n d"]:
        """Draws n parameters given one observation, exactly and independently."""
        ...

    def posterior_log_prob(
        self, theta: Float[Array, "n d"], y: Float[Array, " k"]
    ) -> Float[Array, " n"]:
        """Returns the normalised log density of parameters given one observation, in nats."""
        ...


# --- Linear Gaussian ---

VARIANCE = 0.1
"""v, of the prior and of the noise."""


@dataclasses.dataclass(frozen=True)
class LinearGaussian:
    """A Gaussian prior and Gaussian noise of the same variance, independent by dimension (Eq. 1).

    Raises:
        ValueError: if dim is not a whole number, at least 1.
    """

    dim: int = 10

    def __post_init__(self):
        checks.count("dim", self.dim)

    def prior_sample(self, key: Key, n: int) -> Float[Array, "n d"]:
        """Draws n parameters from N(0, v I)."""
        noise = normal_like(example_keys(key, n), jnp.zeros((n, self.dim)))
        return math.sqrt(VARIANCE) * noise

    def simulate(self, key: Key, theta: Float[Array, "n d"]) -> Float[Array, "n k"]:
        """Draws y = theta + N(0, v I) for each row of parameters."""
        theta = _rows(theta, self.dim)
        return theta + math.sqrt(VARIANCE) * normal_like(example_keys(key, len(theta)), theta)

    def posterior_sample(self, key: Key, y: Float[Array, " k"], n: int) -> Float[Array, "n d"]:
        """Draws n parameters from N(y / 2, v / 2 I)."""
        y = _observation(y, self.dim)
        noise = normal_like(example_keys(key, n), jnp.zeros((n, self.dim), y.dtype))
        return 0.5 * y + math.sqrt(0.5 * VARIANCE) * noise

    def posterior_log_prob(
        self, theta: Float[Array, "n d"], y: Float[Array, " k"]
    ) -> Float[Array, " n"]:
        """Returns log N(theta; y / 2, v / 2 I), in nats."""
        theta = _rows(theta, self.dim)
        y = _observation(y, self.dim)
        return jnp.sum(norm.logpdf(theta, 0.5 * y, math.sqrt(0.5 * VARIANCE)), axis=1)


# --- Two moons ---

CENTRE = 0.25
RADIUS = 0.1
THICKNESS = 0.01
"""Of the half ring: the first coordinate of its centre; mean and standard deviation of r."""

NUM_ANGLES = 8192
"""The number of angles over which A(y) is averaged."""
LEAST_SHARE = 1e-4
"""The smallest A(y) of an observation that is accepted."""
MOST_TRIES = 1_000_000
"""The number of draws of p after which a draw of theta is given up: under LEAST_SHARE, one in
e^100."""


@dataclasses.dataclass(frozen=True)
class TwoMoons:
    """Two crescents in the plane, mirror images of each other (Eq. 2 to 6)."""

    @property
    def dim(self) -> int:
        """d and k, the number of parameters and of numbers in an observation."""
        return 2

    def prior_sample(self, key: Key, n: int) -> Float[Array, "n d"]:
        """Draws n parameters from U[-1, 1]^2."""
        return jax.vmap(lambda k: jax.random.uniform(k, (2,), minval=-1.0, maxval=1.0))(
            example_keys(key, n)
        )

    def simulate(self, key: Key, theta: Float[Array, "n d"]) -> Float[Array, "n k"]:
        """Draws one observation for each row of parameters (Eq. 2 and 3)."""
        theta = _rows(theta, self.dim)
        p = jax.vmap(lambda k: _half_ring(k, theta.dtype))(example_keys(key, len(theta)))
        s, d = _turned(theta)
        return p + jnp.stack([-jnp.abs(s), d], axis=1)

    def posterior_sample(self, key: Key, y: Float[Array, " k"], n: int) -> Float[Array, "n d"]:
        """Draws n parameters by drawing p and the sign of s until Eq. 5 holds.

        This takes 1 / A(y) tries on average; A is 1 unless y is near the border of what the
        simulator makes. Under `jax.jit`, where y is not known, draws given a y that it cannot make
        are NaN, after a million tries.

        Raises:
            ValueError: if A(y) < 1e-4, as it is for one observation in a million.
        """
        y = _observation(y, self.dim)
        _check_share(y)
        return _inverted(example_keys(key, n), y)

    def posterior_log_prob(
        self, theta: Float[Array, "n d"], y: Float[Array, " k"]
    ) -> Float[Array, " n"]:
        """Returns the log density of Eq. 6 in nats; -inf outside the box and off the half ring.

        A(y) is exact in r and a mean over angles, right to 1e-5 of itself in float32.
        """
        theta = _rows(theta, self.dim)
        y = _observation(y, self.dim)

        s, d = _turned(theta)
        u = y[0] + jnp.abs(s) - CENTRE  # p - (0.25, 0), by Eq. 5
        v = y[1] - d
        possible = _in_box(theta) & (u > 0.0)

        r = jnp.where(possible, jnp.hypot(u, v), RADIUS)
        log_f = norm.logpdf(r, RADIUS, THICKNESS) - jnp.log(math.pi * r)  # Eq. 4
        log_share = jnp.log(share_inside(y))
        possible = possible & jnp.isfinite(log_share)
        return jnp.where(possible, log_f - math.log(2.0) - log_share, -jnp.inf)


def share_inside(y: Float[Array, " 2"]) -> Float[Array, ""]:
    """Returns A(y), the probability that p leads to a theta in the box (Eq. 5).

    In (s, d) the box is the diamond |s| + |d| <= √2. So each condition on p reads slope r <= bound
    for a given angle: together they leave r an interval, whose probability is that of a normal
    law. Its mean over the angles is by the midpoint rule.
    """
    a = math.pi * ((jnp.arange(NUM_ANGLES, dtype=y.dtype) + 0.5) / NUM_ANGLES - 0.5)
    cos = jnp.cos(a)
    sin = jnp.sin(a)
    room = math.sqrt(2.0) - CENTRE + y[0]
    conditions = (
        (-cos, CENTRE - y[0]),  # |s| >= 0
        (cos - sin, room - y[1]),  # |s| + d <= √2
        (cos + sin, room + y[1]),  # |s| - d <= √2
    )

    low = jnp.full_like(a, -jnp.inf)
    high = jnp.full_like(a, jnp.inf)
    for slope, bound in conditions:
        end = bound / slope  # no angle has the slope 0
        high = jnp.where(slope > 0.0, jnp.minimum(high, end), high)
        low = jnp.where(slope < 0.0, jnp.maximum(low, end), low)
    return jnp.mean(_normal_probability((low - RADIUS) / THICKNESS, (high - RADIUS) / THICKNESS))


def _normal_probability(low: Array, high: Array) -> Array:
    """Returns P(low <= z <= high) for z ~ N(0, 1), to full precision in either tail."""
    in_upper = low + high > 0.0
    near = jnp.where(in_upper, -low, high)
    far = jnp.where(in_upper, -high, low)
    return jnp.where(low < high, ndtr(near) - ndtr(far), 0.0)


def _half_ring(key: Key, dtype) -> Float[Array, " 2"]:
    """Draws one p (Eq. 2)."""
    key_a, key_r = jax.random.split(key)
    a = jax.random.uniform(key_a, (), dtype, -0.5 * math.pi, 0.5 * math.pi)
    r = RADIUS + THICKNESS * jax.random.normal(key_r, (), dtype)
    return jnp.stack([CENTRE + r * jnp.cos(a), r * jnp.sin(a)])


def _turned(theta: Float[Array, "n 2"]) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    """Returns s and d (Eq. 3)."""
    s = (theta[:, 0] + theta[:, 1]) / math.sqrt(2.0)
    d = (theta[:, 1] - theta[:, 0]) / math.sqrt(2.0)
    return s, d


@jax.jit
def _inverted(keys: Key, y: Float[Array, " 2"]) -> Float[Array, "n 2"]:
    """Draws one theta for each key."""
    return jax.vmap(lambda key: _invert(key, y))(keys)


def _invert(key: Key, y: Float[Array, " 2"]) -> Float[Array, " 2"]:
    """Draws one theta given y (Eq. 5).

    Each pair of p and a sign is accepted or rejected by itself. A pair has the density f(p) / 2,
    and leads to one theta without changing areas, so that accepted ones have the density
    f(p(theta)) / 2 in the box, up to one factor: that is Eq. 6, and it would be for a box that
    cuts the two branches differently, where one of two roots lies outside. Rejecting p alone and
    choosing the sign afterwards would there give both moons the same weight.
    """

    def attempt(state):
        tries, key, _, _ = state
        key, key_p, key_sign = jax.random.split(key, 3)
        p = _half_ring(key_p, y.dtype)

        size = p[0] - y[0]
        s = jax.random.rademacher(key_sign, (), y.dtype) * size
        d = y[1] - p[1]
        theta = jnp.stack([s - d, s + d]) / math.sqrt(2.0)
        return tries + 1, key, theta, (size >= 0.0) & _in_box(theta)

    def is_open(state):
        tries, _, _, accepted = state
        return ~accepted & (tries < MOST_TRIES)

    start = (0, key, jnp.zeros_like(y), jnp.asarray(False))
    _, _, theta, accepted = jax.lax.while_loop(is_open, attempt, start)
    return jnp.where(accepted, theta, jnp.nan)


def _in_box(theta: Float[Array, "*batch 2"]) -> Array:
    return jnp.all(jnp.abs(theta) <= 1.0, axis=-1)


# --- Checks ---


def _rows(theta: Array, dim: int) -> Float[Array, "n d"]:
    """Returns parameters as floating-point numbers.

    Raises:
        ValueError: if they are not (n, dim).
    """
    if jnp.ndim(theta) != 2 or jnp.shape(theta)[1] != dim:
        raise ValueError(
            f"theta has shape {jnp.shape(theta)}: wanted (n, {dim}), one row per example. For one "
            f"row write theta[None]."
        )
    return jnp.asarray(theta, jnp.result_type(theta, jnp.float32))


def _observation(y: Array, dim: int) -> Float[Array, " k"]:
    """Returns one observation as floating-point numbers.

    Raises:
        ValueError: if it is not (dim,).
    """
    if jnp.shape(y) != (dim,):
        raise ValueError(
            f"y has shape {jnp.shape(y)}: wanted one observation, ({dim},). For a batch write "
            f"jax.vmap(lambda key, y: simulator.posterior_sample(key, y, n))(keys, y)."
        )
    return jnp.asarray(y, jnp.result_type(y, jnp.float32))


def _check_share(y: Array) -> None:
    if not checks.is_concrete(y):
        return
    share = float(share_inside(y))
    if not share >= LEAST_SHARE:
        raise ValueError(
            f"y is {y}, for which a share {share:.1g} of the half ring leads to a theta in the "
            f"box: wanted at least {LEAST_SHARE:g}. Pass an observation made by "
            f"simulate(key, prior_sample(key, n))."
        )
