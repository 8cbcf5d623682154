"""DPM-Solver++ and SDE-DPM-Solver++ are their papers' formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import papers
from gaussian import OfScore, step_noises

import scoresde as sd
from scoresde.keys import example_keys
from scoresde.sde.mixture import ring

KEY = jax.random.key(0)


def test_dpm_solver_pp_is_its_algorithm_2(mixture, x64):
    """2M as the paper writes it, on unequal steps."""
    sde = sd.VP()
    score = mixture.score(sd.VP())
    x = sde.prior_sample(KEY, (4, 2))
    times = np.asarray(sd.grids.UniformLogSNR()(sd.VP(), 8, 1e-2))
    times = times + np.array([0, *np.linspace(0.003, 0.001, 7), 0])  # unequal steps
    settings = sd.DPMSolverPP(
        2, 8, weights="midpoint", t_min=1e-2, grid=sd.grids.GivenTimes(tuple(times)), denoise=False
    )
    out = settings(KEY, sde, score, x).x
    want = papers.dpm_solver_pp_2m(OfScore(sde, score), x, times)
    np.testing.assert_allclose(out, want, atol=1e-11)


def test_sde_dpm_solver_pp_2m_is_its_formula(mixture, x64):
    """The stochastic 2M as the paper writes it, with the same noise."""
    sde = sd.SubVP()
    score = mixture.score(sd.SubVP())
    x = sde.prior_sample(KEY, (4, 2))
    times = np.asarray(sd.grids.UniformLogSNR()(sd.SubVP(), 8, 1e-2))
    out = sd.DPMSolverPP(2, 8, eta=1.0, weights="midpoint", t_min=1e-2, denoise=False)(
        KEY, sde, score, x
    ).x
    model = OfScore(sde, score, step_noises(example_keys(KEY, 4), x, 8))
    want = papers.sde_dpm_solver_pp_2m(model, x, times)
    np.testing.assert_allclose(out, want, atol=1e-11)


def test_ring_is_drawn_in_twenty_evaluations():
    """What these solvers are for: 19 steps of 2M leave a tenth of the error of Euler-Maruyama's."""
    mixture = ring()
    sde = sd.VP()
    x1 = sde.prior_sample(KEY, (500, 2))
    exact = sd.sample(KEY, sd.ProbabilityFlow(), sde, mixture.score(sde), (500, 2), x1=x1).x
    error = {}
    for name, sampler in {
        "2M": sd.DPMSolverPP(num_steps=19),
        "DDIM": sd.DDIM(num_steps=19),
    }.items():
        x = sd.sample(KEY, sampler, sde, mixture.score(sde), (500, 2), x1=x1).x
        error[name] = float(jnp.median(jnp.linalg.norm(x - exact, axis=1)))
    assert error["2M"] < 0.5 * error["DDIM"]
