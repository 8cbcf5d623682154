"""Digits from a part of them: methods for inverse problems, judged on held-out digits.

    python experiments/digits_inverse.py           # --help lists every setting

Nothing is trained: the score is that of `sd.pretrained("digits-vp")`, or of a run of digits_vp.py,
--score runs/digits_vp. The page has a table for each problem, and one sample by every method.

Hardware: 2 CPU cores, about 20 minutes.

Expect (seed 0, MMPS in 100 steps), of 20 digits, from a quarter of their pixels, the upper half,
means of 2 × 2 pixels and a blur: errors of the mean of 0.378, 0.310, 0.224 and 0.167; intervals of
90 % that cover 91 % of the hidden pixels in all four; 61, 86, 89 and 92 % of the samples of the
digit's class. docs/results.md has all methods.
"""

from __future__ import annotations

if __name__ == "__main__":
    from scoresde.cli.start import end_on_signals

    end_on_signals()  # before the imports below, which take seconds

import dataclasses

import inverse_study
import numpy as np
from image_task import ImageTask

import scoresde as sd
from scoresde.cli.flags import run_script
from scoresde.data import arrays
from scoresde.inverse.linear_operator import LinearOperator


def run(settings: inverse_study.InverseStudy) -> int:
    """Compares the methods, and returns the exit code."""
    sd.use_cpu_cores()
    data = arrays.digits()
    task = ImageTask.build(
        noun="digits",
        train=data.train,
        test=data.test,
        reference=data.train,
        labels=data.train_labels,
        levels=data.levels,
    )
    score = sd.load(settings.score) if settings.score else sd.pretrained("digits-vp")
    return inverse_study.run(settings, task, np.asarray(data.test_labels), score, problems())


def problems() -> dict[str, LinearOperator]:
    """Returns what is measured of a digit, by name."""
    few = np.random.default_rng(0).permutation(64).reshape(1, 8, 8, 1) < 16
    upper = np.zeros((1, 8, 8, 1), bool)
    upper[:, :4] = True
    return {
        "a quarter of the pixels": sd.inverse.Mask(few),
        "the upper half": sd.inverse.Mask(upper),
        "means of 2 × 2 pixels": sd.inverse.Downsample(2),
        "blurred": sd.inverse.Blur.gaussian(1.0, 5, "reflect"),
    }


if __name__ == "__main__":
    settings = dataclasses.replace(inverse_study.InverseStudy(), name="digits_inverse")
    run_script(run, settings, description=__doc__)
