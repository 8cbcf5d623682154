"""Every SDE, sampler and parameterisation, once.

Add a new one here: the tests of its family then run on it.
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
    """Every combination of names with every SDE. One SDE of each combination runs by default, in
    rotation; the others are `slow`.

    It is never VE, whose drift is 0, except for every fourth combination in addition.
    """
    with_drift = [name for name in PROCESSES if name != "ve"]
    parameters = []
    for n, rest in enumerate(itertools.product(*names)):
        fast = {with_drift[n % len(with_drift)]}
        if n % 4 == 2:
            fast.add("ve")
        for process, sde in PROCESSES.items():
            parameters.append(
                pytest.param(
                    *rest,
                    sde,
                    id="-".join([*rest, process]),
                    marks=[] if process in fast else [pytest.mark.slow],
                )
            )
    return parameters
