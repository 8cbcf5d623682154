"""A network and its parameterisation, as one score."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import scoresde as sd

KEY = jax.random.key(0)


def test_score_model_is_a_pytree():
    model = sd.ScoreModel(
        sd.VP(), sd.MLPConfig(width=8, depth=1).build((2,), rngs=nnx.Rngs(0)), sd.EDM()
    )
    doubled = jax.tree.map(lambda a: a, model)
    assert doubled.parameterization == sd.EDM()
    x = jnp.ones((3, 2))
    np.testing.assert_array_equal(jax.jit(lambda m: m(x, 0.5))(model), doubled(x, 0.5))


def test_wrong_shapes_are_refused(unchecked):
    with pytest.raises(ValueError, match="the network returned shape"):
        sd.ScoreModel(sd.VP(), lambda x, t: x[:, :1], sd.Noise())(jnp.ones((3, 2)), 0.5)
    with pytest.raises(ValueError, match="one time, or one per example"):
        sd.ScoreModel(sd.VP(), lambda x, t: x, sd.Noise())(jnp.ones((3, 2)), jnp.ones((3, 1)))
    with pytest.raises(ValueError, match="value has shape"):
        sd.convert(jnp.ones((3, 1)), jnp.ones((3, 2)), 0.5, sd.VP(), sd.Noise(), sd.Data())
    with pytest.raises(ValueError, match="at least two levels"):
        sd.labels.Index(1)
    with pytest.raises(ValueError, match="sigma_data"):
        sd.EDM(sigma_data=0.0)


def test_fresh_networks_with_dropout_serve_as_scores():
    net = sd.MLPConfig(width=8, dropout=0.5).build((2,), rngs=nnx.Rngs(0))
    out = sd.sample(KEY, sd.EulerMaruyama(5), sd.VP(), sd.ScoreModel(sd.VP(), net), (3, 2))
    assert bool(out.success.all())
