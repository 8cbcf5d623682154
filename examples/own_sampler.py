"""A sampler of your own: settings, and one method from x1 at t = 1 to a `Sample` at t_min.

    python examples/own_sampler.py

`sd.sample` does the rest: the prior's draws, one key per example, chunks, devices, one compilation. This very class is
in the fixtures of tests/conftest.py, so every family test runs on it; add yours to `SAMPLERS`. A sampler that draws
noise takes it from `key` per example, as scoresde/sampling/euler_maruyama.py does.
"""

import dataclasses

import jax
import jax.numpy as jnp

import scoresde as sd


@dataclasses.dataclass(frozen=True)
class Midpoint:
    """The probability flow by the explicit midpoint rule, order 2, two evaluations a step:

    x(t + dt) = x + dt F(x + dt/2 F(x, t), t + dt/2),   dx/dt = F(x, t) = f x - 1/2 g^2 score
    """

    num_steps: int = 500
    t_min: float = 1e-3
    grid: sd.grids.Uniform | sd.grids.UniformLogSNR = sd.grids.UniformLogSNR()

    def __call__(self, key, sde, score, x1, cond=None):
        times = jnp.asarray(
            self.grid(sde, self.num_steps, self.t_min), x1.dtype
        )  # from 1 down to t_min
        flow = sde.probability_flow(score)

        def step(x, ends):
            t, t_next = ends
            half = 0.5 * (t_next - t)
            x_half = x + half * flow(x, t, cond)
            return x + 2.0 * half * flow(x_half, t + half, cond), None

        x, _ = jax.lax.scan(step, x1, (times[:-1], times[1:]))
        x = sd.denoise(sde, score, x, self.t_min, cond)
        success = jnp.isfinite(x).all(
            axis=tuple(range(1, x.ndim))
        )  # a failed sample is never returned as a good one
        x = jnp.where(success.reshape(-1, *(1,) * (x.ndim - 1)), x, jnp.nan)
        return sd.Sample(x=x, nfe=2 * self.num_steps + 1, path=None, success=success)


if __name__ == "__main__":
    sde = sd.VP()
    mixture = sd.GaussianMixture([[-1.0, 0.0], [1.0, 0.0]], [0.04, 0.04])
    samples = sd.sample(jax.random.key(0), Midpoint(50), sde, mixture.score(sde), (5000, 2)).x
    print(
        f"E|x|² of 5000 samples {jnp.mean(jnp.sum(samples**2, axis=1)):.3f}, of the mixture 1.080"
    )
