"""Checkpoints of the authors' Flax release of Song et al. 2021, continuous configurations, as run folders of ours.

Such a file is a msgpack of Flax's: step, optimizer (target: the parameters; state: Adam's moments), lr, model_state,
ema_rate, params_ema, rng. Every leaf finds its place by its name (linen_names.py), or nothing is imported and the
misfits are listed.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from scoresde.nets.ncsnpp import NCSNpp
from scoresde.originals.configurations import ORIGINALS, Original
from scoresde.originals.names import linen_names, linen_shapes
from scoresde.runs.folder import RunFolder
from scoresde.runs.yaml_files import save_yaml
from scoresde.train.load import describe
from scoresde.train.model_settings import ModelSettings
from scoresde.train.settings import Training
from scoresde.train.state import Skeleton, init_state

KEYS = ("step", "optimizer", "lr", "model_state", "ema_rate", "params_ema", "rng")
SHOWN = 20
"""Misfits that an error lists; beyond, it counts them."""


class CheckpointMismatch(ValueError):
    """A checkpoint that is not the original's, or not of this configuration: the message lists what does not fit."""


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
        raise CheckpointMismatch(
            f"{file} does not fit the configuration, so nothing was imported:{listing}{more}"
        )
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
    source = {
        "file": Path(file).name,
        **rates,
        "rng": np.asarray(state["rng"]).tolist(),
        "adam": bool(moments),
    }
    about = describe(model, original.shape, original.prepare)
    with folder.checkpoints:
        folder.checkpoints.save(step, trained, about | {"imported": source})
    save_yaml(original, folder.path / "config.yaml")
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    return {
        "run": str(folder.path),
        "step": step,
        "parameters": count,
        "leaves": len(jax.tree.leaves(params)),
    } | source


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
        raise CheckpointMismatch(
            f"{file} holds {found}: wanted a train state of the original release, {list(KEYS)}."
        )
    optimizer = state["optimizer"]
    if not isinstance(optimizer, dict) or set(optimizer) != {"target", "state"}:
        raise CheckpointMismatch(
            f"{file}: its optimizer holds {sorted(optimizer or {})}: wanted target and state."
        )
    if not isinstance(optimizer["target"], dict) or not isinstance(optimizer["state"] or {}, dict):
        raise CheckpointMismatch(
            f"{file}: its optimizer's target and state are no trees of arrays."
        )
    return _norms_flat(state)


def _norms_flat(tree: Any, norm: bool = False) -> Any:
    """GroupNorm's scale and bias of (1, 1, 1, C), as Flax had them when the original was written (0.3), as (C,)."""
    if isinstance(tree, dict):
        return {
            name: _norms_flat(value, norm or str(name).startswith("GroupNorm_"))
            for name, value in tree.items()
        }
    if norm and np.ndim(tree) > 1 and set(np.shape(tree)[:-1]) == {1}:
        return np.reshape(tree, np.shape(tree)[-1:])
    return tree


def _chosen(config: str | Original | None, target: Any) -> Original:
    if isinstance(config, Original):
        return config
    if config is not None:
        if config not in ORIGINALS:
            raise CheckpointMismatch(
                f"no configuration {config!r}: wanted one of {', '.join(ORIGINALS)}."
            )
        return ORIGINALS[config]
    found = {
        name: np.shape(leaf) for name, leaf in _flat(target if isinstance(target, dict) else {})
    }
    fitting, seen = [], {}
    for name, original in ORIGINALS.items():
        key = (original.net, original.shape)
        if key not in seen:
            seen[key] = (
                linen_shapes(original, plain="ResnetBlockDDPM_0/Conv_0/kernel" in found) == found
            )
        fitting += [name] * seen[key]
    if len(fitting) == 1:
        return ORIGINALS[fitting[0]]
    choices = (
        f"those of {', '.join(fitting)}: the weights do not say which"
        if fitting
        else "those of none known"
    )
    raise CheckpointMismatch(
        f"its parameters are {choices}. Name one by --config: {', '.join(fitting or ORIGINALS)}. Files of the discrete "
        f"configurations (no `continuous` in the name) may have the same parameters, and mean another thing by them."
    )


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
        return (
            tree[name] if name in tree else {key: part(value, name) for key, value in tree.items()}
        )

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
            elif np.asarray(leaf).dtype.kind not in "fV":  # V: bfloat16
                found.append(f"{place}/{name}: {np.asarray(leaf).dtype}, wanted real numbers")
            elif not np.all(np.isfinite(np.asarray(leaf, np.float32))):
                found.append(f"{place}/{name}: holds NaN or infinity")
        found.extend(
            f"{place}/{name}: {np.shape(leaves[name])}, unexpected"
            for name in leaves
            if name not in names
        )

    compare("optimizer/target", target)
    compare("params_ema", ema)
    rest = dict(state["optimizer"]["state"] or {})
    rest.pop("step", None)
    moments = rest.pop("param_states", None) or {}
    if moments:
        compare("optimizer/state/param_states", moments, ("/grad_ema", "/grad_sq_ema"))
    found += [f"optimizer/state/{name}: unexpected" for name, _ in _flat(rest)]
    found += [f"model_state/{name}: unexpected" for name, _ in _flat(state["model_state"] or {})]
    found += [
        f"{name}: {repr(state[name])[:40]}, wanted one number"
        for name in ("step", "lr", "ema_rate")
        if not _is_number(state[name])
    ]
    if not found and (state["step"] < 0 or state["step"] != int(state["step"])):
        found.append(f"step: {state['step']}, wanted a whole number from 0")
    return found


def _is_number(value: Any) -> bool:
    value = np.asarray(value)
    return value.shape == () and value.dtype.kind in "iuf" and math.isfinite(float(value))


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
