"""The two gaps between a likelihood's log_prob and log p_0: the prior for p_1, and t_min for 0.

    log p_0(x_0) = log_prob - prior - truncation                                            (Eq. 1)
    prior = log pi(x_1) - log p_1(x_1),   truncation = log p_{t_min}(x_0) - log p_0(x_0)    (Eq. 2)

Where the law of the data is not known, bounds that hold on average over data and draws:

    KL(p_1 || pi) <= E KL(p(x_1 | x_0) || pi)                                               (Eq. 3)
    log p_0(x_0) >= E[log p_{t_min}(x_t) + log N(x_0; D(x_t), (sigma/alpha)^2)
                      - log p(x_t | x_0)]                                                   (Eq. 4)

with x_t ~ p(x_t | x_0) at t_min, D = E[x_0 | x_t], and p_0 that of the model with this last
Gaussian step. Eq. 3 is convexity; Eq. 4: Song et al. 2021b (arXiv:2101.09258), Sec. 5, and Kingma
et al. 2021.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from scoresde import checks
from scoresde.keys import example_keys, normal_like, split_examples
from scoresde.likelihood.exact import Likelihood, log_likelihood
from scoresde.parallel.per_example import per_example
from scoresde.precision import full_precision, in_float64, precision_of
from scoresde.sde.base import SDE, check_sde
from scoresde.sde.bound_score import bind
from scoresde.standardization import in_model_units, log_volume, to_model_units
from scoresde.types import Cond, Key, ScoreFn, data_dim, pytree_dataclass, right_pad, sum_data


@pytree_dataclass("exact")
class Gaps:
    """The two gaps in nats, one per example (Eq. 2), where `exact`.

    Otherwise they are bounds on average over data: the prior's gap lies in [-KL, 0], where KL is
    the size of `prior`, and log_prob - truncation is a lower bound of the log density at t = 0 of
    the model that ends with a Gaussian step.
    """

    prior: Float[Array, " batch"]
    """log pi(x_1) - log p_1(x_1); as a bound, -KL(p(x_1 | x_0) || pi)."""
    truncation: Float[Array, " batch"]
    """log p_{t_min}(x_0) - log p_0(x_0); as a bound, what noising x_0 to t_min and back costs."""
    exact: bool


def gaps(
    key: Key,
    sde: SDE,
    score: ScoreFn,
    x0: Float[Array | np.ndarray, " batch *data"],
    likelihood: Likelihood,
    cond: Cond = None,
    log_prob: Callable[[Array, float], Array] | None = None,
    batch_size: int | None = None,
) -> Gaps:
    """Returns the two terms that `log_likelihood(...)` leaves out, for its result on the same x0.

    log_prob: (x, t) → log p_t(x) in the model's units, where the law of the data is known, e.g.
    `partial(mixture.log_prob, sde)`: then the gaps are exact (Eq. 2). Otherwise they are bounds
    (Eq. 3 and 4), at the price of one more solve with the likelihood's own settings, at one draw of
    x_t for each example.

    Raises:
        ValueError: if the likelihood was made with a custom prior, or is not that of as many
            examples; otherwise as `log_likelihood`.
    """
    check_sde(sde)
    settings = likelihood.settings
    if settings.own_prior:
        raise ValueError(
            "the likelihood was made with prior_log_prob=, of which nothing is known here: make it "
            "without, or take prior_log_prob(x_1) - log p_1(x_1) for the prior's gap."
        )

    checks.batch(x0, "x0")
    if jnp.shape(x0) != likelihood.latent.shape:
        raise ValueError(
            f"x0 has shape {jnp.shape(x0)}, and the likelihood is of x0 of shape "
            f"{likelihood.latent.shape}: pass the x0 that it was computed for."
        )

    # From here on all is in the model's units: the volume of the data's cancels in both gaps.
    x = to_model_units(score, x0, settings.dtype == "float64")
    volume = log_volume(score, x)
    score = in_model_units(score)

    with precision_of(likelihood.log_prob):
        if settings.dtype == "float64":
            sde, score, x, cond = in_float64((sde, score, x, cond))

        if log_prob is not None:
            at_end = log_prob(likelihood.latent, 1.0).astype(x.dtype)
            prior = sde.prior_log_prob(likelihood.latent) - at_end
            truncation = (log_prob(x, settings.t_min) - log_prob(x, 0.0)).astype(x.dtype)
            return Gaps(prior, truncation, exact=True)  # Eq. 2

        log_p0 = _lower_bound(key, sde, score, x, settings, cond, batch_size)
        return Gaps(-sde.prior_kl(x), likelihood.log_prob + volume - log_p0, exact=False)


def _lower_bound(
    key: Key,
    sde: SDE,
    score: ScoreFn,
    x0: Array,
    settings: Any,
    cond: Cond,
    batch_size: int | None,
) -> Float[Array, " batch"]:
    """Returns one draw of the bound of log p_0(x_0) (Eq. 4)."""
    noise_keys, solve_keys = split_examples(example_keys(key, x0.shape[0]))
    t = jnp.full(x0.shape[:1], settings.t_min, x0.dtype)
    mean, std = sde.marginal_prob(x0, t)
    noise = normal_like(noise_keys, x0)
    x = mean + right_pad(std, x0) * noise

    flow_solver = settings.flow_solver
    noised = log_likelihood(
        solve_keys,
        sde,
        score,
        x,
        cond,
        settings.divergence,
        flow_solver.rtol,
        flow_solver.atol,
        settings.t_min,
        solver=flow_solver.solver,
        controller=flow_solver.controller,
        variable=flow_solver.variable,
        max_steps=flow_solver.max_steps,
        joint_steps=settings.joint_steps,
        batch_size=batch_size,
    )

    # log N(x_0; D, scale^2) - log N(x; mean, std^2): the (2 pi)s cancel, and scale / std is 1 /
    # alpha.
    denoised = per_example(
        _denoised, None, None, sde, score, (x, t), cond, x.shape[0], batch_size=batch_size
    )
    scale = sde.sigma(t) / sde.alpha(t)
    back = -0.5 * sum_data((x0 - denoised) ** 2) / scale**2
    forth = -0.5 * sum_data(noise**2)
    return noised.log_prob + back - forth + data_dim(x0) * sde.log_alpha(t)


@eqx.filter_jit
def _denoised(
    settings: None, sde: SDE, score: ScoreFn, keys: None, rows: tuple[Array, Array], cond: Cond
) -> Array:
    """Returns E[x_0 | x_t = x] for rows (x, t)."""
    x, t = rows
    with full_precision():
        return bind(sde, score, cond).denoise(x, t)
