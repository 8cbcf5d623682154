"""A parameterisation of your own: what the network's output means, as a map to data and noise and back.

    python examples/own_parameterization.py

This very class is in the fixtures of tests/conftest.py, and is converted to and from every other in
tests/test_score.py; add yours to `PARAMETERIZATIONS` there.
"""

import dataclasses

import jax
from flax import nnx

import scoresde as sd
from scoresde.types import right_pad


@dataclasses.dataclass(frozen=True)
class Flow:
    """The output is u = noise - x_0, the velocity of a straight path (Lipman et al. 2023, arXiv:2210.02747).

    With x = alpha x_0 + sigma noise:  x_0 = (x - sigma u) / (alpha + sigma),  noise = (x + alpha u) / (alpha + sigma).
    """

    def inputs(self, sde, x, t):
        """What the network sees: here the state and the time as they are."""
        return x, t

    def data_and_noise(self, sde, output, x, t):
        """(x_0, noise) that the output stands for."""
        alpha, sigma = (right_pad(scale, x) for scale in (sde.alpha(t), sde.sigma(t)))
        return (x - sigma * output) / (alpha + sigma), (x + alpha * output) / (alpha + sigma)

    def prediction(self, sde, x0, noise, t):
        """The output that stands for x_0 and noise: the inverse."""
        return noise - x0


if __name__ == "__main__":
    data = sd.GaussianMixture([[-1.0, 0.0], [1.0, 0.0]], [0.04, 0.04]).sample(
        jax.random.key(0), 4096
    )
    model = sd.ScoreModel(sd.VP(), sd.MLPConfig(width=64).build((2,), rngs=nnx.Rngs(0)), Flow())
    fit = sd.fit(
        jax.random.key(1),
        model,
        data,
        training=sd.Training(steps=500),
        run="runs/own_parameterization",
    )
    again = sd.load(
        "runs/own_parameterization", model=model
    )  # a class of your own: load is given a model like it
    x = sd.sample(jax.random.key(2), sd.ProbabilityFlow(), again.sde, again, (2000, 2)).x
    means = (abs(rows[:, 0]).mean() for rows in (x, data))
    print("step {}: mean |x1| of 2000 samples {:.2f}, of the data {:.2f}".format(fit.step, *means))
