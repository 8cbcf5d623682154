"""Solves with L Lᵀ, in the units of a score's model."""

import jax.numpy as jnp
import numpy as np
import pytest

import scoresde as sd
from scoresde.inverse.measurement import Measurement

RNG = np.random.default_rng(0)
SHAPE = (12, 12, 3)


@pytest.mark.parametrize("boundary", ["wrap", "reflect"])
@pytest.mark.parametrize("std", [0.5, (0.5, 0.5, 0.5), (0.5, 1.0, 2.0)])
def test_a_solve_leaves_no_residual(boundary, std):
    """By the eigenvalues, or by conjugate gradients, of a blur and little noise."""
    blur = sd.inverse.Blur.gaussian(1.0, 5, boundary)
    measurement = Measurement(blur, jnp.zeros((1, *SHAPE)), sd.Standardization(0.0, std))
    r = jnp.asarray(RNG.normal(size=(2, *SHAPE)), jnp.float32)
    noise = 1e-4

    u = measurement.solve(r, 0.5, noise, SHAPE)
    back = 0.5 * measurement.linear_part(measurement.transposed(u, SHAPE)) + noise * u
    assert float(jnp.linalg.norm(back - r) / jnp.linalg.norm(r)) < 1e-3
