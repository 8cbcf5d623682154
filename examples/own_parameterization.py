"""A custom parameterisation: what the network's output means, in terms of data and noise.

    python examples/own_parameterization.py

Hardware: a CPU. Expect samples to lie where the data are.

This class is one of the `PARAMETERIZATIONS` in tests/families.py, which the tests convert into
each other: add yours there.
"""

import dataclasses

import jax
from flax import nnx

import scoresde as sd
from scoresde.types import right_pad


@dataclasses.dataclass(frozen=True)
class Difference:
    """The output is u = noise - x_0, under any SDE. Under `sd.RectifiedFlow` it is `sd.Flow`.

    With x = alpha x_0 + sigma noise,

    x_0   = (x - sigma u) / (alpha + sigma)
    noise = (x + alpha u) / (alpha + sigma)
    """

    def inputs(self, sde, x, t):
        """Returns what the network sees: here the state and the time, unchanged."""
        return x, t

    def data_and_noise(self, sde, output, x, t):
        """Returns (x_0, noise) for the network's output."""
        alpha = right_pad(sde.alpha(t), x)  # (batch,) → (batch, 1, …)
        sigma = right_pad(sde.sigma(t), x)

        x0 = (x - sigma * output) / (alpha + sigma)
        noise = (x + alpha * output) / (alpha + sigma)
        return x0, noise

    def prediction(self, sde, x0, noise, t):
        """Returns the output for (x_0, noise): the inverse of `data_and_noise`."""
        return noise - x0


if __name__ == "__main__":
    mixture = sd.GaussianMixture(means=[[-1.0, 0.0], [1.0, 0.0]], covs=[0.04, 0.04])
    data = mixture.sample(jax.random.key(0), 4096)

    net = sd.MLPConfig(width=64).build((2,), rngs=nnx.Rngs(0))
    model = sd.ScoreModel(sd.VP(), net, Difference())
    training = sd.Training(steps=500)
    sd.fit(jax.random.key(1), model, data, training=training, run="runs/own_parameterization")

    # A run's folder cannot name a custom class, so `load` is given a model with one.
    model = sd.load("runs/own_parameterization", model=model)
    x = sd.sample(jax.random.key(2), sd.ProbabilityFlow(), model.sde, model, (2000, 2)).x
    found = abs(x[:, 0]).mean()
    want = abs(data[:, 0]).mean()
    print(f"mean |x1| of 2000 samples {found:.2f}, of the data {want:.2f}")
