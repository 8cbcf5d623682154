"""The orders of the deterministic solvers, by halving the step."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import scoresde as sd

KEY = jax.random.key(0)


ORDERS = {
    "DDIM": (sd.DDIM(), 1.0),
    "DPM-Solver++2M": (sd.DPMSolverPP(2), 2.0),
    "DPM-Solver++2M, midpoint": (sd.DPMSolverPP(2, weights="midpoint"), 2.0),
    "exponential, order 3": (sd.Exponential(order=3), 3.0),
    "UniPC-1": (sd.UniPC(1), 2.0),
    "UniPC-2": (sd.UniPC(2), 3.0),
    "UniPC-3": (sd.UniPC(3), 4.0),
    "Heun": (sd.Heun(), 2.0),
    "Heun, uniform log SNR": (sd.Heun(grid=sd.grids.UniformLogSNR()), 2.0),
    "DPM-Solver++2M, Karras": (sd.DPMSolverPP(2, grid=sd.grids.Karras()), 2.0),
}


PAIR = sd.GaussianMixture([[-1.0], [0.7]], [0.15, 0.25], [0.4, 0.6])


STEPS = (100, 200, 400)


@pytest.fixture(scope="module")
def flows():
    """For each SDE, starts, and where the flow takes them by Dopri8 at a tolerance of 1e-12."""
    found = {}
    with jax.enable_x64(True):
        for name, sde in {"vp": sd.VP(), "subvp": sd.SubVP(), "ve": sd.VE()}.items():
            start = sde.prior_std() * jnp.linspace(-1.5, 1.5, 7)[:, None]
            exact = sd.ProbabilityFlow(
                rtol=1e-12, atol=1e-12, t_min=0.01, denoise=False, variable=sd.variables.InLogSNR()
            )
            found[name] = (
                sde,
                start,
                sd.sample(KEY, exact, sde, PAIR.score(sde), start.shape, x1=start).x,
            )
    return found


@pytest.mark.parametrize(
    ("name", "process"), list(zip(ORDERS, itertools.cycle(["vp", "subvp", "ve"])))
)
def test_order_of_convergence_by_halving_the_step(name, process, flows, x64):
    """One wrong symbol costs an order; the slopes of the error may be off by 0.1."""
    (sampler, order), (sde, start, exact) = ORDERS[name], flows[process]
    errors = []
    for steps in STEPS:
        settings = dataclasses.replace(sampler, num_steps=steps, t_min=0.01, denoise=False)
        x = jax.jit(lambda x, s=settings: s(KEY, sde, PAIR.score(sde), x).x)(start)
        errors.append(float(jnp.sqrt(jnp.mean((x - exact) ** 2))))
    slopes = np.log2(np.array(errors[:-1]) / errors[1:])
    np.testing.assert_allclose(slopes, order, atol=0.1)
