"""Shape-checked imports, and every SDE and sampler as a fixture: a new one added here faces all family tests."""

import dataclasses

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from jaxtyping import install_import_hook

with install_import_hook("scoresde", "beartype.beartype"):
    import scoresde as sd
    import scoresde.cli
    import scoresde.data.arrays
    import scoresde.evaluation
    import scoresde.plots
    import scoresde.report

    for name in sd.__all__:  # some modules are imported at the first use of their names
        getattr(sd, name)

sd.use_cpu_cores(2)  # a mesh of two devices in every training test, on any machine


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cosine(sd.SDE):
    """A user's SDE in full: alpha = cos(a t), sigma = sin(a t); everything but these two functions is derived."""

    angle: float | jax.Array = 1.5

    def log_alpha(self, t):
        return jnp.log(jnp.cos(self.angle * t))

    def variance(self, t):
        return jnp.sin(self.angle * t) ** 2


PROCESSES = {"vp": sd.VP(), "subvp": sd.SubVP(), "ve": sd.VE(), "cosine": Cosine()}
PUBLISHED = {name: PROCESSES[name] for name in ("vp", "subvp", "ve")}
SAMPLERS = {"euler_maruyama": sd.EulerMaruyama(num_steps=1000), "probability_flow": sd.ProbabilityFlow()}


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


def five_components(dtype=None) -> sd.GaussianMixture:
    """Five well-separated components in the plane, unequal weights, std 0.2 to 0.4."""
    angle = 2.0 * np.pi * np.arange(5) / 5.0
    means = 1.5 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    std = np.array([0.2, 0.25, 0.3, 0.35, 0.4])
    weights = np.array([0.1, 0.15, 0.2, 0.25, 0.3])
    as_array = lambda a: jnp.asarray(a, dtype)  # noqa: E731
    return sd.GaussianMixture(as_array(means), as_array(std**2), as_array(weights))


@pytest.fixture
def mixture():
    return five_components()
