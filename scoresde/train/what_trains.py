"""What `fit` trains, and what it keeps: said before the first step, with each variable by name.

`fit` trains the variables of type `nnx.Param` of the network, by the variational bound the schedule
of the SDE too, and nothing else. Random streams advance by themselves. Other variables and JAX
arrays, of the network, the SDE or the parameterisation, and a schedule that another objective does
not train, stay at their start: `warn_of_constants` names them. NumPy arrays and numbers are
constants by their kind, so nothing is said of them.

A network that changes variables while it is called would lose the change after every step, and
could not be sampled from at all: `check_unchanged` refuses it while the step is traced.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from scoresde import checks
from scoresde.parallel.mesh import local_parts
from scoresde.parallel.processes import any_process
from scoresde.score.classifier import ClassifierModel
from scoresde.score.model import ScoreModel

SILENCE = 'warnings.filterwarnings("ignore", "fit keeps")'
"""The line that says: these constants are meant to be constants."""


# --- What cannot be trained ---


def not_finite(tree: Any) -> str:
    """Returns the names of arrays that hold NaN or infinity, "" if there is none.

    It looks at them on the host: a compiled check of many arrays would take seconds to compile. Of
    sharded arrays each process looks at its own shards.
    """
    names = [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        if not all(_is_finite(part) for part in local_parts(leaf))
    ]
    more = f" and {len(names) - 3} others" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _is_finite(array: np.ndarray) -> bool:
    return bool(
        np.all(np.isfinite(array.astype(np.promote_types(array.dtype, np.float32), copy=False)))
    )


def check_finite(tree: Any, what: str, advice: str, together: bool = False) -> None:
    """Refuses arrays that hold NaN or infinity: no step would make them finite again.

    together: whether all processes make this call, each with its shards of the same arrays.

    Raises:
        ValueError: naming the first arrays, in `what`.
    """
    names = not_finite(tree)
    if any_process(bool(names)) if together else names:
        names = names or "what another process has of it"
        raise ValueError(f"{what} holds values that are not finite, in {names}. {advice}")


def check_trainable(model: Any) -> None:
    """Refuses what `fit` cannot train.

    Raises:
        TypeError: if it is not a ScoreModel or ClassifierModel around an NNX module, if the network
            keeps running statistics, has no parameter, or one that has no gradient.
    """
    wanted = "sd.ScoreModel(sde, net, parameterization), or sd.ClassifierModel(sde, net)."
    checks.instance("model", model, ScoreModel | ClassifierModel, wanted)
    if not isinstance(model.net, nnx.Module):
        raise TypeError(
            f"the network is a {type(model.net).__name__}: fit trains NNX modules. Other networks "
            f"sample and evaluate without change; to train one, differentiate sd.dsm_loss in a "
            f"custom loop."
        )
    _check_no_statistics(model.net)
    _check_parameters(model.net)


def _check_no_statistics(net: nnx.Module) -> None:
    """Refuses running statistics: those of BatchNorm, of SpectralNorm and of custom layers."""
    found = list(_variables(net, nnx.BatchStat))
    if not found:
        return

    layers = dict(_layer(net, path) for path, _ in found)
    raise TypeError(
        f"the network keeps batch statistics, which couple the examples of a batch and are not "
        f"parameters: {_listed(net, found)}, in {_layers_in_words(layers)}. "
        + _without(
            layers,
            "use group or layer normalisation instead, for example "
            "{name} = nnx.LayerNorm(features, rngs=rngs)",
        )
    )


def _check_parameters(net: nnx.Module) -> None:
    """Refuses networks without a parameter, and parameters of whole numbers."""
    found = list(_variables(net, nnx.Param))
    if not found:
        raise TypeError(
            f"the network {type(net).__name__} has no nnx.Param, so there is nothing to train: "
            f"wrap its arrays, for example self.weight = nnx.Param(weight)."
        )

    whole = [(path, leaf) for path, leaf in found if not _is_real(leaf)]
    if whole:
        name = _name(net, whole[0][0])
        raise TypeError(
            f"these parameters are not real numbers and have no gradient: {_listed(net, whole)}. "
            f"To train one write {name} = nnx.Param({name}[...].astype(jnp.float32)); to keep it "
            f"fixed, {name} = nnx.Variable({name}[...])."
        )


def variable_values(net: Any) -> dict[tuple, Any]:
    """Returns the arrays of a network by their paths, random streams aside."""
    return {path: _value(leaf) for path, leaf in _variables(net)}


def check_unchanged(net: Any, before: dict[tuple, Any]) -> None:
    """Refuses a network that changed its variables while it was called, random streams aside.

    Args:
        net: the network after the call.
        before: its `variable_values` before the call.

    Raises:
        TypeError: if a variable was changed or added.
    """
    changed = [
        (path, leaf) for path, leaf in _variables(net) if before.get(path) is not _value(leaf)
    ]
    if not changed:
        return

    # A layer that rewrites the parameters of the layer in it is named by itself.
    layers = dict(_outermost_wrapper(net, path) or _layer(net, path) for path, _ in changed)
    raise TypeError(
        f"the network changes its variables when it is called, and fit keeps none of these "
        f"changes: {_listed(net, changed)}, in {_layers_in_words(layers)}. "
        + _without(
            layers,
            "compute the new value from the inputs and use it, without an assignment or self.sow",
        )
    )


# --- What stays at its start ---


def warn_of_constants(model: Any, schedule_trains: bool = False) -> None:
    """Warns of variables, JAX arrays and schedules that training leaves as they are."""
    _warn_of_network(model.net)
    if model.sde.parameters() and not schedule_trains:
        _warn_of_schedule(model)
    else:
        _warn_of_settings("sde", model.sde, _constants_of_sde(model.sde))
    for root in ("parameterization", "label"):
        value = getattr(model, root, None)
        _warn_of_settings(root, value, dict(_arrays(value, root)))


def _constants_of_sde(sde: Any) -> dict[str, jax.Array]:
    """Returns the arrays of an SDE that other parameters do not replace, by name."""
    moved = dict(_arrays(sde.with_parameters(jax.tree.map(jnp.copy, sde.parameters())), "sde"))
    return {name: array for name, array in _arrays(sde, "sde") if moved.get(name) is array}


def _warn_of_schedule(model: Any) -> None:
    parts = " and ".join(model.sde.parameters())
    if isinstance(model, ClassifierModel):
        line = "A classifier takes the schedule of the score that it guides"
    else:
        line = (
            "To train it write sd.Training(objective=sd.objectives.VariationalBound(levels)), with "
            "the number of levels of integer data"
        )
    checks.warn(
        f"fit keeps the {parts} of the schedule as they are, because only the variational bound "
        f"trains them. {line}; if they are constants, write {SILENCE}."
    )


def _warn_of_network(net: Any) -> None:
    kept = [
        (path, leaf)
        for path, leaf in _variables(net)
        if not isinstance(leaf, nnx.Param | np.ndarray) and jax.tree.leaves(_value(leaf))
    ]
    if not kept:
        return

    trainable = next(((path, leaf) for path, leaf in kept if _is_real(leaf)), None)
    line = ""
    if trainable is not None:
        path, leaf = trainable
        name = _name(net, path)
        value = f"{name}[...]" if isinstance(leaf, nnx.Variable) else name
        line = f" To train one write {name} = nnx.Param({value})."
    checks.warn(
        f"fit keeps these variables of the network at their start, because it trains nnx.Param "
        f"alone: {_listed(net, kept)}.{line} If they are constants, write {SILENCE}."
    )


def _warn_of_settings(root: str, value: Any, arrays: dict[str, jax.Array]) -> None:
    if not arrays:
        return

    listed = ", ".join(f"{name} ({a.dtype}, {a.shape})" for name, a in arrays.items())
    scalars = {
        field.name: float(arrays[f"{root}.{field.name}"])
        for field in (dataclasses.fields(value) if dataclasses.is_dataclass(value) else ())
        if f"{root}.{field.name}" in arrays and arrays[f"{root}.{field.name}"].ndim == 0
    }
    line = SILENCE
    if len(scalars) == len(arrays):
        changes = ", ".join(f"{name}={number!r}" for name, number in scalars.items())
        line = f"dataclasses.replace({root}, {changes})"
    checks.warn(
        f"fit keeps these arrays as they are, because it trains the network alone: {listed}. If "
        f"they are constants, write {line}."
    )


def _arrays(value: Any, name: str) -> Iterator[tuple[str, jax.Array]]:
    """Yields the JAX arrays in settings, with their names: in pytrees and in plain objects."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(value):
        place = name + jax.tree_util.keystr(path)
        if isinstance(leaf, jax.Array):
            yield place, leaf
        elif dataclasses.is_dataclass(leaf) or hasattr(leaf, "log_alpha"):  # an unregistered SDE
            for attribute, part in vars(leaf).items():
                yield from _arrays(part, f"{place}.{attribute}")


# --- Variables and their names ---


def _variables(net: Any, kind: type = object) -> Iterator[tuple[tuple, Any]]:
    """Yields (path, variable or array) of a network, random streams aside."""
    for path, leaf in nnx.to_flat_state(nnx.state(net)):
        if isinstance(leaf, kind) and not isinstance(leaf, nnx.RngState):
            yield path, leaf


def _value(leaf: Any) -> Any:
    return leaf.get_value() if isinstance(leaf, nnx.Variable) else leaf


def _dtype(value: Any) -> Any:
    return getattr(value, "dtype", None) or jnp.result_type(value)


def _is_real(leaf: Any) -> bool:
    """Returns whether a variable has a gradient."""
    return all(jnp.issubdtype(_dtype(a), jnp.inexact) for a in jax.tree.leaves(_value(leaf)))


def _listed(net: Any, found: Sequence[tuple[tuple, Any]], most: int = 6) -> str:
    """Returns the first variables in words: name (type, dtype, shape)."""
    words = []
    for path, leaf in found[:most]:
        kind = type(leaf).__name__ if isinstance(leaf, nnx.Variable) else "array"
        for value in jax.tree.leaves(_value(leaf)):  # self.sow keeps a tuple
            words.append(f"{_name(net, path)} ({kind}, {_dtype(value)}, {np.shape(value)})")
    rest = len(found) - most
    return ", ".join(words) + (f" and {rest} more" if rest > 0 else "")


def _nodes(net: Any, path: tuple) -> Iterator[tuple[str, Any]]:
    """Yields (name, node) on the way from the network to a variable, names as Python reads them."""
    name = "net"
    node = net
    yield name, node
    for key in path:
        by_key = isinstance(node, Mapping | list | tuple) or not isinstance(key, str)
        name += f"[{key!r}]" if by_key else f".{key}"
        node = cast(Any, node)[key] if by_key else getattr(node, key)
        yield name, node


def _name(net: Any, path: tuple) -> str:
    *_, (name, _) = _nodes(net, path)
    return name


def _layer(net: Any, path: tuple) -> tuple[str, Any]:
    """Returns the innermost module that holds a variable, with its name."""
    modules = [(name, node) for name, node in _nodes(net, path) if isinstance(node, nnx.Module)]
    return modules[-1]


def _outermost_wrapper(net: Any, path: tuple) -> tuple[str, Any] | None:
    """Returns the outermost module on the way that wraps another one, as WeightNorm does."""
    for name, node in _nodes(net, path):
        if isinstance(node, nnx.Module) and hasattr(node, "layer_instance"):
            return name, node
    return None


def _layers_in_words(layers: dict[str, Any]) -> str:
    return ", ".join(f"{name} ({type(layer).__name__})" for name, layer in layers.items())


def _without(layers: dict[str, Any], otherwise: str) -> str:
    """Returns what to write for these layers: for a wrapper such as WeightNorm the layer in it, and
    `otherwise`, with the {name} of the first, for any other."""
    wrapped = [name for name, layer in layers.items() if hasattr(layer, "layer_instance")]
    others = [name for name in layers if name not in wrapped]

    lines = [f"write {name} = {name}.layer_instance" for name in wrapped]
    if others:
        lines.append(otherwise.format(name=others[0]))
    text = "; ".join(lines)
    return f"{text[0].upper()}{text[1:]}."
