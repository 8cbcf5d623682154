"""The original's networks, restated in Linen: what imported weights must compute.

Nothing here is the library's. The modules repeat the original's arithmetic in Linen's layers and
JAX's own convolutions: the filter as a convolution over inserted zeros, the upsampling convolution
as `lax.conv_transpose`, attention by einsum. Their class names, and the order in which they are
made, are what the names in a checkpoint say; Linen itself gives those names.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

# --- Resampling ---


def filtered(x, gain, up=1, down=1, low=0, high=0):
    """Inserts zeros, pads, filters by the outer product of [1, 3, 3, 1], keeps every down-th."""
    n, h, w, c = x.shape
    wide = jnp.zeros((n, h, up, w, up, c), x.dtype).at[:, :, 0, :, 0].set(x)
    wide = wide.reshape(n, up * h, up * w, c)

    k = np.outer([1, 3, 3, 1], [1, 3, 3, 1]) * gain / 64.0
    kernel = jnp.broadcast_to(jnp.asarray(k, x.dtype)[:, :, None, None], (4, 4, 1, c))
    out = jax.lax.conv_general_dilated(
        wide,
        kernel,
        (1, 1),
        [(low, high)] * 2,
        feature_group_count=c,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return out[:, ::down, ::down]


def up_2(x, fir):
    if fir:
        return filtered(x, 4.0, up=2, low=2, high=1)
    return jnp.kron(x, jnp.ones((1, 2, 2, 1), x.dtype))


def down_2(x, fir):
    if fir:
        return filtered(x, 1.0, down=2, low=1, high=1)
    return nn.avg_pool(x, (2, 2), (2, 2))


class Conv2d(nn.Module):
    units: int
    up: bool

    @nn.compact
    def __call__(self, x):
        w = self.param("weight", nn.initializers.zeros, (3, 3, x.shape[-1], self.units))
        w = w.astype(x.dtype)
        numbers = ("NHWC", "HWIO", "NHWC")
        if self.up:
            turned = w[::-1, ::-1].swapaxes(2, 3)
            x = jax.lax.conv_transpose(
                x, turned, (2, 2), "VALID", dimension_numbers=numbers, transpose_kernel=True
            )
            x = filtered(x, 4.0, low=1, high=1)
        else:
            x = filtered(x, 1.0, low=2, high=2)
            x = jax.lax.conv_general_dilated(x, w, (2, 2), "VALID", dimension_numbers=numbers)
        return x + self.param("bias", nn.initializers.zeros, (self.units,))


class Upsample(nn.Module):
    fir: bool
    units: int | None = None

    @nn.compact
    def __call__(self, x):
        if self.units is None:
            return up_2(x, self.fir)
        if self.fir:
            return Conv2d(self.units, True)(x)
        return nn.Conv(self.units, (3, 3))(up_2(x, False))


class Downsample(nn.Module):
    fir: bool
    units: int | None = None

    @nn.compact
    def __call__(self, x):
        if self.units is None:
            return down_2(x, self.fir)
        if self.fir:
            return Conv2d(self.units, False)(x)
        return nn.Conv(self.units, (3, 3), (2, 2))(x)


class Combine(nn.Module):
    @nn.compact
    def __call__(self, x, y):
        return nn.Conv(y.shape[-1], (1, 1))(x) + y


# --- Blocks ---


class NIN(nn.Module):
    units: int

    @nn.compact
    def __call__(self, x):
        w = self.param("W", nn.initializers.zeros, (x.shape[-1], self.units))
        return jnp.tensordot(x, w, 1) + self.param("b", nn.initializers.zeros, (self.units,))


class Configured(nn.Module):
    """A module that reads the network's settings."""

    config: Any

    def norm(self, h):
        groups = 32 if self.config.group_size == 1 else min(h.shape[-1] // 4, 32)
        return nn.GroupNorm(groups)(h)

    def scaled(self, h):
        return h / np.sqrt(2.0).item() if self.config.rescale else h


class AttnBlockpp(Configured):
    @nn.compact
    def __call__(self, x):
        n, height, width, c = x.shape
        h = self.norm(x)
        q, k, v = (NIN(c)(h).reshape(n, height * width, c) for _ in range(3))

        logits = jnp.einsum("nic,njc->nij", q, k) / np.sqrt(c).item()
        weights = jax.nn.softmax(logits, axis=-1)

        out = jnp.einsum("nij,njc->nic", weights, v).reshape(x.shape)
        return self.scaled(x + NIN(c)(out))


class Residual(Configured):
    units: int | None = None
    way: str | None = None

    @nn.compact
    def __call__(self, x, temb):
        units = self.units or x.shape[-1]
        biggan = self.config.block == "biggan"

        h = nn.swish(self.norm(x))
        if self.way is not None:
            change = {"up": up_2, "down": down_2}[self.way]
            h = change(h, self.config.fir)
            x = change(x, self.config.fir)
        h = nn.Conv(units, (3, 3))(h) + nn.Dense(units)(nn.swish(temb))[:, None, None]
        h = nn.Conv(units, (3, 3))(nn.swish(self.norm(h)))

        if biggan and (x.shape[-1] != units or self.way):
            x = nn.Conv(units, (1, 1))(x)
        elif x.shape[-1] != units:
            x = NIN(units)(x)
        return self.scaled(x + h)


class ResnetBlockBigGANpp(Residual):
    pass


class ResnetBlockDDPMpp(Residual):
    pass


class ResnetBlockDDPM(Residual):
    pass


class AttnBlock(AttnBlockpp):
    pass


class GaussianFourierProjection(nn.Module):
    units: int

    @nn.compact
    def __call__(self, x):
        angles = 2 * jnp.pi * x[:, None] * self.param("W", nn.initializers.zeros, (self.units,))
        return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1)


# --- The network ---


class Linen(Configured):
    """The original's `NCSNpp`, or its `DDPM` if `ddpm` is set."""

    ddpm: bool = False

    @nn.compact
    def __call__(self, x, t):
        c = self.config
        f = c.channels
        channels = x.shape[-1]
        plain = ResnetBlockDDPM if self.ddpm else ResnetBlockDDPMpp
        block = ResnetBlockBigGANpp if c.block == "biggan" else plain
        attend = AttnBlock if self.ddpm else AttnBlockpp

        # Embedding: a line per layer, since Linen numbers layers as they are made.
        temb = self.features(t)
        temb = nn.Dense(4 * f)(temb)
        temb = nn.Dense(4 * f)(nn.swish(temb))

        # Down
        x = x if c.centered else 2 * x - 1
        pyramid = x
        hs = [nn.Conv(f, (3, 3))(x)]
        last = len(c.multipliers) - 1
        for level, m in enumerate(c.multipliers):
            for _ in range(c.num_blocks):
                h = block(c, f * m)(hs[-1], temb)
                hs.append(attend(c)(h) if h.shape[1] in c.attention else h)
            if level == last:
                continue

            h = hs[-1]
            if c.block == "biggan":
                h = block(c, way="down")(h, temb)
            else:
                h = Downsample(c.fir, h.shape[-1])(h)
            if c.input_path == "skip":
                pyramid = Downsample(c.fir)(pyramid)
                h = Combine()(pyramid, h)
            elif c.input_path == "residual":
                pyramid = h = self.scaled(Downsample(c.fir, h.shape[-1])(pyramid) + h)
            hs.append(h)

        # Middle
        h = attend(c)(block(c)(hs[-1], temb))
        h = block(c)(h, temb)

        # Up
        pyramid = None
        for level, m in reversed(list(enumerate(c.multipliers))):
            for _ in range(c.num_blocks + 1):
                h = block(c, f * m)(jnp.concatenate([h, hs.pop()], -1), temb)
            h = attend(c)(h) if h.shape[1] in c.attention else h

            if c.output_path == "skip":
                before = 0.0 if pyramid is None else Upsample(c.fir)(pyramid)
                pyramid = before + nn.Conv(channels, (3, 3))(nn.swish(self.norm(h)))
            elif c.output_path == "residual" and pyramid is None:
                pyramid = nn.Conv(h.shape[-1], (3, 3))(nn.swish(self.norm(h)))
            elif c.output_path == "residual":
                pyramid = h = self.scaled(Upsample(c.fir, h.shape[-1])(pyramid) + h)

            if level > 0 and c.block == "biggan":
                h = block(c, way="up")(h, temb)
            elif level > 0:
                h = Upsample(c.fir, h.shape[-1])(h)

        # Output
        if c.output_path == "skip":
            h = pyramid
        else:
            h = nn.Conv(channels, (3, 3))(nn.swish(self.norm(h)))
        return h / t[:, None, None, None] if c.scale_by_sigma else h

    def features(self, t):
        """Fourier features of log t, or sinusoids of t."""
        f = self.config.channels
        if self.config.embedding == "fourier":
            return GaussianFourierProjection(f)(jnp.log(t))
        angles = t[:, None] * 10_000.0 ** -(jnp.arange(f // 2) / (f // 2 - 1))
        return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1)
