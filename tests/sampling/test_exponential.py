"""The exponential integrator, step by step against its formula on Gaussian data."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import FINITE
from gaussian import exponential_states, gaussian_score

import scoresde as sd
from scoresde.keys import example_keys, fold_in_examples, normal_like

KEY = jax.random.key(0)


M = 0.7
V = 0.25
T_MIN = 1e-2


SOLVERS = [
    sd.Exponential(order=1),
    sd.Exponential(order=2),
    sd.Exponential(order=3),
    sd.Exponential(order=2, weights="midpoint"),
    sd.Exponential(order=1, corrector=True),
    sd.Exponential(order=3, corrector=True),
    sd.Exponential(order=1, eta=1.0),
    sd.Exponential(order=2, eta=1.0),
    sd.Exponential(order=3, eta=0.5),
    sd.Exponential(order=2, eta=1.0, weights="midpoint"),
    sd.Exponential(order=2, eta=1.0, corrector=True),
]


@pytest.mark.parametrize(
    "i",
    range(len(SOLVERS)),
    ids=lambda i: "{0.order}-{0.eta}-{0.corrector}-{0.weights}".format(SOLVERS[i]),
)
def test_every_step_is_the_formulas(i, x64):
    """With the same noise, the state after each of 12 coarse steps is the formula's.

    The formula's weights come from another quadrature. Each solver runs under one SDE, each SDE
    under several solvers.
    """
    check_steps([*FINITE.values()][i % len(FINITE)], SOLVERS[i], sd.grids.UniformLogSNR())


@pytest.mark.parametrize(
    "solver", SOLVERS[2::3], ids=lambda s: f"{s.order}-{s.eta}-{s.corrector}-{s.weights}"
)
@pytest.mark.filterwarnings("ignore:order")
def test_every_step_is_the_formulas_on_unequal_steps(solver, x64):
    check_steps(sd.VP(), solver, sd.grids.Uniform())


def check_steps(any_sde, solver, grid):
    solver = dataclasses.replace(
        solver, num_steps=12, t_min=T_MIN, grid=grid, denoise=False, save_path=True
    )
    times = np.asarray(grid(any_sde, 12, T_MIN), np.float64)
    x1 = any_sde.prior_sample(jax.random.key(1), (3, 2))
    out = solver(KEY, any_sde, gaussian_score(any_sde, M, V), x1)
    keys = example_keys(KEY, 3)
    noises = [normal_like(fold_in_examples(keys, i), x1) for i in range(12)]
    states = exponential_states(solver, any_sde, times, M, V)
    scale = float(any_sde.prior_std())
    if (
        solver.corrector
    ):  # the path holds states as predicted; the last is compared, as the corrections lead to it
        np.testing.assert_allclose(out.x, states[-1].at(x1, noises), atol=1e-9 * scale)
    else:
        for i, state in enumerate(states):
            np.testing.assert_allclose(out.path.x[:, i], state.at(x1, noises), atol=1e-9 * scale)


@pytest.mark.parametrize(
    ("order", "corrector", "weak"), [(1, False, 1.0), (2, False, 2.0), (1, True, 2.0)]
)
def test_weak_order_with_noise(order, corrector, weak):
    """The variance at eta = 1 tends to the exact one at the method's order, on equal steps of log
    SNR.
    """
    sde = sd.VP()
    errors = []
    for steps in (40, 80, 160):
        times = np.asarray(sd.grids.UniformLogSNR()(sde, steps, T_MIN), np.float64)
        solver = sd.Exponential(order=order, eta=1.0, corrector=corrector)
        law = exponential_states(solver, sde, times, M, V)[-1]
        with jax.enable_x64(True):
            end = jnp.asarray([T_MIN, 1.0])
            exact, first = np.asarray(sde.alpha(end) ** 2 * V + sde.variance(end))
        errors.append(abs(law.variance(math.sqrt(first)) - exact))
    np.testing.assert_allclose(np.log2(np.array(errors[:-1]) / errors[1:]), weak, atol=0.15)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sd.DPMSolverPP(order=4), "order = 4"),
        (lambda: sd.Exponential(order=0), "order = 0"),
        (lambda: sd.UniPC(2.5), "whole number"),
        (lambda: sd.DPMSolverPP(3, weights="midpoint"), "weights='exact'"),
        (lambda: sd.Exponential(weights="trapezoid"), "'exact' or 'midpoint'"),
    ],
)
def test_bad_settings_are_refused_with_the_reason(call, message):
    with pytest.raises(ValueError, match=message):
        call()
