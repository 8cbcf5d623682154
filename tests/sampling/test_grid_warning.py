"""Which grids bend the law of a stochastic multistep solver, and draw a warning?"""

import math
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gaussian import exponential_states, gaussian_score

import scoresde as sd
from scoresde.sampling.on_grid import grid_times

KEY = jax.random.key(0)


M = 0.7
V = 0.25


VP = sd.VP()
VE = sd.VE()
UNIFORM = sd.grids.Uniform()


GRIDS = [
    (VP, sd.Exponential(50, order=2, eta=1.0, grid=UNIFORM), True),  # +78 %
    (VP, sd.Exponential(400, order=3, eta=1.0, grid=UNIFORM, t_min=1e-5), True),  # +183 %
    (VP, sd.Exponential(50, order=3, eta=1.0, corrector=True, grid=UNIFORM), True),
    (
        VP,
        sd.Exponential(
            50, order=2, eta=1.0, grid=sd.grids.GivenTimes(tuple(np.linspace(1.0, 1e-3, 51)))
        ),
        True,
    ),
    (VE, sd.Exponential(50, order=2, eta=1.0, grid=sd.grids.Karras(rho=3.0)), True),
    (VP, sd.Exponential(400, order=2, eta=1.0, grid=UNIFORM), False),
    (VP, sd.Exponential(50, order=2, eta=1.0, grid=sd.grids.Quadratic()), False),
    (VP, sd.Exponential(50, order=2, eta=1.0, grid=sd.grids.Karras()), False),
    (VE, sd.Exponential(50, order=2, eta=1.0, grid=UNIFORM), False),  # equal steps of log SNR
    (VE, sd.Exponential(50, order=3, eta=1.0, corrector=True), False),
]


def warnings_of(solver, sde):
    """Without compiling its scan."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        jax.eval_shape(lambda x: solver(KEY, sde, gaussian_score(sde, M, V), x).x, jnp.ones((2, 2)))
    return caught


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("sde", "solver", "bad"), GRIDS, ids=lambda value: "")
def test_grids_that_bend_the_law_draw_a_warning(sde, solver, bad):
    """Is there a warning exactly where the variance on Gaussian data is off by more than 10 %?"""
    times = np.asarray(grid_times(solver.grid, sde, solver.num_steps, solver.t_min), np.float64)
    with jax.enable_x64(True):
        end = jnp.asarray([solver.t_min, 1.0])
        exact, first = np.asarray(sde.alpha(end) ** 2 * V + sde.variance(end))
    law = exponential_states(solver, sde, times, M, V)[-1]
    excess = law.variance(math.sqrt(first)) / exact - 1.0
    assert (abs(excess) > 0.1) == bad
    caught = warnings_of(solver, sde)
    assert len(caught) == bad
    if bad:
        assert f"variance of its samples is {excess:+.0%} off" in str(caught[0].message)
        assert "sd.grids.UniformLogSNR()" in str(caught[0].message)


@pytest.mark.usefixtures("unchecked")
def test_the_warning_is_one_and_points_at_the_caller():
    for grid in (UNIFORM, lambda sde, n, t_min: np.linspace(1.0, t_min, n + 1)):
        (caught,) = warnings_of(sd.DPMSolverPP(2, 50, eta=1.0, grid=grid), VP)
        assert caught.filename == __file__
    for solver in (
        sd.DPMSolverPP(2, 50, grid=UNIFORM),
        sd.DDIM(1.0, 50, grid=UNIFORM),
    ):  # without noise; order 1
        assert not warnings_of(solver, VP)
