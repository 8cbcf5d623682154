"""What stands between a likelihood's log_prob and log p_0: the prior in the place of p_1, and t_min in that of 0."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from scoresde.keys import example_keys, normal_like, split_examples
from scoresde.likelihood.exact import Likelihood, log_likelihood
from scoresde.precision import in_float64, precision_of
from scoresde.sde.base import SDE, check_sde, denoise
from scoresde.types import Cond, Key, ScoreFn, data_dim, pytree_dataclass, right_pad, sum_data


@pytree_dataclass("exact")
class Gaps:
    """log p_0 = log_prob - prior - truncation, in nats, one per example, where `exact`.

    Else bounds that hold on average over data: prior in [-KL, 0] with KL this `prior`'s size, and log_prob - truncation
    a lower bound of the log density at t = 0 of the model that ends with a Gaussian step.
    """

    prior: Float[Array, " batch"]
    """log pi(x_1) - log p_1(x_1); a bound: -KL(q(x_1 | x_0) || pi)."""
    truncation: Float[Array, " batch"]
    """log p_{t_min}(x_0) - log p_0(x_0); a bound: what noising x_0 to t_min and back costs."""
    exact: bool


def gaps(
    key: Key,
    sde: SDE,
    score: ScoreFn,
    x0: Float[Array, " batch *data"],
    likelihood: Likelihood,
    cond: Cond = None,
    log_prob: Callable[[Array, float], Array] | None = None,
    batch_size: int | None = None,
) -> Gaps:
    """The two terms that `log_likelihood(...)` leaves out, for its result on the same x0.

    log_prob: (x, t) → log p_t(x), where the data's law is known, e.g. `partial(mixture.log_prob, sde)`: then exact.
    Otherwise bounds, on average over data and draws:

        prior        KL(p_1 || pi) <= E KL(q(x_1 | x_0) || pi)      (convexity)
        truncation   log p_0(x_0) >= E_q[log p_{t_min}(x_t) + log N(x_0; D(x_t), (sigma/alpha)^2) - log q(x_t | x_0)]

    x_t ~ q(x_t | x_0) at t_min, D = E[x_0 | x_t], p_0 that of the model with this last Gaussian step (Song et al.
    2021b, arXiv:2101.09258, Sec. 5; Kingma et al. 2021). One more solve, with the likelihood's own settings, at one
    draw of x_t an example.

    Raises:
        ValueError: if the likelihood was made with a prior of your own; as `log_likelihood`.
    """
    check_sde(sde)
    settings = likelihood.settings
    if settings.own_prior:
        raise ValueError(
            "the likelihood was made with prior_log_prob=, of which nothing is known here: make it without, or take "
            "prior_log_prob(x_1) - log p_1(x_1) for the prior's gap."
        )
    with precision_of(likelihood.log_prob):
        if log_prob is not None:
            prior = sde.prior_log_prob(likelihood.latent) - log_prob(likelihood.latent, 1.0)
            return Gaps(prior, log_prob(x0, settings.t_min) - log_prob(x0, 0.0), exact=True)
        if settings.dtype == "float64":
            sde, score, x0, cond = in_float64((sde, score, x0, cond))
        x0 = jnp.asarray(x0)
        key_noise, key_solve = split_examples(example_keys(key, x0.shape[0]))
        t = jnp.full(x0.shape[:1], settings.t_min, x0.dtype)
        mean, std = sde.marginal_prob(x0, t)
        noise = normal_like(key_noise, x0)
        x = mean + right_pad(std, x0) * noise
        noised = log_likelihood(
            key_solve,
            sde,
            score,
            x,
            cond,
            settings.divergence,
            settings.rtol,
            settings.atol,
            settings.t_min,
            solver=settings.solver,
            controller=settings.controller,
            variable=settings.variable,
            max_steps=settings.max_steps,
            joint_steps=settings.joint_steps,
            batch_size=batch_size,
        )
        scale = sde.sigma(t) / sde.alpha(t)
        # log N(x_0; D, scale^2) - log N(x; mean, std^2): the (2 pi)s cancel, and scale / std is 1 / alpha
        back = -0.5 * sum_data((x0 - denoise(sde, score, x, t, cond)) ** 2) / scale**2
        forth = -0.5 * sum_data(noise**2)
        step = back - forth + data_dim(x0) * sde.log_alpha(t)
        return Gaps(-sde.prior_kl(x0), likelihood.log_prob - (noised.log_prob + step), exact=False)
