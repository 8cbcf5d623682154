"""The exponential integrator in log SNR: one solver whose settings are DDIM, DPM-Solver++ and
UniPC.

With lambda = log(alpha / sigma), a step t → s and h = lambda_s - lambda_t > 0:

    x_s = (sigma_s / sigma_t) e^{-eta h} x_t + alpha_s sum_j c_j D_j                    (Eq. 1)
          + sigma_s sqrt(1 - e^{-2 eta h}) z
    c_j = ∫ (1 + eta) e^{-(1 + eta)(lambda_s - u)} l_j(u) du over [lambda_t, lambda_s]  (Eq. 2)

D_j = E[x_0 | x] at the last `order` times, and l_j the Lagrange polynomials through them. Its law
is that of dx = [f x - (1 + eta)/2 g^2 score] dt + sqrt(eta) g dw. Lu et al. 2022
(arXiv:2211.01095), Zhao et al. 2023 (arXiv:2302.04867), Xue et al. 2023 (arXiv:2309.05019).
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from scoresde import checks
from scoresde.checks import is_concrete
from scoresde.keys import normal_like
from scoresde.sampling.adams import adams_weights, midpoint_weights
from scoresde.sampling.grid_sampler import GridSampler, check_log_snr
from scoresde.sampling.grid_warning import warn_of_grid
from scoresde.sampling.on_grid import Times, traced_settings
from scoresde.sampling.time_grid import AnyGrid, UniformLogSNR
from scoresde.sde.base import SDE
from scoresde.sde.pure_noise import check_denoises_noise, finite_log_snr

Weights = Literal["exact", "midpoint"]


class Row(NamedTuple):
    """What a step t → s multiplies (Eq. 1), and what corrects the step before it."""

    x_coef: Array
    data_coefs: Array
    """Coefficients of the D at its nodes, newest first."""
    noise_std: Array
    correction: Array
    """Coefficients of the D that correct the step before, newest first; empty without a
    corrector."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExponentialSampler(GridSampler):
    """The solver (Eq. 1) for samplers that give its order, eta, weights and corrector."""

    grid: AnyGrid = UniformLogSNR()
    """Where the steps lie."""

    # --- What a sampler gives ---

    @property
    def _order(self) -> int:
        """The number of nodes of a step."""
        return 1

    @property
    def _corrects(self) -> bool:
        return False

    @property
    def _weights(self) -> Weights:
        return "exact"

    @property
    def _is_noisy(self) -> bool:
        """Whether steps draw noise."""
        return False

    def _eta(self, h: Array) -> Array | float:
        """Returns eta of every step, given the steps' lengths h."""
        return 0.0

    # --- The solver ---

    def check_start(self, sde: SDE, score: Any) -> None:
        check_denoises_noise(sde, score, self.start)

    def times(self, sde: SDE) -> Times:
        check_log_snr(self, sde)
        times = super().times(sde)

        multistep = self._order + self._corrects > 1
        known = is_concrete(*jax.tree.leaves(sde), times) and not traced_settings(self)
        if self._is_noisy and multistep and known:
            warn_of_grid(self, sde, times, self._order)
        return times

    def coefficients(self, sde: SDE, t: Array, t_next: Array) -> Row:
        """Returns the coefficients of Eq. 1."""
        start = 0.5 * finite_log_snr(sde, t)
        end = 0.5 * sde.log_snr(t_next)
        h = end - start
        eta = jnp.broadcast_to(self._eta(h), h.shape)
        rate = 1.0 + eta
        alpha = sde.alpha(t_next)[:, None]
        sigma = sde.sigma(t_next)

        weights = midpoint_weights if self._weights == "midpoint" else adams_weights
        correction = jnp.zeros((len(h), 0), h.dtype)
        if self._corrects:  # the first step has no step before it
            found = alpha * adams_weights(start, end, rate, self._order, end)
            correction = jnp.concatenate([jnp.zeros_like(found[:1]), found[:-1]])

        return Row(
            x_coef=jnp.exp(-eta * h) * sigma / sde.sigma(t),
            data_coefs=alpha * weights(start, end, rate, self._order),  # Eq. 2
            noise_std=sigma * jnp.sqrt(-jnp.expm1(-2.0 * eta * h)),
            correction=correction,
        )

    @property
    def _remembered(self) -> int:
        """The number of D that a step needs of earlier steps."""
        return self._order - 1 + int(self._corrects)

    def initial_state(self, x1: Array) -> Any:
        """Returns (x, memory), where memory is the last step without its D, and the last D."""
        return x1, (x1 if self._corrects else None, [jnp.zeros_like(x1)] * self._remembered)

    def step(
        self,
        sde: SDE,
        score: Any,
        keys: Array,
        state: Any,
        t: Array,
        t_next: Array,
        coefficients: Row,
    ) -> Any:
        """Takes one step (Eq. 1), after correcting the one before it."""
        x, (base, known) = state
        known = [score.denoise(x, t), *known]
        if self._corrects:
            x = base + _combine(coefficients.correction, known)

        base = coefficients.x_coef * x
        if self._is_noisy:
            base = base + coefficients.noise_std * normal_like(keys, x)
        x = base + _combine(coefficients.data_coefs, known)

        memory = (base if self._corrects else None, known[: self._remembered])
        return x, memory


def _combine(weights: Array, states: list[Array]) -> Array:
    """Returns sum_j weights_j states_j, over as many states as there are weights."""
    terms = (weights[j] * states[j] for j in range(weights.shape[0]))
    return sum(terms, jnp.zeros_like(states[0]))


@dataclasses.dataclass(frozen=True)
class Exponential(ExponentialSampler):
    """The exponential Adams method of any order up to 3, between the ODE and the SDE (Eq. 1).

    The first steps have as many D as there are, and their lower order: it does not show where
    sampling starts at the prior, where E[x_0 | x] hardly moves. Evaluations: num_steps, and one
    more with `denoise`.

    Raises:
        ValueError: if order is not 1, 2 or 3, eta lies outside [0, 1], weights is neither,
            "midpoint" is combined with another order than 2 or with a corrector, num_steps < 1, not
            0 <= t_min < start <= 1, or log SNR is infinite at t_min.
    """

    num_steps: int = 20
    """Steps from start to t_min, with one evaluation each."""
    order: int = 2
    """Nodes of a step: 1, 2 or 3."""
    eta: float = 0.0
    """0 for the probability-flow ODE, 1 for the reverse-time SDE."""
    corrector: bool = False
    """Whether to take each step again with the D at its end among the nodes. That is one order
    higher at no evaluation, as the next step needs that D anyway. A path holds the states as
    predicted."""
    weights: Weights = "exact"
    """Weights of order 2: the integrals of Eq. 2, or D_t + (D_t - D_prev) h / (2 h_prev) at every
    u, as in the official DPM-Solver++(2M), which is of the same order."""

    def __post_init__(self):
        super().__post_init__()
        check_exponential(self.order, self.eta, self.weights, self.corrector)

    @property
    def _order(self) -> int:
        return self.order

    @property
    def _corrects(self) -> bool:
        return self.corrector

    @property
    def _weights(self) -> Weights:
        return self.weights

    @property
    def _is_noisy(self) -> bool:
        return is_noisy(self.eta)

    def _eta(self, h: Array) -> Array | float:
        return self.eta


def is_noisy(eta: float) -> bool:
    """Whether steps draw noise; with a tracer for eta they do, scaled by what it is."""
    return not is_concrete(eta) or float(eta) > 0.0


def check_exponential(
    order: int, eta: float, weights: str = "exact", corrector: bool = False
) -> None:
    """Checks order 1, 2 or 3, eta in [0, 1], and midpoint weights for what has them.

    Raises:
        ValueError: if they are something else.
    """
    checks.count("order", order)
    if order > 3:
        raise ValueError(
            f"order = {order}: wanted 1, 2 or 3. Higher orders of multistep methods are not "
            "stable here."
        )
    checks.setting("eta", eta, "[0, 1]")
    if weights not in ("exact", "midpoint"):
        raise ValueError(f"weights is {weights!r}: wanted 'exact' or 'midpoint'.")
    if weights == "midpoint" and (order != 2 or corrector):
        raise ValueError(
            f"midpoint weights are those of order 2 without corrector, not of order {order}"
            f"{' with one' if corrector else ''}: write weights='exact'."
        )
