"""`load` returns the model that a run trained."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any, get_type_hints

import jax
import numpy as np
from flax import nnx

from scoresde.data.dequantization import UniformDequantization
from scoresde.data.prepare import BinCentres, Scale, without_augmentation
from scoresde.nets.initializers import OneKey
from scoresde.parallel.processes import differences
from scoresde.reading import UnreadableError, check_inside, read_npz
from scoresde.runs.about import check_about
from scoresde.runs.checkpoint import CheckpointError, Checkpoints, Restored
from scoresde.runs.folder import HELD_OUT, LARGEST_HELD_OUT
from scoresde.runs.manifest import MANIFEST, describe_leaves, leaf_differences, read_manifest
from scoresde.runs.settings import ConfigError, from_dict, stable_repr, to_dict, union_members
from scoresde.score.model import ScoreModel
from scoresde.standardization import CondUnits, Standardization
from scoresde.train.model_settings import ClassifierSettings, Model, ModelSettings
from scoresde.train.state import Skeleton
from scoresde.types import Cond

HEADERS = 2**20
"""The bytes that the file of held-out examples takes beyond the examples, at most."""


def load(
    run: str | os.PathLike[str],
    *,
    step: int | None = None,
    ema: bool = True,
    model: Model | None = None,
) -> Any:
    """Returns the ScoreModel, or the ClassifierModel, that a run trained:
    `sd.load("runs/digits_vp")`.

    Arguments and errors are those of `open_run`, which returns what else is known of the run.
    Under `jax.distributed` every process makes this call.

    The schedule of an SDE that trained with its network is the trained one.

    Raises:
        ValueError: if the model that is given has another SDE or other pieces than the run: its
            network would be read as what it was not trained to be.
    """
    if model is not None:
        _refuse_another(model, Path(run).expanduser(), read_about(run, step))
    return open_run(run, step=step, ema=ema, model=model).model


def open_run(
    run: str | os.PathLike[str],
    *,
    step: int | None = None,
    ema: bool = True,
    model: Model | None = None,
) -> Trained:
    """Returns the model that a run trained, with what its folder says of the data.

    Args:
        run: the folder of the run.
        step: the checkpoint to read; None takes the newest sound one.
        ema: whether to take the averaged weights rather than those of the last step.
        model: needed only for a custom SDE, network or parameterisation: the model, built as it
            was for training. Its weights and its standardization are replaced.

    Raises:
        FileNotFoundError: if there is no run at that place.
        CheckpointError: if no checkpoint is sound, or it does not fit the model.
        ConfigError: if the model cannot be rebuilt from the checkpoint alone.
        UnreadableError: if no run wrote what the checkpoint says of itself.
    """
    path = Path(run).expanduser()
    weights = "ema" if ema else "params"
    with _checkpoints(path) as checkpoints:
        found = checkpoints.restore_subtree({}, step)
        _check_described(path, found.about)
        if model is None:
            model = _rebuild(path, found, weights)

        skeleton, params, constants = Skeleton.split(model, bool(found.about.get("schedule")))
        like = jax.eval_shape(lambda: {weights: params, "constants": constants})
        state = checkpoints.restore_subtree(like, found.step).state

    model = skeleton.in_evaluation(state[weights], state["constants"])
    known: dict[str, Any] = {"standardization": _standardization(found.about)}
    if isinstance(model, ScoreModel):
        known["null_is_trained"] = found.about.get("null_is_trained")
        known["cond_units"] = _cond_units(found.about)
    model = dataclasses.replace(model, **known)
    return Trained(
        path=path,
        step=found.step,
        model=model,
        shape=tuple(found.about["shape"]),
        prepare=_integers_to_reals(found.about),
        about=found.about,
    )


def read_about(run: str | os.PathLike[str], step: int | None = None) -> dict[str, Any]:
    """Returns the metadata of a run's checkpoint, by default of the newest sound one.

    Raises:
        FileNotFoundError, CheckpointError: as `open_run`.
    """
    path = Path(run).expanduser()
    with _checkpoints(path) as checkpoints:
        about = checkpoints.restore_subtree({}, step).about
    _check_described(path, about)
    return about


def _checkpoints(path: Path) -> Checkpoints:
    """Returns the checkpoints in the folder of a run.

    Raises:
        FileNotFoundError: if it holds none.
    """
    if not (path / "checkpoints").is_dir():
        raise FileNotFoundError(
            f"{path} is not a run's folder: it has no checkpoints/. Runs are made by "
            f"sd.fit(..., run={str(path)!r}), or by an experiment such as "
            f"`python experiments/digits_vp.py`."
        )
    check_inside(path / "checkpoints", path)
    return Checkpoints(path / "checkpoints")


def _check_described(path: Path, about: dict[str, Any]) -> None:
    """Refuses a checkpoint that does not say of its model what `describe` writes.

    Raises:
        UnreadableError: with the entry that is missing or of another kind.
    """
    check_about(about, f"the checkpoint of {path}")
    missing = {"shape", "model"} - about.keys()
    if missing or about["shape"] is None:
        raise UnreadableError(
            f"the checkpoint of {path} does not say its {' and '.join(missing) or 'shape'}: wanted "
            f"the folder of a run that sd.fit or an experiment made."
        )


@dataclasses.dataclass(frozen=True)
class Trained:
    """What the folder of a run holds, ready to use."""

    path: Path
    """The folder."""

    step: int
    """The step of the checkpoint."""

    model: Any
    """The ScoreModel or ClassifierModel with the weights of that step."""

    shape: tuple[int, ...]
    """The shape of one example."""

    prepare: UniformDequantization | BinCentres | None
    """How integer data became real numbers in training; None if they were real."""

    about: dict[str, Any]
    """The metadata of the checkpoint."""

    @property
    def range(self) -> tuple[float, float]:
        """The range of the data, whose ends are black and white in every picture."""
        known = self.about.get("range")  # runs of earlier versions do not hold it
        if known is not None:
            return known[0], known[1]
        return (-1.0, 1.0) if self.prepare is None else (self.prepare.low, self.prepare.high)

    def held_out(self) -> tuple[np.ndarray, Cond] | None:
        """Returns the held-out examples and their conditions, or None if the run did not keep them.

        The examples are integers where training dequantised them. None is returned, too, for a
        condition of several leaves, whose tree only the user can rebuild.
        """
        file = self.path / HELD_OUT
        if not file.is_file():
            return None

        leaves = read_npz(file, LARGEST_HELD_OUT + HEADERS, inside=self.path)
        x = leaves.pop("x", None)
        if x is None:
            return None
        if not leaves:
            return x, None
        if set(leaves) == {"cond"}:
            return x, leaves["cond"]
        return None


# --- What a checkpoint says of itself ---


def describe(model: Model, shape: tuple[int, ...], prepare: Any = None) -> dict[str, Any]:
    """Returns what a checkpoint says of its model and data, as plain dicts, lists and numbers.

    Pieces of the library are described by their settings, custom ones by their names.
    """
    about = {
        "shape": list(shape),
        "prepare": _describe_prepare(prepare),
        "standardization": _describe_standardization(model.standardization),
    }
    if model.sde.parameters():
        about["schedule"] = True
    if isinstance(model, ScoreModel):
        if model.null_is_trained is not None:
            about["null_is_trained"] = model.null_is_trained
        if model.cond_units is not None:
            about["cond_units"] = [_describe_standardization(own) for own in model.cond_units]
        settings = ModelSettings.of(model)
    else:
        about["classifier"] = True
        settings = ClassifierSettings.of(model)
    if settings is not None:
        return about | {"model": to_dict(settings)}
    return about | {"model": None, "own": _own_pieces(model)}


def _own_pieces(model: Model) -> dict[str, str]:
    """Returns the texts of a model's pieces, some of which are custom."""
    if isinstance(model, ScoreModel):
        meaning = {"parameterization": stable_repr(model.parameterization)}
    else:
        meaning = {"label": stable_repr(model.label)}
    return {"sde": stable_repr(model.sde), "net": type(model.net).__qualname__, **meaning}


def _describe_standardization(standardization: Standardization | None) -> dict[str, Any] | None:
    if standardization is None:
        return None
    return {"mean": list(standardization.mean), "std": list(standardization.std)}


def _standardization(about: dict[str, Any]) -> Standardization | None:
    """Returns the standardization that a checkpoint describes, if it does."""
    described = about.get("standardization")
    return None if described is None else Standardization(described["mean"], described["std"])


def _cond_units(about: dict[str, Any]) -> CondUnits | None:
    """Returns the units of the condition that a checkpoint describes, if it does."""
    described = about.get("cond_units")
    if described is None:
        return None
    return tuple(own and Standardization(own["mean"], own["std"]) for own in described)


def _describe_prepare(prepare: Any) -> dict[str, Any] | None:
    """Returns the description of `prepare`: what makes reals of integers, then the augmentation."""
    prepare, augmentation = without_augmentation(prepare)

    described: dict[str, Any] = {}
    if isinstance(prepare, UniformDequantization | BinCentres):
        described = {"kind": type(prepare).__name__} | to_dict(prepare)
    elif isinstance(prepare, Scale):
        described = {"own": repr(prepare)}
    elif prepare is not None:
        described = {"own": getattr(prepare, "__qualname__", type(prepare).__qualname__)}

    if augmentation:
        described["augmentation"] = augmentation
    return described or None


def _integers_to_reals(about: dict[str, Any]) -> UniformDequantization | BinCentres | None:
    """Returns what made reals of integers, as a checkpoint describes it, without the
    augmentation."""
    described = about.get("prepare") or {}
    kinds = {kind.__name__: kind for kind in (UniformDequantization, BinCentres)}
    kind = kinds.get(described.get("kind", ""))
    if kind is None:
        return None

    names = [field.name for field in dataclasses.fields(kind)]
    return from_dict({name: described[name] for name in names if name in described}, kind)


def _refuse_another(model: Model, path: Path, about: dict[str, Any]) -> None:
    """Refuses a model whose pieces are not those of the run.

    Raises:
        ValueError: naming each piece, as it was there and is now.
    """
    own = about.get("own")
    if about["model"] is not None:
        old, new = _library_pieces(about, model, path)
    elif own is not None:
        old, new = own, _own_pieces(model)
    else:  # runs of the first versions do not say
        return

    found = differences(old, new)
    if found:
        raise ValueError(
            f"{path} trained another model ({'; '.join(found)}). Write "
            f"sd.load({str(path)!r}, model=model) with the model built as it was for training."
        )


def _library_pieces(
    about: dict[str, Any], model: Model, path: Path
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the settings of a run of the library's pieces, and those of a model, to compare.

    A model whose network is custom has no settings of it: only the other pieces are compared then.
    """
    kind = ClassifierSettings if about.get("classifier") else ModelSettings
    # Through the settings themselves, since earlier versions lacked some of them.
    old = to_dict(from_dict(about["model"], kind, f"the model of {path}"))
    settings = kind.of(model)
    if settings is not None:
        return old, to_dict(settings)

    kinds = {name: hint for name, hint in get_type_hints(kind).items() if name != "net"}
    new = {name: _piece(getattr(model, name, None), hint) for name, hint in kinds.items()}
    return {name: old[name] for name in kinds}, new


def _piece(piece: Any, kind: Any) -> Any:
    """Returns the settings of a piece of the library, or the text of a custom one."""
    return to_dict(piece, kind) if type(piece) in union_members(kind) else stable_repr(piece)


def _rebuild(path: Path, found: Restored, weights: str) -> Model:
    """Returns the model that a checkpoint describes, with arbitrary weights.

    weights: the entry of the checkpoint that will replace them, "ema" or "params".
    """
    about = found.about
    if about["model"] is None:
        raise ConfigError(
            f"{path} trained an SDE, network or parameterisation that is not the library's: build "
            f"the same model again and write sd.load({str(path)!r}, model=model), or, on the "
            f"command line, --model FILE.py:build, where build() in that file returns the model."
        )
    kind = ClassifierSettings if about.get("classifier") else ModelSettings
    settings = from_dict(about["model"], kind, f"the model of {path}")
    shape = tuple(about["shape"])
    _check_weights(path, found, weights, settings.net, shape)
    return settings.build(jax.random.key(0), shape)


def _check_weights(
    path: Path, found: Restored, weights: str, config: Any, shape: tuple[int, ...]
) -> None:
    """Refuses a network whose parameters are not those of the checkpoint, before one is made:
    settings may describe a network of any size.

    Raises:
        CheckpointError: with the parameters that differ.
    """
    params = jax.eval_shape(
        lambda: nnx.to_pure_dict(nnx.state(config.build(shape, rngs=OneKey()), nnx.Param))
    )
    schedule = bool(found.about.get("schedule"))
    wanted = describe_leaves({weights: {"net": params} if schedule else params})

    place = f"{weights}/net/" if schedule else f"{weights}/"
    leaves = read_manifest(path / "checkpoints" / str(found.step) / MANIFEST)["leaves"]
    own = {name: leaf for name, leaf in leaves.items() if name.startswith(place)}
    listed = leaf_differences(own, wanted)
    if listed:
        raise CheckpointError(
            f"the leaves of step {found.step} in {path / 'checkpoints'} differ from those of the "
            f"network that it describes:{listed}"
        )
