"""Makes the files of `sd.pretrained` from a run on images of integers.

    python experiments/export_pretrained.py runs/digits_vp digits-vp

They hold the moving average of the weights, rounded to two bytes each. The bits/dim of the run's
held-out images are evaluated before and after rounding, with the same dequantisation and probes.
Nothing is written if the two differ by more than 0.002, or if float16 does not hold a weight.

Hardware: 2 CPU cores, about 2 minutes for the 297 held-out digits.

The package holds `digits-vp`, from `digits_vp.py`, and `digits-conditional`, with the settings of
`digits_conditional.py`.
"""

from __future__ import annotations

if __name__ == "__main__":
    from scoresde.cli.start import end_on_signals

    end_on_signals()  # before the imports below, which take seconds

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from bookkeeping import versions
from jaxtyping import Float

import scoresde as sd
from scoresde import checks
from scoresde.cli.flags import run_script
from scoresde.train.load import Trained, describe, open_run
from scoresde.types import Cond
from scoresde.weights.pretrained import FOLDER, packed, rebuilt, save

LARGEST_DIFFERENCE = 0.002
"""Bits/dim by which rounding may change a model."""

T_MIN = 1e-5
"""Where the likelihood starts, as in the digits experiments."""


@dataclasses.dataclass(frozen=True)
class Export:
    """Which run becomes which files, and how its bits/dim are evaluated."""

    run: str
    """The folder of the run."""
    name: str
    """The name that `sd.pretrained` is to know it by."""
    folder: str = str(FOLDER)
    """Where the two files are written."""
    seed: int = 0
    """Decides the dequantisation and the probes."""
    tolerance: float = 1e-4
    """Relative and absolute tolerance of the likelihood's solver."""
    evaluation_batch: int = 100
    """Images of which the likelihood is computed at once."""

    def __post_init__(self):
        checks.setting("tolerance", self.tolerance, "(0, 1)")
        checks.count("evaluation_batch", self.evaluation_batch)


def export(settings: Export) -> None:
    """Writes the two files of a model, and prints their sizes and figures.

    Raises:
        ValueError: if the run is not of integers whose held-out ones it kept, or rounding costs
            more than LARGEST_DIFFERENCE.
        OverflowError: if float16 does not hold a weight.
    """
    trained = open_run(settings.run)
    x, cond = held_out_images(trained)
    weights, parameters = packed(trained.model)
    about = metadata(trained) | {"parameters": parameters}

    before = bits_per_dim(settings, trained, trained.model, x, cond)
    after = bits_per_dim(settings, trained, rebuilt(about, weights), x, cond)
    check_difference(before, after)

    about |= {"figures": figures(settings, before, after), "versions": versions()}
    for path in save(settings.folder, settings.name, about, weights):
        print(f"{path}: {path.stat().st_size:,} bytes")
    for figure, value in about["figures"].items():
        print(f"{figure}: {value}")


def held_out_images(trained: Trained) -> tuple[np.ndarray, Cond]:
    """Returns the held-out images of a run, as integers, and their classes if it has any.

    Raises:
        ValueError: if it did not keep them, or they are not integers.
    """
    held_out = trained.held_out()
    if held_out is None or trained.prepare is None:
        raise ValueError(
            f"{trained.path} holds no held-out examples that are integers: wanted a run made with "
            f"sd.fit(..., prepare=sd.UniformDequantization(...), run=...)."
        )
    return held_out


def metadata(trained: Trained) -> dict[str, Any]:
    """Returns what the run's checkpoint says of its model, data and training.

    Settings that the run's version did not have yet have their defaults.
    """
    known = trained.about | describe(trained.model, trained.shape, trained.prepare)
    known.setdefault("null_is_trained", None)
    return known | {"step": trained.step, "weights": "the moving average (EMA)"}


def bits_per_dim(
    settings: Export, trained: Trained, model: sd.ScoreModel, x: np.ndarray, cond: Cond
) -> Float[np.ndarray, " images"]:
    """Returns the bits/dim of each image, with the same noise and probes for every model.

    Raises:
        ValueError: if the likelihood of an image fails.
    """
    pixels = trained.prepare
    assert pixels is not None  # held_out_images has seen to it
    key_dequantize, key_probes = jax.random.split(jax.random.key(settings.seed))

    likelihood = sd.log_likelihood(
        key_probes,
        model.sde,
        model,
        pixels(key_dequantize, jnp.asarray(x)),
        cond,
        rtol=settings.tolerance,
        atol=settings.tolerance,
        t_min=T_MIN,
        batch_size=settings.evaluation_batch,
        progress=True,
    )
    if not np.all(likelihood.success):
        raise ValueError("the likelihood of some images failed: write a smaller --tolerance.")

    dim = math.prod(trained.shape)
    return np.asarray(
        sd.bits_per_dim(likelihood.log_prob, dim, pixels.levels, pixels.low, pixels.high)
    )


def check_difference(before: np.ndarray, after: np.ndarray) -> None:
    """Refuses weights that rounding has changed too much.

    Raises:
        ValueError: if the mean bits/dim differ by more than LARGEST_DIFFERENCE.
    """
    difference = float(np.mean(after - before))
    if not abs(difference) <= LARGEST_DIFFERENCE:
        raise ValueError(
            f"rounding changes {np.mean(before):.4f} bits/dim by {difference:+.4f}: wanted at most "
            f"{LARGEST_DIFFERENCE}. Train longer, or keep more bits in scoresde/weights/compact.py."
        )


def figures(settings: Export, before: np.ndarray, after: np.ndarray) -> dict[str, Any]:
    """Returns the bits/dim before and after rounding with their standard errors, and how they
    were evaluated."""
    return {
        "bits_per_dim_before_rounding": float(np.mean(before)),
        "bits_per_dim": float(np.mean(after)),
        "bits_per_dim_stderr": standard_error(after),
        "difference_stderr": standard_error(after - before),
        "images": len(after),
        "seed": settings.seed,
        "tolerance": settings.tolerance,
        "t_min": T_MIN,
    }


def standard_error(values: np.ndarray) -> float:
    """Returns the standard error of the mean."""
    return float(np.std(values, ddof=1) / math.sqrt(len(values)))


if __name__ == "__main__":
    sd.use_cpu_cores()
    run_script(export, Export, description=__doc__)
