"""A network of your own: any NNX module (x, t) → like x, or (x, t, cond).

    python examples/own_network.py

`sd.fit` trains NNX modules. Equinox and bound Linen modules, or any function, sample and evaluate as they are. For
convolutions take `nnx.Conv(..., conv_general_dilated=channel_last_conv)` of scoresde.nets.convolution: on CPU their
gradient is then fast inside loops too, and `Training(steps_per_dispatch=10)` pays.
"""

import jax
import jax.numpy as jnp
from flax import nnx

import scoresde as sd


class Fourier(nnx.Module):
    """Random Fourier features of x and of t, then two dense layers (Tancik et al. 2020, arXiv:2006.10739)."""

    def __init__(self, dim: int, width: int, *, rngs: nnx.Rngs):
        self.frequencies = nnx.Variable(
            jax.random.normal(rngs.params(), (dim + 1, width))
        )  # no nnx.Param: frozen
        self.hidden = nnx.Linear(2 * width, width, rngs=rngs)
        self.output = nnx.Linear(width, dim, rngs=rngs)

    def __call__(self, x, t):
        phase = jnp.concatenate([x, t[:, None]], axis=1) @ self.frequencies[...]
        return self.output(
            jax.nn.silu(self.hidden(jnp.concatenate([jnp.sin(phase), jnp.cos(phase)], axis=1)))
        )


def build() -> sd.ScoreModel:
    """The model before training, and what `load` puts the trained weights into."""
    return sd.ScoreModel(sd.VP(), Fourier(2, 128, rngs=nnx.Rngs(0)), sd.EDM(sigma_data=0.7))


if __name__ == "__main__":
    data = sd.GaussianMixture([[-1.0, 0.0], [1.0, 0.0]], [0.04, 0.04]).sample(
        jax.random.key(0), 4096
    )
    sd.fit(
        jax.random.key(1), build(), data, training=sd.Training(steps=500), run="runs/own_network"
    )
    model = sd.load("runs/own_network", model=build())
    x = sd.sample(jax.random.key(2), sd.ProbabilityFlow(), model.sde, model, (2000, 2)).x
    print(
        f"mean |x1| of 2000 samples {abs(x[:, 0]).mean():.2f}, of the data {abs(data[:, 0]).mean():.2f}"
    )
