"""A custom network: any NNX module that maps (x, t), or (x, t, cond), to an array like x.

    python examples/own_network.py

Hardware: a CPU. Expect samples to lie where the data are.

`sd.fit` trains NNX modules. Equinox modules, bound Linen modules and any other function can be
sampled and evaluated as they are. For convolutions, pass `conv_general_dilated=channel_last_conv`
(from scoresde.nets.convolution) to `nnx.Conv`: on CPU its gradient is fast inside loops too, and
`Training(steps_per_dispatch=10)` then pays.
"""

import jax
import jax.numpy as jnp
from flax import nnx

import scoresde as sd


class Fourier(nnx.Module):
    """Random Fourier features of x and t, then two dense layers (Tancik et al. 2020,
    arXiv:2006.10739)."""

    def __init__(self, dim: int, width: int, *, rngs: nnx.Rngs):
        frequencies = jax.random.normal(rngs.params(), (dim + 1, width))
        self.frequencies = nnx.Variable(frequencies)  # not an nnx.Param, so never trained
        self.hidden = nnx.Linear(2 * width, width, rngs=rngs)
        self.output = nnx.Linear(width, dim, rngs=rngs)

    def __call__(self, x, t):
        phase = jnp.concatenate([x, t[:, None]], axis=1) @ self.frequencies[...]
        features = jnp.concatenate([jnp.sin(phase), jnp.cos(phase)], axis=1)
        return self.output(jax.nn.silu(self.hidden(features)))


def build() -> sd.ScoreModel:
    """Returns the model before training, into which `load` puts the trained weights."""
    net = Fourier(dim=2, width=128, rngs=nnx.Rngs(0))
    return sd.ScoreModel(sd.VP(), net, sd.EDM(sigma_data=0.7))


if __name__ == "__main__":
    mixture = sd.GaussianMixture(means=[[-1.0, 0.0], [1.0, 0.0]], covs=[0.04, 0.04])
    data = mixture.sample(jax.random.key(0), 4096)

    training = sd.Training(steps=500)
    sd.fit(jax.random.key(1), build(), data, training=training, run="runs/own_network")

    model = sd.load("runs/own_network", model=build())
    x = sd.sample(jax.random.key(2), sd.ProbabilityFlow(), model.sde, model, (2000, 2)).x
    found = abs(x[:, 0]).mean()
    want = abs(data[:, 0]).mean()
    print(f"mean |x1| of 2000 samples {found:.2f}, of the data {want:.2f}")
