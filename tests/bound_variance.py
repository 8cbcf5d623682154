"""How much one draw of the bound's diffusion term varies over times and noise."""

import dataclasses

import jax
import numpy as np

from scoresde.loss import bound_terms


def variance_over_times(model, sde, x):
    """The variance under a network and any SDE of its label, of one draw for each row of x."""
    score = dataclasses.replace(model, sde=sde)
    key_t, key_noise = jax.random.split(jax.random.key(1))
    t = jax.random.uniform(key_t, (len(x),))

    @jax.jit
    def draws(t, keys):
        error = bound_terms.noise_error(keys, sde, score, x, t)
        return bound_terms.continuous_weight(sde, t) * error

    return np.var(draws(t, jax.random.split(key_noise, len(x))))
