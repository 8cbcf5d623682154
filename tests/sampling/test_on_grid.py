"""What depends on a grid alone is computed in one program for each number of steps."""

import dataclasses
import logging

import jax
import numpy as np
import pytest
from families import SAMPLERS
from gaussian import gaussian_score

import scoresde as sd
from scoresde.sampling.on_grid import on_grid


class Compiled(logging.Handler):
    """Counts the programs that XLA compiles."""

    def __init__(self):
        super().__init__()
        self.names = []

    def emit(self, record):
        text = record.getMessage()
        if text.startswith("Finished XLA compilation"):
            self.names.append(text)


@pytest.fixture
def compiled():
    handler = Compiled()
    logger = logging.getLogger("jax")
    logger.addHandler(handler)
    propagates, logger.propagate = logger.propagate, False
    with jax.log_compiles(True):
        yield handler.names
    logger.removeHandler(handler)
    logger.propagate = propagates


GRID_SAMPLERS = {
    **{name: sampler for name, sampler in SAMPLERS.items() if hasattr(sampler, "num_steps")},
    "ddim": sd.DDIM(),
    "dpm_solver": sd.DPMSolverPP(),
    "unipc": sd.UniPC(),
    "annealed_langevin": sd.AnnealedLangevin(num_steps=20),
}


@pytest.mark.parametrize("name", GRID_SAMPLERS)
def test_a_sweep_over_steps_compiles_few_programs_a_value(name, compiled):
    """The sampler's own, its tables and its times; and, for a multistep one with noise, the two
    that judge its grid."""
    sde = sd.VP()
    score = gaussian_score(sde, 0.0, 0.25)

    def sweep(num_steps):
        sampler = dataclasses.replace(GRID_SAMPLERS[name], num_steps=num_steps)
        sd.sample(jax.random.key(0), sampler, sde, score, (2, 2))

    sweep(5)
    sweep(6)  # what a first value compiles for all
    before = len(compiled)
    sweep(7)
    assert 1 <= len(compiled) - before <= 6, compiled[before:]


def test_values_in_one_program_are_those_of_the_formulas():
    """For settings that cannot be hashed the formulas run one by one."""

    @dataclasses.dataclass(frozen=True)
    class Unhashable:
        factor: np.ndarray

        def table(self, sde, t):
            return self.factor * sde.sigma(t)

    t = np.linspace(0.1, 1.0, 7)
    table = on_grid(Unhashable.table, (Unhashable(np.asarray(2.0)),), sd.VP(), t)
    assert table.dtype == np.float64
    variance = -np.expm1(-(0.1 * t + 0.5 * 19.9 * t**2))
    np.testing.assert_allclose(table, 2.0 * np.sqrt(variance), rtol=1e-14)
    np.testing.assert_allclose(on_grid(sd.VP.sigma, (), sd.VP(), t), table / 2.0, rtol=1e-15)
