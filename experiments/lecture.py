"""The second lecture's DDPM of MNIST, as it is given there: its network, chain and training.

    q(x_t | x_0) = N(sqrt(ᾱ_t) x_0, (1 - ᾱ_t) I)                                          (Eq. 1)
    loss = mean |ε - ε̂(sqrt(ᾱ_t) x_0 + sqrt(1 - ᾱ_t) ε, t / T)|²,   t uniform in 1 … T    (Eq. 2)
    x_{t-1} = (x_t - β_t / sqrt(1 - ᾱ_t) ε̂(x_t, t / T)) / sqrt(1 - β_t) + sqrt(β_t) z     (Eq. 3)

Ho et al. 2020 (arXiv:2006.11239), Alg. 1 and 2; no noise z at the last step. T = 300, β_t from 1e-4
to 0.02 in equal steps, so that ᾱ_T = 0.048: x_T is not quite N(0, I), from which sampling starts.

Its 2345 steps of 128 images are five epochs of 60 000 training images; here they are drawn from
55 000 of them, since settings are chosen on the others (mnist.py).

The network adds an embedding of the time, of 64 channels, to features of 128 in the lecture, which
does not broadcast; here it is added to the 64 of the first layer. Initial weights are Flax's.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from mnist import Mnist, MnistTask

import scoresde as sd
from scoresde.data.prepare import Scale
from scoresde.nets.convolution import channel_last_conv
from scoresde.sampling.choices import AnySampler

NUM_STEPS = 300
"""T."""

EPOCH = 469
"""Batches of 128 in the 60 000 training images, the last of them with 96."""


@dataclasses.dataclass(frozen=True)
class Betas:
    """β_t from first to last in equal steps."""

    num_steps: int = NUM_STEPS
    first: float = 1e-4
    last: float = 0.02

    def sde(self) -> Any:
        """Returns the SDE whose marginals at t / T are the chain's (Eq. 1)."""
        return sd.DDPM.linear(self.num_steps, self.first, self.last).to_sde(exact=True)


class LectureNet(nnx.Module):
    """Four convolutions, 3×3 at full resolution, and an embedding of the time."""

    def __init__(self, width: int, channels: int, *, rngs: nnx.Rngs):
        def conv(inputs: int, outputs: int) -> nnx.Conv:
            # The lecture's last two are transposed: with stride 1, the same with flipped kernels.
            return nnx.Conv(
                inputs, outputs, (3, 3), rngs=rngs, conv_general_dilated=channel_last_conv
            )

        self.conv1 = conv(channels, width)
        self.conv2 = conv(width, 2 * width)
        self.conv3 = conv(2 * width, width)
        self.conv4 = conv(width, channels)
        self.time1 = nnx.Linear(1, width, rngs=rngs)
        self.time2 = nnx.Linear(width, width, rngs=rngs)

    def __call__(self, x: jax.Array, t: jax.Array) -> jax.Array:
        """Returns ε̂ of x (n, h, w, c) at t (n,), which is t / T."""
        time = self.time2(nnx.relu(self.time1(t[:, None])))
        h = nnx.relu(self.conv1(x)) + time[:, None, None, :]
        h = nnx.relu(self.conv2(h))
        h = nnx.relu(self.conv3(h))
        return self.conv4(h)


@dataclasses.dataclass(frozen=True)
class LectureNetConfig:
    """Settings of a `LectureNet`."""

    width: int = 64
    """Channels of the first layer; the second has twice as many."""

    def build(self, shape: tuple[int, ...], *, rngs: nnx.Rngs) -> LectureNet:
        return LectureNet(self.width, shape[-1], rngs=rngs)


@dataclasses.dataclass(frozen=True)
class Lecture(Mnist):
    """The settings of the lecture: five epochs of Adam, and no average of the weights."""

    name: str = "mnist_ddpm_lecture"
    sde: Any = Betas()
    net: Any = LectureNetConfig()
    parameterization: Any = sd.Noise()
    training: sd.Training = sd.Training(
        steps=5 * EPOCH,
        batch_size=128,
        learning_rate=2e-4,
        warmup=0,
        clip=1e9,  # none
        ema=0.0,
        times=sd.times.Levels(NUM_STEPS),
        validate_every=EPOCH,
    )
    sampler: AnySampler = sd.Ancestral(NUM_STEPS, variance="beta")
    likelihood_t_min: float = 1.0 / NUM_STEPS

    def model(self, key: jax.Array, shape: tuple[int, ...]) -> sd.ScoreModel:
        """Returns the model before training."""
        net = self.net.build(shape, rngs=nnx.Rngs(key))
        return sd.ScoreModel(self.sde.sde(), net, self.parameterization)


@dataclasses.dataclass(frozen=True)
class LectureTask(MnistTask):
    """A `MnistTask` that trains on pixels in [-1, 1] without noise, as the lecture does."""

    @property
    def prepare(self) -> Any:
        """What training does to a batch."""
        return Scale()


def prior_gap(model: sd.ScoreModel, x: jax.Array) -> float:
    """Returns E KL(q(x_T | x_0) ‖ N(0, I)) in bits/dim: what starting from N(0, I) costs at most.

    Per dimension, KL = ½ (ᾱ x_0² + (1 - ᾱ) - 1 - log(1 - ᾱ)).
    """
    mean, std = model.sde.marginal_prob(x, jnp.ones(len(x)))
    variance = std.reshape(len(x), *(1,) * (x.ndim - 1)) ** 2
    kl = 0.5 * (mean**2 + variance - 1.0 - jnp.log(variance))
    return float(jnp.mean(kl) / jnp.log(2.0))
