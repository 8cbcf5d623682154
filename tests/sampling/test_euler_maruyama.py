"""Euler-Maruyama: its weak order, and gradients through it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import scoresde as sd


def test_weak_order_of_euler_maruyama_is_one():
    """Halving the step halves the error of the variance on Gaussian data."""
    sde = sd.VP()
    v = 0.25
    t_min = 1e-2
    errors = []
    for steps in (400, 800, 1600):
        t = np.linspace(1.0, t_min, steps + 1)
        with jax.enable_x64(True):
            f = np.asarray(sde.drift_rate(t))
            g2 = np.asarray(sde.squared_diffusion(t))
            total = np.asarray(sde.alpha(t) ** 2 * v + sde.variance(t))
        variance = total[0]
        for i in range(steps):
            variance = (1 + (f[i] + g2[i] / total[i]) * (t[i + 1] - t[i])) ** 2 * variance - g2[
                i
            ] * (t[i + 1] - t[i])
        errors.append(abs(variance - total[-1]))
    np.testing.assert_allclose(np.log2(np.array(errors[:-1]) / errors[1:]), 1.0, atol=0.1)


def test_gradients_with_respect_to_settings(mixture):
    """With traced settings, d x / d beta_max agrees with a finite difference."""
    score = mixture.score(sd.VP())
    x1 = jnp.asarray([[0.3, -0.8]])
    sampler = sd.EulerMaruyama(num_steps=20, denoise=False)
    run = jax.jit(lambda b: sampler(jax.random.key(0), sd.VP(beta_max=b), score, x1).x[0, 0])
    slope = jax.grad(run)(15.0)
    assert float(slope) == pytest.approx(float(run(15.05) - run(14.95)) / 0.1, rel=0.05)
