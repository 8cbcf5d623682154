"""A small network, its data, and settings that train it in a second or two."""

import jax
import numpy as np
from flax import nnx

import scoresde as sd
from scoresde.train.state import Skeleton, init_state

KEY = jax.random.key(0)
SMALL = sd.Training(steps=40, batch_size=32, warmup=5, validate_every=20, log_every=10)


def mlp(seed=0, dropout=0.0, width=32, **config):
    """Returns an untrained model of points in the plane."""
    config = sd.MLPConfig(width=width, depth=1, dropout=dropout, **config)
    net = config.build((2,), rngs=nnx.Rngs(seed))
    return sd.ScoreModel(sd.VP(), net, sd.EDM(1.0))


def weights(model):
    """Returns the parameters of a model as a list of arrays."""
    params = nnx.to_pure_dict(nnx.state(model.net, nnx.Param))
    return [np.asarray(leaf) for leaf in jax.tree.leaves(params)]


def data(mixture, n=512):
    """Returns n points of the mixture, the same ones at every call."""
    return np.asarray(mixture.sample(jax.random.key(5), n))


def train_small(mixture, training=SMALL, **options):
    """Trains the small network on the points of the mixture, without a progress bar."""
    return sd.fit(KEY, mlp(), data(mixture), training=training, progress=False, **options)


def final_state(model, run):
    """Returns the training state in the checkpoint of step 40 of a run."""
    _, params, constants = Skeleton.split(model)
    like = jax.eval_shape(lambda: init_state(params, constants, SMALL.transformation()))
    with sd.runs.Checkpoints(run / "checkpoints") as checkpoints:
        return checkpoints.restore(like, 40).state
