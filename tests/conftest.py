"""Shape-checked imports, and every SDE, sampler and parameterisation in one place: a new one faces all family tests."""

import jax
import jaxtyping
import pytest
from jaxtyping import install_import_hook

with install_import_hook("scoresde", "beartype.beartype"):
    import scoresde as sd
    import scoresde.cli
    import scoresde.data.arrays
    import scoresde.data.toy
    import scoresde.evaluation
    import scoresde.plots
    import scoresde.report

    for name in sd.__all__:  # some modules are imported at the first use of their names
        getattr(sd, name)

import own_parameterization
import own_sampler
import own_sde

from scoresde.data.toy import ring

sd.use_cpu_cores(2)  # a mesh of two devices in every training test, on any machine

PROCESSES = {"vp": sd.VP(), "subvp": sd.SubVP(), "ve": sd.VE(), "cosine": own_sde.Cosine()}
PUBLISHED = {name: PROCESSES[name] for name in ("vp", "subvp", "ve")}
SAMPLERS = {
    "euler_maruyama": sd.EulerMaruyama(num_steps=1000),
    "predictor_corrector": sd.PredictorCorrector(num_steps=200, grid=sd.UniformLogSNR()),
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


@pytest.fixture(params=PROCESSES.values(), ids=PROCESSES.keys())
def any_sde(request):
    return request.param


@pytest.fixture(params=PUBLISHED.values(), ids=PUBLISHED.keys())
def sde(request):
    return request.param


@pytest.fixture(params=SAMPLERS.values(), ids=SAMPLERS.keys())
def sampler(request):
    return request.param


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def unchecked():
    """Bad input on purpose: without the tests' own shape checks, so that the library's errors are what is seen."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def mixture():
    return ring()
