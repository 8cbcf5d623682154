"""What does not fit between a train state of the original and a network of ours."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from scoresde.nets.ncsnpp import NCSNpp
from scoresde.originals.names import linen_names
from scoresde.originals.train_state import MOMENTS, is_from_ddpm, leaves_of

Shapes = dict[str, tuple[int, ...]]


def misfits(state: dict[str, Any], net: NCSNpp) -> list[str]:
    """Returns a line for each leaf that is missing, unexpected, or of another shape or type."""
    target = state["optimizer"]["target"]
    wanted = {leaf.name: leaf.shape for leaf in linen_names(net, is_from_ddpm(target))}

    found = _tree_misfits("optimizer/target", target, wanted)
    found += _tree_misfits("params_ema", state["params_ema"], wanted)
    found += _adam_misfits(state["optimizer"]["state"] or {}, wanted)
    found += _unexpected("model_state", state["model_state"] or {})
    found += _number_misfits(state)
    return found


def _tree_misfits(place: str, tree: Any, wanted: Shapes) -> list[str]:
    """Returns the misfits of a tree of parameters, or of their moments."""
    leaves = dict(leaves_of(tree)) if isinstance(tree, dict) else {}

    found = []
    for name, shape in wanted.items():
        if name not in leaves:
            found.append(f"{place}/{name}: missing, wanted {shape}")
            continue
        misfit = _leaf_misfit(leaves[name], shape)
        if misfit is not None:
            found.append(f"{place}/{name}: {misfit}")

    for name, leaf in leaves.items():
        if name not in wanted:
            found.append(f"{place}/{name}: {np.shape(leaf)}, unexpected")
    return found


def _leaf_misfit(leaf: Any, shape: tuple[int, ...]) -> str | None:
    """Returns what is wrong with a parameter, or None."""
    if leaf is None:
        return f"missing, wanted {shape}"
    if np.shape(leaf) != shape:
        return f"{np.shape(leaf)}, wanted {shape}"

    values = np.asarray(leaf)
    if values.dtype.kind not in "fV":  # V: bfloat16
        return f"{values.dtype}, wanted real numbers"
    if not np.all(np.isfinite(np.asarray(leaf, np.float32))):
        return "holds NaN or infinity"
    return None


def _adam_misfits(adam: dict[str, Any], wanted: Shapes) -> list[str]:
    """Returns the misfits of Adam's moments, which a file may leave out."""
    rest = dict(adam)
    rest.pop("step", None)
    moments = rest.pop("param_states", None) or {}

    found = []
    if moments:
        both = {}
        for name, shape in wanted.items():
            for moment in MOMENTS:
                both[f"{name}/{moment}"] = shape
        found += _tree_misfits("optimizer/state/param_states", moments, both)
    return found + _unexpected("optimizer/state", rest)


def _unexpected(place: str, tree: dict[str, Any]) -> list[str]:
    """Returns a line for each leaf of a tree that should have none."""
    return [f"{place}/{name}: unexpected" for name, _ in leaves_of(tree)]


def _number_misfits(state: dict[str, Any]) -> list[str]:
    """Returns the misfits of the step and the rates."""
    found = []
    for name in ("step", "lr", "ema_rate"):
        if not _is_number(state[name]):
            found.append(f"{name}: {repr(state[name])[:40]}, wanted one number")

    step = state["step"]
    if _is_number(step) and (step < 0 or step != int(step)):
        found.append(f"step: {step}, wanted a whole number from 0")
    return found


def _is_number(value: Any) -> bool:
    value = np.asarray(value)
    return value.shape == () and value.dtype.kind in "iuf" and math.isfinite(float(value))
