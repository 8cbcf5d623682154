"""What an error or a warning advises is run as it stands: it must work.

The advice of data in disguise, of noise that does not cover the data, of resumed runs and of the
command line is run beside the tests of each.
"""

import re
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import scoresde as sd

NAMES = {
    "sd": sd,
    "np": np,
    "jnp": jnp,
    "jax": jax,
    "key": jax.random.key(0),
    "score": lambda x, t, *cond: -x,
    "x": jnp.ones((4, 2)) * jnp.array([0.3, -0.2]),
    "DDPM": sd.DDPM,
    "NCSN": sd.NCSN,
    "VE": sd.VE,
    "UniformDequantization": sd.UniformDequantization,
    "image_grid": sd.plots.image_grid,
    "log_prob": np.zeros(4),
    "log_q": np.zeros(4),
    "two_times": sd.grids.GivenTimes((1.0, 0.1)),
    "draw": lambda sampler, cond=None: sd.sample(
        jax.random.key(0), sampler, sd.VP(), lambda x, t, *cond: -x, (4, 2), cond
    ),
}

ADVICE = {
    # What fails; the advice in its message; and what is written then, with the advice in place.
    "scalars": (
        "sd.data.arrays; sd.Standardization.fit(np.ones(3))",
        r"write (x\[:, None\])",
        "(lambda x: sd.Standardization.fit({0}))(np.arange(3.0))",
    ),
    "reversed rates": (
        "sd.VP(beta_min=20.0, beta_max=0.1)",
        r"Write (beta_min=.*, beta_max=[\d.]+)\.",
        "sd.VP({0})",
    ),
    "reversed transition": (
        "(lambda s, t: sd.VP().transition(s, t))(0.5, 0.1)",
        r"Write (transition\(t, s\))",
        "(lambda s, t: sd.VP().{0})(0.5, 0.1)",
    ),
    "one example": (
        "sd.VP().drift(jnp.ones(()), 0.5)",
        r"write (x\[None\])",
        "sd.VP().drift((lambda x: {0})(jnp.ones(())), 0.5)",
    ),
    "a list": (
        "sd.VP().drift([1.0, 2.0], 0.5)",
        r"Write (jnp\.asarray\(x\))",
        "sd.VP().drift((lambda x: {0})([1.0, 2.0]), 0.5)",
    ),
    "integers": (
        "sd.VP().drift(jnp.ones((2, 1), int), 0.5)",
        r"Write (x\.astype\(jnp\.float32\))",
        "sd.VP().drift((lambda x: {0})(jnp.ones((2, 1), int)), 0.5)",
    ),
    "an index for a time": (
        "sd.VP().sigma(3)",
        r"write (sde\.level_times\(N\)\[i\])",
        "(lambda sde, N, i: sde.sigma({0}))(sd.VP(), 10, 3)",
    ),
    "a time of another shape": (
        "sd.VP().marginal_prob(x, jnp.ones(3))",
        r"use (jnp\.full\(\(4,\), t\))",
        "(lambda t: sd.VP().marginal_prob(x, {0}))(0.5)",
    ),
    "one condition for all": (
        "draw(sd.DDIM(num_steps=2), jnp.ones(3))",
        r"write (jnp\.broadcast_to\(c, \(4,\) \+ jnp\.shape\(c\)\))",
        "(lambda c: draw(sd.DDIM(num_steps=2), {0}))(jnp.ones(3))",
    ),
    "times as a grid": (
        "sd.EulerMaruyama(num_steps=3, grid=[1.0, 0.5, 0.1])",
        r"write (grid=.*), with (num_steps=.*, start=.*, t_min=[\d.]+)",
        "(lambda times: draw(sd.EulerMaruyama({0}, {1})))((1.0, 0.5, 0.1))",
    ),
    "too many given times": (
        "draw(sd.Heun(num_steps=3, grid=two_times))",
        r"write (num_steps=1, start=1, t_min=0\.1)",
        "draw(sd.Heun({0}, grid=two_times))",
    ),
    "log SNR at the data": (
        "draw(sd.DDIM(num_steps=3, t_min=0.0))",
        r"write (t_min=1e-3);",
        "draw(sd.DDIM(num_steps=3, {0}))",
    ),
    "log SNR at the data of a likelihood": (
        "sd.log_likelihood(key, sd.VP(), score, x, t_min=0.0)",
        r"write (t_min=1e-5), or",
        "sd.log_likelihood(key, sd.VP(), score, x, {0})",
    ),
    "one level": (
        "sd.AnnealedLangevin(num_steps=1, t_min=1e-3)",
        r"Write (num_steps=2), or leave t_min out",
        "sd.AnnealedLangevin({0}, t_min=1e-3)",
    ),
    "an order without midpoint weights": (
        "sd.Exponential(order=3, weights='midpoint')",
        r"write (weights='exact')",
        "sd.Exponential(order=3, {0})",
    ),
    "VE as a DDPM": (
        "sd.DDPM.from_sde(sd.VE())",
        r"write (NCSN\.from_sde\(sde, num_steps\))",
        "(lambda sde, num_steps: {0})(sd.VE(), 10)",
    ),
    "VP as an NCSN": (
        "sd.NCSN.from_sde(sd.VP())",
        r"write (DDPM\.from_sde\(sde, num_steps\))",
        "(lambda sde, num_steps: {0})(sd.VP(), 100)",
    ),
    "one step of a DDPM": (
        "sd.DDPM.from_sde(sd.VP(), 1)",
        r"write (exact=True)",
        "sd.DDPM.from_sde(sd.VP(), 1, {0})",
    ),
    "few steps of a DDPM": (
        "sd.DDPM.from_sde(sd.VP(), 10)",
        r"more than (\d+) steps",
        "sd.DDPM.from_sde(sd.VP(), {0} + 1)",
    ),
    "a reversed range": (
        "UniformDequantization(256, 1.0, -1.0)",
        r"Write (low=-1\.0, high=1\.0)",
        "UniformDequantization(256, {0})",
    ),
    "raw pixels in a picture": (
        "image_grid(np.full((1, 2, 2, 1), 200))",
        r"Write (image_grid\(x, low=0, high=255\))",
        "(lambda x: {0})(np.full((1, 2, 2, 1), 200))",
    ),
    "a picture without channels": (
        "image_grid(np.zeros((3, 8, 8)))",
        r"e\.g\. image_grid\((x\[\.\.\., None\])\)",
        "image_grid((lambda x: {0})(np.zeros((3, 8, 8))))",
    ),
    "channels first in a picture": (
        "image_grid(np.zeros((5, 3, 8, 8)))",
        r"e\.g\. image_grid\((x\.transpose\(0, 2, 3, 1\))\)",
        "image_grid((lambda x: {0})(np.zeros((5, 3, 8, 8))))",
    ),
    "a complex array": (
        "sd.VP().drift(np.ones((2, 3)) * 1j, 0.5)",
        r"channels are (np\.stack\(.*, axis=-1\))\.",
        "sd.VP().drift((lambda x: {0})(np.ones((2, 3)) * 1j), 0.5)",
    ),
    "constant features": (
        "sd.Standardization(0.0, 0.0)",
        r"Write (1\.0) for",
        "sd.Standardization(0.0, {0})",
    ),
    "statistics of another shape": (
        "(lambda x: sd.Standardization(x.mean(axis=0), x.std(axis=0)))(np.random.rand(9, 4, 4, 3))",
        r"e\.g\. mean=(.*), and std",
        "(lambda x: sd.Standardization({0}, 1.0).to_model(x))(np.random.rand(9, 4, 4, 3))",
    ),
    "a sampler below 1 without data": (
        "draw(sd.DDIM(num_steps=2, start=0.5))",
        r"or write (start=1\.0)",
        "draw(sd.DDIM(num_steps=2, {0}))",
    ),
}


@pytest.mark.parametrize("name", ADVICE)
def test_advice_works_when_it_is_followed(name, unchecked):
    failing, pattern, followed = ADVICE[name]
    with pytest.raises((ValueError, TypeError)) as caught:
        _run(failing)
    found = re.search(pattern, str(caught.value))
    assert found, str(caught.value)

    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", "Explicitly requested dtype float64")  # JAX's
        _run(followed.format(*found.groups()))


def _run(code):
    exec(code, dict(NAMES))
