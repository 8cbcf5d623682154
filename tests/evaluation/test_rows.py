"""Sets that cannot be compared are refused by every distance, with what to write."""

from functools import partial

import numpy as np
import pytest

from scoresde.evaluation.distances import frechet_distance, sliced_wasserstein
from scoresde.evaluation.kernel import kernel_distance
from scoresde.evaluation.standard_error import jackknife


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "distance",
    [frechet_distance, kernel_distance, sliced_wasserstein, partial(jackknife, frechet_distance)],
    ids=["Fréchet", "kernel", "sliced Wasserstein", "jackknife"],
)
def test_bad_samples_are_refused(distance):
    good = np.arange(8.0).reshape(4, 2)
    bad = np.where(good == 5.0, np.nan, good)
    not_finite = r"y has 4 rows, 1 of them with NaN or infinity, the first at 2.*success"
    with pytest.raises(ValueError, match=not_finite):
        distance(good, bad)
    with pytest.raises(ValueError, match=r"x has shape \(4, 2\), y has \(4, 1\).*same space"):
        distance(good, good[:, :1])
    with pytest.raises(ValueError, match=r"x has shape \(1, 2\): wanted at least [234] rows"):
        distance(good[:1], good)
