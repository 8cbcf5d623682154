"""Garments from a part of them: methods for inverse problems, judged on held-out garments.

    python experiments/fashion_vp.py                            # the score, 12 minutes
    python experiments/fashion_inverse.py --score runs/fashion_vp
    python experiments/fashion_inverse.py --smoke               # an untrained network on noise

The page has a table for each problem, and one sample by every method.

Data: apt install dataset-fashion-mnist, or --folder with the four idx files;
pip install 'scoresde[data,experiments]'.

Hardware: 2 CPU cores, about 20 minutes with the score of fashion_vp.py.

Expect (seed 0, MMPS in 50 steps), of 6 garments, from a tenth of their pixels, all but the middle,
means of 2 × 2 pixels and a blur: errors of the mean of 0.277, 0.327, 0.139 and 0.155; intervals of
90 % that cover 91, 87, 93 and 91 % of the hidden pixels. docs/results.md has all methods.
"""

from __future__ import annotations

if __name__ == "__main__":
    from scoresde.cli.start import end_on_signals

    end_on_signals()  # before the imports below, which take seconds

import dataclasses
from pathlib import Path

import inverse_study
import jax
import numpy as np
from flax import nnx
from idx_experiment import some_of, write_noise
from image_task import ImageTask

import scoresde as sd
from scoresde.cli.exit import UsageError
from scoresde.cli.flags import run_script
from scoresde.data import images
from scoresde.inverse.linear_operator import LinearOperator


@dataclasses.dataclass(frozen=True)
class FashionInverse(inverse_study.InverseStudy):
    """Settings of the experiment."""

    name: str = "fashion_inverse"
    images: int = 6
    steps: tuple[int, ...] = (50,)
    particles: int = 32
    data_std: float = 0.7
    evaluation_batch: int = 114
    folder: str = ""
    """The folder of the four idx files; empty: where Debian's dataset-fashion-mnist puts them."""
    smoke: bool = False
    """Use an untrained network and images of noise, only to check that everything runs."""


def run(settings: FashionInverse) -> int:
    """Compares the methods, and returns the exit code.

    Raises:
        UsageError: if no run of a score is named.
    """
    if not settings.score and not settings.smoke:
        raise UsageError(
            "there is no score: train one by python experiments/fashion_vp.py, and write --score "
            "runs/fashion_vp; or --smoke, to check that everything runs."
        )
    sd.use_cpu_cores()
    folder: Path | str | None = settings.folder or None
    cache = None
    if settings.smoke:
        settings = dataclasses.replace(
            settings, name=f"{settings.name}_smoke", images=2, draws=3, steps=(2,), particles=3
        )
        cache = Path(settings.runs).expanduser() / settings.name / "data"
        folder = write_noise(cache)

    train = images.fashion_mnist("train", folder=folder, cache=cache)
    test = images.fashion_mnist("test", folder=folder, cache=cache)
    some = some_of(len(train))
    task = ImageTask.build(
        noun="garments",
        train=train,
        test=test.pixels[: settings.images],
        reference=train.pixels[some],
        labels=np.asarray(train.labels)[some],
        levels=256,
    )
    score = untrained(task.shape) if settings.smoke else sd.load(settings.score)
    return inverse_study.run(
        settings, task, np.asarray(test.labels), score, problems(task.shape[0])
    )


def problems(side: int) -> dict[str, LinearOperator]:
    """Returns what is measured of a garment of side × side pixels, by name."""
    few = np.random.default_rng(0).random((1, side, side, 1)) < 0.1
    box = np.ones((1, side, side, 1), bool)
    box[:, side // 4 : 3 * side // 4, side // 4 : 3 * side // 4] = False
    return {
        "a tenth of the pixels": sd.inverse.Mask(few),
        "all but the middle": sd.inverse.Mask(box),
        "means of 2 × 2 pixels": sd.inverse.Downsample(2),
        "blurred": sd.inverse.Blur.gaussian(1.5, min(11, side - 1 + side % 2), "reflect"),
    }


def untrained(shape: tuple[int, ...]) -> sd.ScoreModel:
    """Returns a tiny network that was never trained."""
    config = sd.UNetConfig(channels=4, multipliers=(1,), num_blocks=1, attention_levels=())
    net = config.build(shape, rngs=nnx.Rngs(jax.random.key(0)))
    return sd.ScoreModel(sd.VP(), net, sd.EDM(sigma_data=0.7))


if __name__ == "__main__":
    run_script(run, FashionInverse(), description=__doc__)
