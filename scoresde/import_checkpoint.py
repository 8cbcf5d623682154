"""Checkpoints of the authors' Flax release of Song et al. 2021 as run folders of ours.

Such a file is a msgpack of Flax's: step, optimizer (target: the parameters; state: Adam's moments), lr, model_state,
ema_rate, params_ema, rng. Its parameters are named as Linen names submodules, class by class in the order in which
the original's `__call__` makes them: `Conv_0` is the first convolution, wherever it stands. `linen_names` walks our
network in that order. Every leaf finds its place, or nothing is imported and the misfits are listed.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from scoresde.config import save_yaml
from scoresde.dequantization import UniformDequantization
from scoresde.model import AnyNet, AnyParameterization, AnySDE, ModelSettings
from scoresde.nets.ncsnpp import Attention, Block, Head, NCSNpp, NCSNppConfig
from scoresde.nets.resample import Resample
from scoresde.sampling.choices import AnySampler
from scoresde.sampling.euler_maruyama import EulerMaruyama
from scoresde.sampling.langevin import LangevinCorrector, NoiseLevel
from scoresde.sampling.predictor_corrector import PredictorCorrector, ReverseDiffusionPredictor
from scoresde.score import Noise, Scaled, Score, Sigma
from scoresde.sde.ve import VE
from scoresde.sde.vp import VP, SubVP
from scoresde.train.run import RunFolder, describe
from scoresde.train.state import Skeleton, init_state
from scoresde.train.step import Training

KEYS = ("step", "optimizer", "lr", "model_state", "ema_rate", "params_ema", "rng")
SHOWN = 20
"""Misfits that an error lists; beyond, it counts them."""


class CheckpointMismatch(ValueError):
    """A checkpoint that is not the original's, or not of this configuration: the message lists what does not fit."""


@dataclasses.dataclass(frozen=True)
class Original:
    """One of the original's configurations, as settings of ours."""

    sde: AnySDE
    net: AnyNet
    parameterization: AnyParameterization
    sampler: AnySampler
    side: int = 32
    """Height and width of the images, which have three channels."""
    channels: int = 3
    """Of the images."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of one image."""
        return self.side, self.side, self.channels

    @property
    def prepare(self) -> UniformDequantization:
        """How integers 0 … 255 become the network's data."""
        return UniformDequantization(256, -1.0 if getattr(self.net, "centered", True) else 0.0, 1.0)


def _ve(net: NCSNppConfig, sigma_max: float = 50.0, snr: float = 0.16, num_steps: int = 1000, side: int = 32):
    """Data in [0, 1], the network sees sigma and gives the score."""
    corrector = LangevinCorrector(1, NoiseLevel(snr=snr))
    sampler = PredictorCorrector(ReverseDiffusionPredictor(), corrector, num_steps, t_min=1e-5)
    net = dataclasses.replace(net, centered=False)
    return Original(VE(0.01, sigma_max), net, Score(label=Sigma()), sampler, side)


def _vp(sde: AnySDE, net: NCSNppConfig):
    """Data in [-1, 1], the network sees 999 t and gives the noise."""
    return Original(sde, net, Noise(label=Scaled(999.0)), EulerMaruyama(1000, t_min=1e-3))


def _originals() -> dict[str, Original]:
    ncsnpp, ncsnpp_deep, large = NCSNppConfig.ncsnpp(), NCSNppConfig.ncsnpp_deep(), NCSNppConfig.ncsnpp_256()
    positional = {"embedding": "positional", "scale_by_sigma": False}
    faces_1024 = {"channels": 16, "multipliers": (1, 2, 4, 8, 16, 32, 32, 32), "num_blocks": 1}
    return {
        "ve/cifar10_ncsnpp_continuous": _ve(ncsnpp),
        "ve/cifar10_ncsnpp_deep_continuous": _ve(ncsnpp_deep),
        "ve/celebahq_256_ncsnpp_continuous": _ve(large, 348.0, 0.075, 2000, 256),
        "ve/ffhq_256_ncsnpp_continuous": _ve(large, 348.0, 0.075, 2000, 256),
        "ve/bedroom_ncsnpp_continuous": _ve(large, 378.0, 0.075, 2000, 256),
        "ve/church_ncsnpp_continuous": _ve(large, 380.0, 0.075, 2000, 256),
        "ve/ffhq_ncsnpp_continuous": _ve(NCSNppConfig.ncsnpp_256(**faces_1024), 1348.0, 0.15, 2000, 1024),
        **{
            f"{kind}/{name}": _vp(sde, net)
            for kind, sde in (("vp", VP()), ("subvp", SubVP()))
            for name, net in (
                ("cifar10_ddpmpp_continuous", NCSNppConfig.ddpmpp()),
                ("cifar10_ddpmpp_deep_continuous", NCSNppConfig.ddpmpp_deep()),
                ("cifar10_ncsnpp_continuous", NCSNppConfig.ncsnpp(**positional)),
                ("cifar10_ncsnpp_deep_continuous", NCSNppConfig.ncsnpp_deep(**positional)),
            )
        },
        "vp/ddpm/cifar10_continuous": _vp(VP(), NCSNppConfig.ddpm()),
        "subvp/cifar10_ddpm_continuous": _vp(SubVP(), NCSNppConfig.ddpm()),
    }


ORIGINALS = _originals()
"""The original's continuous configurations, by the names of its files under configs/."""


def import_checkpoint(
    file: str | os.PathLike[str], out: str | os.PathLike[str], config: str | Original | None = None
) -> dict[str, Any]:
    """Make the run folder `out` of a checkpoint; what it holds, as `scoresde import-checkpoint` prints it.

    config: a name in `ORIGINALS`, or settings of your own. None: the one whose parameters are those of the file.

    Raises:
        CheckpointMismatch: if the file is another one's, or a leaf does not fit.
        FileExistsError: if there is a run already.
    """
    if (Path(out).expanduser() / "checkpoints").exists():
        raise FileExistsError(f"{out} holds a run already: name another folder, --out FOLDER.")
    state = read_state(file)
    original = _chosen(config, state["optimizer"]["target"])
    model = ModelSettings(original.sde, original.net, original.parameterization).build(
        jax.random.key(0), original.shape
    )
    net, constants = model.net, Skeleton.split(model)[2]
    assert isinstance(net, NCSNpp)
    misfits = _misfits(state, net)
    if misfits:
        more = f"\n  … and {len(misfits) - SHOWN} more" if len(misfits) > SHOWN else ""
        listing = "".join(f"\n  {line}" for line in misfits[:SHOWN])
        raise CheckpointMismatch(f"{file} does not fit the configuration, so nothing was imported:{listing}{more}")
    step = int(np.asarray(state["step"]))
    rates = {name: float(np.asarray(state[name])) for name in ("lr", "ema_rate")}
    params = _weights(net, state["optimizer"]["target"])
    trained = init_state(params, constants, Training().optimizer())
    trained |= {"step": jnp.asarray(step, jnp.int32), "ema": _weights(net, state["params_ema"])}
    moments = _moments(state)
    if moments:
        mean, square = (_weights(net, tree) for tree in moments)
        trained["opt_state"] = _with_moments(trained["opt_state"], mean, square, step)
    folder = RunFolder(out)
    source = {"file": Path(file).name, **rates, "rng": np.asarray(state["rng"]).tolist(), "adam": bool(moments)}
    about = describe(model, original.shape, original.prepare)
    with folder.checkpoints:
        folder.checkpoints.save(step, trained, about | {"imported": source})
    save_yaml(original, folder.path / "config.yaml")
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    return {"run": str(folder.path), "step": step, "parameters": count, "leaves": len(jax.tree.leaves(params))} | source


def read_state(file: str | os.PathLike[str]) -> dict[str, Any]:
    """The train state in a checkpoint's file, as nested dicts of arrays.

    Raises:
        CheckpointMismatch: if it is no msgpack of Flax's, or has other keys.
    """
    from flax.serialization import msgpack_restore

    content = Path(file).expanduser().read_bytes()
    try:
        state = msgpack_restore(content)
    except Exception as error:  # msgpack's own are many
        raise CheckpointMismatch(
            f"{file} is not a checkpoint that Flax wrote (msgpack): {type(error).__name__}."
        ) from error
    if not isinstance(state, dict) or set(state) != set(KEYS):
        found = sorted(map(str, state)) if isinstance(state, dict) else type(state).__name__
        raise CheckpointMismatch(f"{file} holds {found}: wanted a train state of the original release, {list(KEYS)}.")
    optimizer = state["optimizer"]
    if not isinstance(optimizer, dict) or set(optimizer) != {"target", "state"}:
        raise CheckpointMismatch(f"{file}: its optimizer holds {sorted(optimizer or {})}: wanted target and state.")
    return _norms_flat(state)


def _norms_flat(tree: Any, norm: bool = False) -> Any:
    """GroupNorm's scale and bias of (1, 1, 1, C), as Flax had them when the original was written (0.3), as (C,)."""
    if isinstance(tree, dict):
        return {name: _norms_flat(value, norm or str(name).startswith("GroupNorm_")) for name, value in tree.items()}
    if norm and np.ndim(tree) > 1 and set(np.shape(tree)[:-1]) == {1}:
        return np.reshape(tree, np.shape(tree)[-1:])
    return tree


def _chosen(config: str | Original | None, target: Any) -> Original:
    if isinstance(config, Original):
        return config
    if config is not None:
        if config not in ORIGINALS:
            raise CheckpointMismatch(f"no configuration {config!r}: wanted one of {', '.join(ORIGINALS)}.")
        return ORIGINALS[config]
    found = {name: np.shape(leaf) for name, leaf in _flat(target if isinstance(target, dict) else {})}
    fitting, seen = [], {}
    for name, original in ORIGINALS.items():
        key = (original.net, original.shape)
        if key not in seen:
            seen[key] = linen_shapes(original, plain="ResnetBlockDDPM_0/Conv_0/kernel" in found) == found
        fitting += [name] * seen[key]
    if len(fitting) == 1:
        return ORIGINALS[fitting[0]]
    choices = f"those of {', '.join(fitting)}: the weights do not say which" if fitting else "those of none known"
    raise CheckpointMismatch(f"its parameters are {choices}. Name one by --config: {', '.join(fitting or ORIGINALS)}.")


def linen_shapes(original: Original, plain: bool) -> dict[str, tuple[int, ...]]:
    """The parameters' shapes by their Linen names, from shapes alone."""
    config = dataclasses.replace(original.net, dropout=0.0)  # its random streams would be traced too
    net = nnx.eval_shape(lambda: config.build(original.shape, rngs=nnx.Rngs(0)))
    assert isinstance(net, NCSNpp)
    return {name: shape for name, _, shape in linen_names(net, plain)}


# --- Names ---


def linen_names(net: NCSNpp, plain: bool = False) -> Iterator[tuple[str, nnx.Param, tuple[int, ...]]]:
    """(name of the original's leaf, our parameter, the original's shape), in the order of the original's `__call__`.

    plain: named as in the original's `ddpm.py` and not in `ncsnpp.py`, whose plain blocks have other class names.
    Of equal shapes but for 1×1 convolutions, (1, 1, c_in, c_out) there and (c_in, c_out) here.
    """
    config, count = net.config, Counter[str]()
    kinds = {"biggan": "ResnetBlockBigGANpp", "plain": "ResnetBlockDDPM" if plain else "ResnetBlockDDPMpp"}

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


# --- Leaves ---


def _flat(tree: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """{"Conv_0": {"bias": b}} → ("Conv_0/bias", b); a dict that is empty is no leaf."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{place}{name}/")
        else:
            yield f"{place}{name}", value


def _is_plain(tree: Any) -> bool:
    return any(name.startswith("ResnetBlockDDPM_") for name in tree)


def _moments(state: dict[str, Any]) -> list[Any]:
    """Adam's two moments as trees like the parameters, or none where the file keeps none."""
    leaves = ((state["optimizer"]["state"] or {}).get("param_states")) or {}

    def part(tree: Any, name: str) -> Any:
        return tree[name] if name in tree else {key: part(value, name) for key, value in tree.items()}

    return [part(leaves, name) for name in ("grad_ema", "grad_sq_ema")] if leaves else []


def _misfits(state: dict[str, Any], net: NCSNpp) -> list[str]:
    """One line for every leaf that is missing, unexpected, or of another shape or type."""
    target, ema = state["optimizer"]["target"], state["params_ema"]
    found: list[str] = []
    wanted = {name: shape for name, _, shape in linen_names(net, _is_plain(target))}

    def compare(place: str, tree: Any, ends: tuple[str, ...] = ("",)) -> None:
        leaves = dict(_flat(tree)) if isinstance(tree, dict) else {}
        names = {f"{name}{end}": shape for name, shape in wanted.items() for end in ends}
        for name, shape in names.items():
            leaf = leaves.get(name)
            if leaf is None:
                found.append(f"{place}/{name}: missing, wanted {shape}")
            elif np.shape(leaf) != shape:
                found.append(f"{place}/{name}: {np.shape(leaf)}, wanted {shape}")
            elif not np.all(np.isfinite(np.asarray(leaf, np.float32))):
                found.append(f"{place}/{name}: holds NaN or infinity")
        found.extend(f"{place}/{name}: {np.shape(leaves[name])}, unexpected" for name in leaves if name not in names)

    compare("optimizer/target", target)
    compare("params_ema", ema)
    rest = dict(state["optimizer"]["state"] or {})
    rest.pop("step", None)
    moments = rest.pop("param_states", None) or {}
    if moments:
        compare("optimizer/state/param_states", moments, ("/grad_ema", "/grad_sq_ema"))
    found += [f"optimizer/state/{name}: unexpected" for name, _ in _flat(rest)]
    found += [f"model_state/{name}: unexpected" for name, _ in _flat(state["model_state"] or {})]
    found += [f"{name}: {np.shape(state[name])}, wanted one number" for name in ("step", "lr", "ema_rate")
              if np.shape(state[name]) != () or not math.isfinite(float(state[name]))]  # fmt: skip
    return found


def _weights(net: NCSNpp, tree: Any) -> dict:
    """The tree's values as our parameters: nested dicts of arrays."""
    leaves = dict(_flat(tree))
    for name, param, _ in linen_names(net, _is_plain(tree)):
        param[...] = jnp.asarray(leaves[name], param.dtype).reshape(param.shape)
    return jax.tree.map(jnp.copy, nnx.to_pure_dict(nnx.state(net, nnx.Param)))


def _with_moments(opt_state: Any, mean: dict, square: dict, step: int) -> Any:
    """Adam's state with these moments, and every count at the step."""

    def is_node(node: Any) -> bool:
        return "count" in getattr(node, "_fields", ())

    def fill(node: Any) -> Any:
        if not is_node(node):
            return node
        moments = {"mu": mean, "nu": square} if "mu" in node._fields else {}
        return node._replace(count=jnp.asarray(step, node.count.dtype), **moments)

    return jax.tree.map(fill, opt_state, is_leaf=is_node)
