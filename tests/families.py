"""Every SDE, sampler and parameterisation, once.

A new one is added here and faces all family tests.
"""

import itertools

import own_parameterization
import own_sampler
import own_sde
import pytest

import scoresde as sd

PROCESSES = {"vp": sd.VP(), "subvp": sd.SubVP(), "ve": sd.VE(), "cosine": own_sde.Cosine()}
PUBLISHED = {name: PROCESSES[name] for name in ("vp", "subvp", "ve")}
SAMPLERS = {
    "euler_maruyama": sd.EulerMaruyama(num_steps=500),
    "ancestral": sd.Ancestral(num_steps=300),
    "predictor_corrector": sd.PredictorCorrector(num_steps=200, grid=sd.grids.UniformLogSNR()),
    "exponential": sd.Exponential(num_steps=80, order=2, eta=1.0, corrector=True),
    "heun": sd.Heun(num_steps=60, churn=10.0),
    "adaptive_sde": sd.AdaptiveSDE(rtol=0.05, atol=0.05),
    "probability_flow": sd.ProbabilityFlow(),
    "own": own_sampler.Midpoint(),
}
PARAMETERIZATIONS = {
    "score": sd.Score(),
    "noise": sd.Noise(),
    "data": sd.Data(),
    "velocity": sd.Velocity(),
    "edm": sd.EDM(0.7),
    "own": own_parameterization.Flow(),
}
PREDICTORS = {
    "reverse_diffusion": sd.predictors.ReverseDiffusion(),
    "euler_maruyama": sd.predictors.EulerMaruyama(),
    "probability_flow": sd.predictors.ProbabilityFlow(),
    "none": sd.predictors.Identity(),
}


def each_under_one(*names):
    """Every combination of names with every SDE, one SDE of each unmarked in turn, the others
    `slow`.
    """
    combined = itertools.product(*names, PROCESSES)
    count = len(PROCESSES)
    return [
        pytest.param(
            *rest,
            PROCESSES[process],
            id="-".join([*rest, process]),
            marks=[pytest.mark.slow] if n % count != n // count % count else [],
        )
        for n, (*rest, process) in enumerate(combined)
    ]
