"""`pretrained` returns a trained model that comes with the package.

A model is two files here: NAME.npz, its weights (compact.py), and NAME.json, what its checkpoint
said of the model, the data and the training, the names of its weights, and its figures.
`experiments/export_pretrained.py` makes both from a run.
"""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import UInt8

from scoresde.runs.manifest import describe_leaves, leaf_differences
from scoresde.runs.settings import ConfigError, from_dict
from scoresde.score.model import ScoreModel
from scoresde.standardization import Standardization
from scoresde.train.model_settings import ModelSettings
from scoresde.train.state import Skeleton
from scoresde.weights.compact import pack, unpack
from scoresde.writing import write_atomically

FOLDER = Path(__file__).parent
"""Where the files are."""


def pretrained(name: str) -> ScoreModel:
    """Returns a trained model that comes with the package: `sd.pretrained("digits-vp")`.

    Its weights are float32. `digits-vp` is the model of `experiments/digits_vp.py`.
    `digits-conditional` has the settings of `experiments/digits_conditional.py`; its condition is
    the digit, (batch,) of 0 … 9, or None. Both are of scikit-learn's digits, (batch, 8, 8, 1) in
    [-1, 1], with 17 levels. `about` returns all that is known of a model.

    Raises:
        ValueError: if there is no such model.
    """
    known = about(name)
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as stored:
        return rebuilt(known, stored["weights"])


def about(name: str) -> dict[str, Any]:
    """Returns what is known of a model: its settings, data and training, and its figures.

    Raises:
        ValueError: if there is no such model.
    """
    if name not in names():
        raise ValueError(
            f"{name!r} does not come with the package: wanted one of {', '.join(names())}. The "
            f"model of a run is sd.load(...), with the run's folder."
        )
    return json.loads((FOLDER / f"{name}.json").read_text("utf-8"))


def names() -> list[str]:
    """Returns the names of the models."""
    return sorted(file.stem for file in FOLDER.glob("*.json"))


# --- The files ---


def packed(model: ScoreModel) -> tuple[UInt8[np.ndarray, "2 n"], dict[str, str]]:
    """Returns the weights of a model's network, and the parameters of its schedule, rounded and
    packed, and their names and shapes.

    Raises:
        OverflowError: if float16 does not hold a weight.
        ValueError: if the network has frozen variables too, which the files do not hold.
    """
    _, params, constants = Skeleton.split(model)
    if constants:
        raise ValueError(
            f"the network has frozen variables, {', '.join(describe_leaves(constants))}: wanted "
            f"one whose variables are all of type nnx.Param."
        )

    described = describe_leaves(params)
    arrays = [np.asarray(leaf) for leaf in jax.tree.leaves(params)]
    return pack(dict(zip(described, arrays, strict=True))), described


def rebuilt(about: dict[str, Any], weights: UInt8[np.ndarray, "2 n"]) -> ScoreModel:
    """Returns the model that `about` describes, with these weights of `packed`.

    Raises:
        ConfigError: if the weights are not those of the network.
    """
    settings = from_dict(about["model"], ModelSettings)
    skeleton, like = _without_weights(settings, tuple(about["shape"]))

    differences = leaf_differences(about["parameters"], describe_leaves(like))
    if differences:
        raise ConfigError(f"the weights are not those of the network: {differences}")

    leaves, tree = jax.tree.flatten(like)
    arrays = unpack(weights, [leaf.shape for leaf in leaves])
    params = jax.tree.unflatten(tree, jax.device_put(arrays))

    units = about["standardization"]
    model = skeleton.in_evaluation(params, {})
    return ScoreModel(
        model.sde,
        model.net,
        settings.parameterization,
        standardization=None if units is None else Standardization(units["mean"], units["std"]),
        null_is_trained=about["null_is_trained"],
    )


def _without_weights(settings: ModelSettings, shape: tuple[int, ...]) -> tuple[Skeleton, dict]:
    """Returns a model's skeleton, and the dtypes and shapes of its parameters.

    Nothing is drawn: drawing initial weights takes longer than reading those of the file.
    """
    net = nnx.eval_shape(lambda: settings.net.build(shape, rngs=nnx.Rngs(0)))
    nnx.reseed(net, default=0)  # real keys for dropout, where training goes on from here
    model = ScoreModel(settings.sde, net, settings.parameterization)
    skeleton, like, _ = Skeleton.split(model)
    return skeleton, like


def save(
    folder: str | os.PathLike[str],
    name: str,
    about: dict[str, Any],
    weights: UInt8[np.ndarray, "2 n"],
) -> list[Path]:
    """Writes the two files of a model, and returns their paths."""
    stream = io.BytesIO()
    np.savez_compressed(stream, weights=weights)
    contents = {
        "npz": stream.getvalue(),
        "json": json.dumps(about, indent=1, ensure_ascii=False).encode(),
    }

    paths = []
    for ending, content in contents.items():
        path = Path(folder) / f"{name}.{ending}"
        write_atomically(path, content)
        paths.append(path)
    return paths
