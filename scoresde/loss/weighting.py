"""Weightings of the denoising loss over time.

lambda(t) |s + noise / sigma|^2 = w(t) |sigma s + noise|^2,   w = lambda / sigma^2        (Eq. 1)

Variance      lambda = sigma^2, w = 1
Likelihood    lambda = g^2, w = g^2 / sigma^2
EDM           w = 1 + sigma^2 / (alpha sigma_data)^2
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from scoresde import checks
from scoresde.sde.base import SDE


@runtime_checkable
class Weighting(Protocol):
    """(sde, t) → w(t) of Eq. 1, one per example."""

    def __call__(self, sde: SDE, t: Float[Array, " batch"]) -> Float[Array, " batch"]: ...


@dataclasses.dataclass(frozen=True)
class Variance:
    """lambda = sigma^2: the plain noise-prediction loss (Song & Ermon 2019; L_simple of Ho et al.
    2020)."""

    def __call__(self, sde: SDE, t: Float[Array, " batch"]) -> Float[Array, " batch"]:
        return jnp.ones_like(t)


@dataclasses.dataclass(frozen=True)
class Likelihood:
    """lambda = g^2: half its integral over time bounds the negative log-likelihood (Song et al.
    2021b, arXiv:2101.09258)."""

    def __call__(self, sde: SDE, t: Float[Array, " batch"]) -> Float[Array, " batch"]:
        return sde.squared_diffusion(t) / sde.variance(t)


@dataclasses.dataclass(frozen=True)
class EDM:
    """Unit weight on the output F of EDM's network (Karras et al. 2022, arXiv:2206.00364).

    Raises:
        ValueError: if sigma_data is not positive.
    """

    sigma_data: float = 0.5
    """Standard deviation of the data."""

    def __post_init__(self):
        checks.setting("sigma_data", self.sigma_data, "(0, inf)")

    def __call__(self, sde: SDE, t: Float[Array, " batch"]) -> Float[Array, " batch"]:
        return 1.0 + jnp.exp(-sde.log_snr(t)) / self.sigma_data**2


if TYPE_CHECKING:
    AnyWeighting = Weighting  # Python takes custom ones
else:
    AnyWeighting = Variance | Likelihood | EDM
    """The weightings that settings files and the command line choose from."""
