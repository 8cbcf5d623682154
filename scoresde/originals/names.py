"""What the authors' Flax release of Song et al. 2021 calls each parameter of a network.

Its parameters are named as Linen names submodules, class by class in the order in which the original's `__call__` makes
them: `Conv_0` is the first convolution, wherever it stands. `linen_names` walks our network in that order.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator
from typing import Any

from flax import nnx

from scoresde.nets.ncsnpp import Attention, Block, Head, NCSNpp
from scoresde.nets.resample import Resample
from scoresde.originals.configurations import Original


def linen_names(
    net: NCSNpp, plain: bool = False
) -> Iterator[tuple[str, nnx.Param, tuple[int, ...]]]:
    """(name of the original's leaf, our parameter, the original's shape), in the order of the original's `__call__`.

    plain: named as in the original's `ddpm.py` and not in `ncsnpp.py`, whose plain blocks have other class names.
    Of equal shapes but for 1×1 convolutions, (1, 1, c_in, c_out) there and (c_in, c_out) here.
    """
    config, count = net.config, Counter[str]()
    kinds = {
        "biggan": "ResnetBlockBigGANpp",
        "plain": "ResnetBlockDDPM" if plain else "ResnetBlockDDPMpp",
    }

    def named(kind: str) -> str:
        count[kind] += 1
        return f"{kind}_{count[kind] - 1}"

    def block(module: Block) -> Iterator[Any]:
        name = named(kinds[config.block])
        yield from _norm(f"{name}/GroupNorm_0", module.norm1)
        yield from _conv(f"{name}/Conv_0", module.conv1)
        yield from _dense(f"{name}/Dense_0", module.time)
        yield from _norm(f"{name}/GroupNorm_1", module.norm2)
        yield from _conv(f"{name}/Conv_1", module.conv2)
        if module.skip is not None and config.block == "biggan":
            yield from _conv(f"{name}/Conv_2", module.skip)
        elif module.skip is not None:
            yield from _nin(f"{name}/NIN_0", module.skip)
        if module.attention is not None:
            yield from attention(module.attention)

    def attention(module: Attention) -> Iterator[Any]:
        name = named("AttnBlock" if plain else "AttnBlockpp")
        yield from _norm(f"{name}/GroupNorm_0", module.norm)
        for i, layer in enumerate((module.query, module.key, module.value, module.output)):
            yield from _nin(f"{name}/NIN_{i}", layer)

    def resample(module: Block | Resample) -> Iterator[Any]:
        if isinstance(module, Block):
            yield from block(module)
            return
        name = named("Upsample" if module.direction == "up" else "Downsample")
        if not module.fir:
            yield from _conv(f"{name}/Conv_0", module.conv)
            return
        yield f"{name}/Conv2d_0/weight", module.conv.kernel, module.conv.kernel.shape
        bias: Any = module.conv.bias if module.bias is None else module.bias
        yield f"{name}/Conv2d_0/bias", bias, bias.shape

    def head(module: Head) -> Iterator[Any]:
        yield from _norm(named("GroupNorm"), module.norm)
        yield from _conv(named("Conv"), module.conv)

    if net.embedding.frequencies is not None:
        frequencies = net.embedding.frequencies
        yield "GaussianFourierProjection_0/W", frequencies, frequencies.shape
    yield from _dense("Dense_0", net.embedding.dense1)
    yield from _dense("Dense_1", net.embedding.dense2)
    yield from _conv(named("Conv"), net.input)
    for level in net.downs:
        for module in level.blocks:
            yield from block(module)
        if level.resample is not None:
            yield from resample(level.resample)
            if config.input_path == "residual":
                yield from resample(level.path)
            elif config.input_path == "skip":
                named("Downsample")  # without parameters, but it takes its number
                yield from _conv(f"{named('Combine')}/Conv_0", level.path)
    yield from block(net.middle1)
    yield from block(net.middle2)
    for i, level in enumerate(net.ups):
        for module in level.blocks:
            yield from block(module)
        if config.output_path == "skip" and i > 0:
            named("Upsample")
        if level.path is not None:
            yield from head(level.path) if isinstance(level.path, Head) else resample(level.path)
        if level.resample is not None:
            yield from resample(level.resample)
    if net.output is not None:
        yield from head(net.output)


def _norm(name: str, module: Any) -> Iterator[Any]:
    yield f"{name}/scale", module.scale, module.scale.shape
    yield f"{name}/bias", module.bias, module.bias.shape


def _conv(name: str, module: Any) -> Iterator[Any]:
    kernel = module.kernel
    yield f"{name}/kernel", kernel, (1, 1) * (kernel.ndim == 2) + kernel.shape
    yield f"{name}/bias", module.bias, module.bias.shape


def _dense(name: str, module: Any) -> Iterator[Any]:
    yield f"{name}/kernel", module.kernel, module.kernel.shape
    yield f"{name}/bias", module.bias, module.bias.shape


def _nin(name: str, module: Any) -> Iterator[Any]:
    yield f"{name}/W", module.kernel, module.kernel.shape
    yield f"{name}/b", module.bias, module.bias.shape


def linen_shapes(original: Original, plain: bool) -> dict[str, tuple[int, ...]]:
    """The parameters' shapes by their Linen names, from shapes alone."""
    config = dataclasses.replace(
        original.net, dropout=0.0
    )  # its random streams would be traced too
    net = nnx.eval_shape(lambda: config.build(original.shape, rngs=nnx.Rngs(0)))
    assert isinstance(net, NCSNpp)
    return {name: shape for name, _, shape in linen_names(net, plain)}
