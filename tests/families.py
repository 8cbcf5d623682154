"""Every SDE, sampler and parameterisation, once.

Add a new one here: the tests of its family then run on it.
"""

import dataclasses
import itertools

import own_parameterization
import own_sampler
import own_sde
import pytest

import scoresde as sd
from scoresde.sampling.exponential import ExponentialSampler

PROCESSES = {
    "vp": sd.VP(),
    "subvp": sd.SubVP(),
    "ve": sd.VE(),
    "cosine": sd.Cosine(),
    "edm": sd.EDMProcess(),
    "rectified": sd.RectifiedFlow(),
    "learnt": sd.LearntVP(sd.MonotoneGamma(hidden=8)),
    "own": own_sde.Cosine(),
}
FINITE = {name: sde for name, sde in PROCESSES.items() if not sde.ends_in_noise}
"""The SDEs whose f and g are finite at t = 1, where every sampler begins."""

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
    "flow": sd.Flow(),
    "own": own_parameterization.Difference(),
}
PREDICTORS = {
    "reverse_diffusion": sd.predictors.ReverseDiffusion(),
    "euler_maruyama": sd.predictors.EulerMaruyama(),
    "probability_flow": sd.predictors.ProbabilityFlow(),
    "none": sd.predictors.Identity(),
}


def begin(sampler, sde, key, shape):
    """A sampler and its start: t = 1, or a little below where SDE and sampler cannot begin there.

    The prior's draws at t = 0.999 are those of the process to the signal that is left there.
    """
    x1 = sde.prior_sample(key, shape)
    anywhere = isinstance(sampler, ExponentialSampler | sd.ProbabilityFlow)
    if anywhere or not sde.ends_in_noise:
        return sampler, x1
    return dataclasses.replace(sampler, start=0.999), sde.sigma(0.999) * x1


def each_under_one(*names):
    """Every combination of names with every SDE that all samplers can begin under. One SDE of each
    combination runs by default, in rotation; the others are `slow`.

    It is never VE or EDM, whose drift is 0, except for every fourth combination in addition. The
    own sampler cannot begin below t = 1.
    """
    with_drift = [name for name in PROCESSES if name not in ("ve", "edm")]
    parameters = []
    for n, rest in enumerate(itertools.product(*names)):
        fast = {with_drift[n % len(with_drift)]}
        if "own" in rest:
            fast = {"own"}
        if n % 4 == 2:
            fast.add("ve" if n % 8 == 2 else "edm")
        for process, sde in PROCESSES.items():
            if "own" in rest and sde.ends_in_noise:
                continue
            parameters.append(
                pytest.param(
                    *rest,
                    sde,
                    id="-".join([*rest, process]),
                    marks=[] if process in fast else [pytest.mark.slow],
                )
            )
    return parameters
