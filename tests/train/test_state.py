"""What cannot be trained is refused, and a model survives being split and put together again."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small_training import KEY, SMALL, mlp

import scoresde as sd
from scoresde.train.state import Skeleton


class Normalised(nnx.Module):
    """A network with running statistics."""

    def __init__(self):
        self.norm = nnx.BatchNorm(2, rngs=nnx.Rngs(0))

    def __call__(self, x, t):
        return self.norm(x)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("unet", "wanted sd.ScoreModel"),
        (sd.ScoreModel(sd.VP(), lambda x, t: x, sd.Noise()), "fit trains NNX modules"),
        (sd.ScoreModel(sd.VP(), Normalised(), sd.Noise()), "batch statistics"),
    ],
    ids=["name", "function", "batch_norm"],
)
def test_what_cannot_be_trained_is_refused(model, message, unchecked):
    with pytest.raises(TypeError, match=message):
        sd.fit(KEY, model, np.zeros((64, 2), np.float32), training=SMALL, progress=False)


def test_a_model_put_together_again_is_the_same_score():
    model = mlp(dropout=0.5)
    skeleton, params, constants = Skeleton.split(model)
    x = jax.random.normal(KEY, (4, 2))
    again = skeleton.in_evaluation(params, constants)
    model.net.eval()
    np.testing.assert_array_equal(again(x, jnp.full(4, 0.3)), model(x, jnp.full(4, 0.3)))
