"""Importing checkpoints of the authors' Flax release of Song et al. 2021, as run folders of ours.

Only continuous configurations have a counterpart here (configurations.py). Each leaf of the file
(train_state.py) finds its parameter by its name (names.py). If one does not fit, nothing is
imported, and an error lists all misfits (misfits.py).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from scoresde.nets.ncsnpp import NCSNpp
from scoresde.originals.configurations import ORIGINALS, Original
from scoresde.originals.misfits import misfits
from scoresde.originals.names import linen_names, linen_shapes
from scoresde.originals.train_state import (
    CheckpointMismatch,
    adam_moments,
    is_from_ddpm,
    leaves_of,
    read_state,
)
from scoresde.runs.folder import RunFolder
from scoresde.runs.yaml_files import save_yaml
from scoresde.train.load import describe
from scoresde.train.model_settings import ModelSettings
from scoresde.train.settings import Training
from scoresde.train.state import Skeleton, init_state

SHOWN = 20
"""The number of misfits that an error lists; it only counts the others."""


def import_checkpoint(
    file: str | os.PathLike[str], out: str | os.PathLike[str], config: str | Original | None = None
) -> dict[str, Any]:
    """Imports a checkpoint as a run folder, and returns what `scoresde import-checkpoint` prints.

    Args:
        file: the checkpoint, such as checkpoint_26.
        out: the folder of the run, which is created.
        config: a name in `ORIGINALS`, or custom settings. None finds the configuration whose
            parameters have the names and shapes of those in the file.

    Raises:
        CheckpointMismatch: if the file is not a checkpoint of the original, or a leaf does not fit.
        FileExistsError: if the folder holds a run already.
    """
    if (Path(out).expanduser() / "checkpoints").exists():
        raise FileExistsError(f"{out} holds a run already: name another folder, --out FOLDER.")

    # The model that the file's parameters belong to
    state = read_state(file)
    target = state["optimizer"]["target"]
    original = _original(config, target)
    settings = ModelSettings(original.sde, original.net, original.parameterization)
    model = settings.build(jax.random.key(0), original.shape)
    net = model.net
    assert isinstance(net, NCSNpp)
    _check_fit(file, state, net)

    # The train state of ours that holds what the file does
    step = int(np.asarray(state["step"]))
    params = _params(net, target)
    constants = Skeleton.split(model)[2]
    trained = init_state(params, constants, Training().transformation())
    trained["step"] = jnp.asarray(step, jnp.int32)
    trained["ema"] = _params(net, state["params_ema"])
    moments = adam_moments(state)
    if moments is not None:
        first, second = (_params(net, tree) for tree in moments)
        trained["opt_state"] = _with_moments(trained["opt_state"], first, second, step)

    # The run's folder
    source = {
        "file": Path(file).name,
        "lr": float(np.asarray(state["lr"])),
        "ema_rate": float(np.asarray(state["ema_rate"])),
        "rng": np.asarray(state["rng"]).tolist(),
        "adam": moments is not None,
    }
    about = describe(model, original.shape, original.prepare)
    folder = RunFolder(out)
    with folder, folder.checkpoints:
        folder.checkpoints.save(step, trained, about | {"imported": source})
        save_yaml(original, folder.path / "config.yaml")

    leaves = jax.tree.leaves(params)
    summary = {
        "run": str(folder.path),
        "step": step,
        "parameters": sum(leaf.size for leaf in leaves),
        "leaves": len(leaves),
    }
    return summary | source


# --- The configuration ---


def _original(config: str | Original | None, target: Any) -> Original:
    """Returns the configuration with this name, or the one that the parameters belong to."""
    if isinstance(config, Original):
        return config
    if config is None:
        return _original_of(target)
    if config not in ORIGINALS:
        raise CheckpointMismatch(
            f"there is no configuration {config!r}: wanted one of {', '.join(ORIGINALS)}."
        )
    return ORIGINALS[config]


def _original_of(target: Any) -> Original:
    """Returns the configuration whose parameters have the names and shapes of these."""
    found = {name: np.shape(leaf) for name, leaf in leaves_of(target)}
    from_ddpm = is_from_ddpm(target)

    # Several configurations share a network, whose shapes take seconds to trace.
    fits: dict[Any, bool] = {}
    fitting = []
    for name, original in ORIGINALS.items():
        key = (original.net, original.shape)
        if key not in fits:
            fits[key] = linen_shapes(original, from_ddpm) == found
        if fits[key]:
            fitting.append(name)

    if len(fitting) == 1:
        return ORIGINALS[fitting[0]]

    if fitting:
        reason = (
            f"the parameters are those of {', '.join(fitting)}, and do not say which of them it is"
        )
    else:
        reason = "the parameters are those of no known configuration"
    raise CheckpointMismatch(
        f"{reason}. Name one by --config: {', '.join(fitting or ORIGINALS)}. Files of the discrete "
        f"configurations (without `continuous` in the name) may have the same parameters, but "
        f"their networks see other labels."
    )


def _check_fit(file: str | os.PathLike[str], state: dict[str, Any], net: NCSNpp) -> None:
    """Refuses a train state of which a leaf does not fit the network."""
    lines = misfits(state, net)
    if not lines:
        return

    listing = "".join(f"\n  {line}" for line in lines[:SHOWN])
    if len(lines) > SHOWN:
        listing += f"\n  … and {len(lines) - SHOWN} more"
    raise CheckpointMismatch(
        f"{file} does not fit the configuration, so nothing was imported:{listing}"
    )


# --- Values ---


def _params(net: NCSNpp, tree: Any) -> dict:
    """Returns the tree's values as parameters of ours, nested dicts of arrays.

    It writes them into `net`, which only lends its structure.
    """
    leaves = dict(leaves_of(tree))
    for name, param, _ in linen_names(net, is_from_ddpm(tree)):
        param[...] = jnp.asarray(leaves[name], param.dtype).reshape(param.shape)
    return jax.tree.map(jnp.copy, nnx.to_pure_dict(nnx.state(net, nnx.Param)))


def _with_moments(opt_state: Any, first: dict, second: dict, step: int) -> Any:
    """Returns Adam's state with these moments, and each of its counts set to the step."""

    def is_node(node: Any) -> bool:
        return "count" in getattr(node, "_fields", ())

    def fill(node: Any) -> Any:
        if not is_node(node):
            return node
        moments = {"mu": first, "nu": second} if "mu" in node._fields else {}
        return node._replace(count=jnp.asarray(step, node.count.dtype), **moments)

    return jax.tree.map(fill, opt_state, is_leaf=is_node)
