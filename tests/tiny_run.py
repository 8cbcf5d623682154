"""What the tests of the command line share: a tiny experiment, and stand-ins for slow calls."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

import scoresde as sd
from scoresde.sampling.choices import AnySampler
from scoresde.train.load import describe
from scoresde.train.state import Skeleton, init_state

LEVELS = sd.UniformDequantization(levels=17)

SAMPLER = sd.EulerMaruyama(num_steps=20)
"""The sampler in the run's config.yaml."""

DRAW = ["--num", "6", "--seed", "3"]
"""One shape, so that most tests share a compilation."""


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Settings that name a sampler."""

    sampler: AnySampler = SAMPLER


def untrained(path, settings, shape, prepare=None, **about):
    """Makes a run's folder with one checkpoint of fresh weights; about: what else it says."""
    model = settings.build(jax.random.key(0), shape)
    _, params, constants = Skeleton.split(model)
    with sd.runs.Checkpoints(path / "checkpoints") as checkpoints:
        state = init_state(params, constants, sd.Training().transformation())
        checkpoints.save(1, state, describe(model, shape, prepare) | {"examples": 5} | about)
    return path


def fake_samples(x, failed=(), cond=None):
    """Returns a stand-in for sd.sample with a known result, to test what surrounds it."""
    expected = cond
    success = np.isin(np.arange(len(x)), failed, invert=True)

    def sample(key, sampler, sde, score, shape, cond, batch_size, progress):
        assert shape == x.shape
        assert expected == (None if cond is None else cond.tolist())
        nfe = jnp.asarray(np.where(success, 10, 999))
        return sd.Sample(x=jnp.asarray(x), nfe=nfe, path=None, success=jnp.asarray(success))

    return sample


def fake_likelihood(log_prob):
    """Returns a stand-in for log_likelihood that finds these values, NaN for a failure.

    The second value returned is a dict that receives the arguments of the last call.
    """
    seen = {}

    def log_likelihood(key, sde, score, x, cond, divergence, batch_size, **settings):
        values = jnp.asarray(log_prob[: len(x)], jnp.float32)
        seen.update(x=np.asarray(x), divergence=divergence)
        good = jnp.isfinite(values)
        return sd.Likelihood(values, values * jnp.nan, x, jnp.where(good, 10, 99), good, None)

    return log_likelihood, seen
