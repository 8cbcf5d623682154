"""DDPM from scratch: the whole method (Ho et al. 2020, arXiv:2006.11239) on one screen or two.

    python experiments/ddpm_from_scratch.py --steps 1500

Hardware: 2 CPU cores, about 5 minutes.

Expect: ddpm_from_scratch.png with 64 digits, and 1.95 ± .03 bits/dim on held-out digits, through
the SDE that the chain discretises.

The library provides the tables and kernels of the chain (`sd.DDPM`), a U-Net, the digits, and at
the end the likelihood, which a chain alone does not have. Everything else is here: objective,
training, moving average, sampling.
"""

from __future__ import annotations

if __name__ == "__main__":
    from scoresde.cli.start import end_on_signals

    end_on_signals()  # before the imports below, which take seconds

import argparse
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from tqdm import tqdm

import scoresde as sd
from scoresde.data.arrays import digits
from scoresde.runs.plots import image_grid

NUM_LEVELS = 300
BATCH = 128

# --- The forward chain: q(x_i | x_{i-1}) = N(sqrt(1 - beta_i) x_{i-1}, beta_i I) ---

# beta rises linearly.
chain = sd.DDPM.from_sde(sd.VP(), NUM_LEVELS)

# --- The network: noise from (x_i, i), i an integer; as a function of its parameters ---

config = sd.UNetConfig(channels=32, num_blocks=1, dropout=0.0, time_scale=1.0)
net = config.build((8, 8, 1), rngs=nnx.Rngs(0))
graph, params, rest = nnx.split(net, nnx.Param, ...)


def noise(params, x, i):
    """Returns the network's estimate of the noise in x = x_i."""
    return nnx.merge(graph, params, rest)(x, i.astype(x.dtype))


# --- Training: L_simple, |noise - estimate|^2 at a random level (Algorithm 1) ---


def loss(params, key, x0):
    """Returns the mean over the batch and the pixels."""
    key_level, key_noise = jax.random.split(key)
    i = jax.random.randint(key_level, (len(x0),), 0, NUM_LEVELS)
    eps = jax.random.normal(key_noise, x0.shape)

    mean, std = chain.marginal(x0, i)
    x_i = mean + std[:, None, None, None] * eps
    return jnp.mean((eps - noise(params, x_i, i)) ** 2)


@partial(jax.jit, static_argnames="optimizer", donate_argnames="state")
def train_step(optimizer, state, key, batch):
    """Updates the parameters, and their moving average, which samples are drawn with."""
    params, opt_state, ema, n = state
    key_data, key_loss = jax.random.split(jax.random.fold_in(key, n))

    # Dequantise integers 0 … 16, and scale them to [-1, 1].
    x0 = 2.0 * (batch + jax.random.uniform(key_data, batch.shape)) / 17.0 - 1.0

    value, gradient = jax.value_and_grad(loss)(params, key_loss, x0)
    updates, opt_state = optimizer.update(gradient, opt_state)
    params = optax.apply_updates(params, updates)

    # The average begins with a fast decay, so that it forgets the initial parameters.
    decay = jnp.minimum(0.999, (1 + n) / (10 + n))
    ema = jax.tree.map(lambda e, p: decay * e + (1 - decay) * p, ema, params)
    return (params, opt_state, ema, n + 1), value


def train(images, steps):
    """Returns the averaged parameters after `steps` updates."""
    schedule = optax.warmup_cosine_decay_schedule(0.0, 2e-3, 50, steps, 4e-5)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))
    state = jax.tree.map(jnp.copy, (params, optimizer.init(params), params, jnp.asarray(0)))

    rng = np.random.default_rng(0)
    bar = tqdm(range(steps), desc="training")
    for step in bar:
        batch = images[rng.integers(0, len(images), BATCH)].astype(np.float32)
        state, value = train_step(optimizer, state, jax.random.key(0), batch)
        if step % 50 == 0:
            bar.set_postfix(loss=f"{float(value):.4f}")
    return state[2]  # the moving average


# --- Sampling: the reverse chain, level by level (Algorithm 2) ---


@partial(jax.jit, static_argnames="shape")
def sample(params, key, shape):
    """Walks from noise down to data by

    x_{i-1} = (x_i - beta_i / sqrt(1 - alphas_bar_i) noise) / sqrt(alpha_i) + std z
    """
    key_start, key_steps = jax.random.split(key)

    def step(x, i):
        level = jnp.full(len(x), i)
        mean, std = chain.ancestral(x, noise(params, x, level), level)
        z = jax.random.normal(jax.random.fold_in(key_steps, i), x.shape)
        return mean + std[:, None, None, None] * z, None

    start = jax.random.normal(key_start, shape)
    x, _ = jax.lax.scan(step, start, jnp.arange(NUM_LEVELS)[::-1])
    return x


# --- The likelihood, through the SDE ---


def bits_per_dim(params, images, key):
    """Returns the bits/dim of each image, of integers 0 … 16, with t_min at the lowest level."""
    score = chain.model(nnx.merge(graph, params, rest))  # its levels are times of this SDE
    x = sd.UniformDequantization(levels=17)(key, jnp.asarray(images))
    out = sd.log_likelihood(
        key, score.sde, score, x, t_min=1 / NUM_LEVELS, rtol=1e-3, atol=1e-3, batch_size=100
    )
    return sd.bits_per_dim(out.log_prob, dim=64, levels=17)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=1500, help="updates (default 1500)")
    parser.add_argument("--picture", default="ddpm_from_scratch.png", help="file for 64 samples")
    parser.add_argument(
        "--held-out", type=int, default=100, help="digits to evaluate (default 100)"
    )
    args = parser.parse_args()

    data = digits()
    averaged = train(data.train, args.steps)

    samples = sample(averaged, jax.random.key(1), (64, 8, 8, 1))
    image_grid(np.asarray(samples), args.picture)

    bits = np.asarray(bits_per_dim(averaged, data.test[: args.held_out], jax.random.key(2)))
    stderr = bits.std() / np.sqrt(len(bits))
    print(f"{args.picture}: 64 samples; {bits.mean():.2f} ± {stderr:.2f} bits/dim held out")


if __name__ == "__main__":
    main()
