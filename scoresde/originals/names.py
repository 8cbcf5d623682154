"""The names of a network's parameters in the authors' Flax release of Song et al. 2021.

Linen names submodules by their class and a count, in the order in which the original's `__call__`
makes them: `Conv_0` is the first convolution at the top level, wherever it is. `linen_names` walks
our network in that order, which is that of the original's models/ncsnpp.py and models/ddpm.py:

    embedding     GaussianFourierProjection_0, Dense_0, Dense_1
    input         Conv_0
    down          per level: blocks, each with its attention; then resampling, then the image's path
    middle        block, attention, block
    up            per level: blocks; attention; then the path of the output, then resampling
    output        GroupNorm, Conv
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

from flax import nnx

from scoresde.nets.ncsnpp import (
    Attention,
    Block,
    DownLevel,
    Head,
    NCSNpp,
    NCSNppConfig,
    NoiseEmbedding,
    UpLevel,
)
from scoresde.nets.resample import Resample
from scoresde.originals.configurations import Original


class LinenLeaf(NamedTuple):
    """A parameter of the original."""

    name: str
    """Its name there, e.g. "ResnetBlockBigGANpp_0/Conv_0/kernel"."""
    param: nnx.Param
    """Our parameter."""
    shape: tuple[int, ...]
    """Its shape there, which is ours except that 1×1 convolutions are (1, 1, c_in, c_out)."""


def linen_names(net: NCSNpp, from_ddpm: bool = False) -> Iterator[LinenLeaf]:
    """Yields the network's parameters in the order of the original's `__call__`.

    Args:
        net: our network.
        from_ddpm: use the class names of the original's models/ddpm.py, whose blocks are called
            differently from the plain blocks in models/ncsnpp.py.
    """
    walk = _Walk(net.config, from_ddpm)

    yield from walk.embedding(net.embedding)
    yield from _conv(walk.next_of("Conv"), net.input)

    for down in net.downs:
        yield from walk.down(down)

    yield from walk.block(net.middle1)
    yield from walk.block(net.middle2)

    for i, up in enumerate(net.ups):
        yield from walk.up(up, first=i == 0)

    if net.output is not None:
        yield from walk.head(net.output)


def linen_shapes(original: Original, from_ddpm: bool) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of a configuration's parameters by Linen name, without making an array."""
    # Without dropout: its random streams would be traced too.
    config = dataclasses.replace(original.net, dropout=0.0)
    net = nnx.eval_shape(lambda: config.build(original.shape, rngs=nnx.Rngs(0)))
    assert isinstance(net, NCSNpp)
    return {leaf.name: leaf.shape for leaf in linen_names(net, from_ddpm)}


class _Walk:
    """Names submodules in the order in which its methods are called, and counts them by class."""

    def __init__(self, config: NCSNppConfig, from_ddpm: bool):
        self.config = config
        self.count = Counter[str]()

        plain = "ResnetBlockDDPM" if from_ddpm else "ResnetBlockDDPMpp"
        self.block_class = "ResnetBlockBigGANpp" if config.block == "biggan" else plain
        self.attention_class = "AttnBlock" if from_ddpm else "AttnBlockpp"

    def next_of(self, kind: str) -> str:
        """Returns the name of the next submodule of this class, such as "Conv_3"."""
        number = self.count[kind]
        self.count[kind] += 1
        return f"{kind}_{number}"

    # --- The parts of the network ---

    def embedding(self, module: NoiseEmbedding) -> Iterator[LinenLeaf]:
        """Yields GaussianFourierProjection, if there is one, and the two dense layers."""
        if module.frequencies is not None:
            name = self.next_of("GaussianFourierProjection")
            yield _leaf(f"{name}/W", module.frequencies)
        yield from _dense(self.next_of("Dense"), module.dense1)
        yield from _dense(self.next_of("Dense"), module.dense2)

    def down(self, level: DownLevel) -> Iterator[LinenLeaf]:
        """Yields a level of the way down."""
        for block in level.blocks:
            yield from self.block(block)
        if level.resample is None:
            return

        yield from self.resample(level.resample)
        if self.config.input_path == "residual":
            yield from self.resample(level.path)
        elif self.config.input_path == "skip":
            self.next_of("Downsample")  # has no parameters, but takes a number
            yield from _conv(f"{self.next_of('Combine')}/Conv_0", level.path)

    def up(self, level: UpLevel, first: bool) -> Iterator[LinenLeaf]:
        """Yields a level of the way up."""
        for block in level.blocks:
            yield from self.block(block)

        if self.config.output_path == "skip" and not first:
            self.next_of("Upsample")  # has no parameters, but takes a number
        if isinstance(level.path, Head):
            yield from self.head(level.path)
        elif level.path is not None:
            yield from self.resample(level.path)

        if level.resample is not None:
            yield from self.resample(level.resample)

    # --- Their submodules ---

    def block(self, module: Block) -> Iterator[LinenLeaf]:
        """Yields ResnetBlock..., and the AttnBlock after it, if there is one."""
        name = self.next_of(self.block_class)
        yield from _norm(f"{name}/GroupNorm_0", module.norm1)
        yield from _conv(f"{name}/Conv_0", module.conv1)
        yield from _dense(f"{name}/Dense_0", module.time)
        yield from _norm(f"{name}/GroupNorm_1", module.norm2)
        yield from _conv(f"{name}/Conv_1", module.conv2)

        if module.skip is not None and self.config.block == "biggan":
            yield from _conv(f"{name}/Conv_2", module.skip)
        elif module.skip is not None:
            yield from _nin(f"{name}/NIN_0", module.skip)

        if module.attention is not None:
            yield from self.attention(module.attention)

    def attention(self, module: Attention) -> Iterator[LinenLeaf]:
        """Yields AttnBlock..."""
        name = self.next_of(self.attention_class)
        yield from _norm(f"{name}/GroupNorm_0", module.norm)
        yield from _nin(f"{name}/NIN_0", module.query)
        yield from _nin(f"{name}/NIN_1", module.key)
        yield from _nin(f"{name}/NIN_2", module.value)
        yield from _nin(f"{name}/NIN_3", module.output)

    def resample(self, module: Block | Resample) -> Iterator[LinenLeaf]:
        """Yields Upsample or Downsample, or the block that takes its place."""
        if isinstance(module, Block):
            yield from self.block(module)
            return

        name = self.next_of("Upsample" if module.direction == "up" else "Downsample")
        if not module.fir:
            yield from _conv(f"{name}/Conv_0", module.conv)
            return

        bias: Any = module.conv.bias if module.bias is None else module.bias
        yield _leaf(f"{name}/Conv2d_0/weight", module.conv.kernel)
        yield _leaf(f"{name}/Conv2d_0/bias", bias)

    def head(self, module: Head) -> Iterator[LinenLeaf]:
        """Yields GroupNorm and Conv at the top level."""
        yield from _norm(self.next_of("GroupNorm"), module.norm)
        yield from _conv(self.next_of("Conv"), module.conv)


# --- Layers ---


def _leaf(name: str, param: nnx.Param) -> LinenLeaf:
    return LinenLeaf(name, param, param.shape)


def _norm(name: str, module: Any) -> Iterator[LinenLeaf]:
    yield _leaf(f"{name}/scale", module.scale)
    yield _leaf(f"{name}/bias", module.bias)


def _conv(name: str, module: Any) -> Iterator[LinenLeaf]:
    kernel = module.kernel
    window = () if kernel.ndim == 4 else (1, 1)  # our 1×1 convolutions are dense layers
    yield LinenLeaf(f"{name}/kernel", kernel, window + kernel.shape)
    yield _leaf(f"{name}/bias", module.bias)


def _dense(name: str, module: Any) -> Iterator[LinenLeaf]:
    yield _leaf(f"{name}/kernel", module.kernel)
    yield _leaf(f"{name}/bias", module.bias)


def _nin(name: str, module: Any) -> Iterator[LinenLeaf]:
    yield _leaf(f"{name}/W", module.kernel)
    yield _leaf(f"{name}/b", module.bias)
