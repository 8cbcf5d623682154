"""UniPC is its paper's algorithm."""

import jax
import numpy as np
import papers
from gaussian import OfScore

import scoresde as sd

KEY = jax.random.key(0)


def test_unipc_3_is_its_algorithm(mixture, x64):
    """With data prediction and B(h) = e^{-h} - 1, predictor and corrector."""
    sde = sd.VP()
    score = mixture.score(sd.VP())
    steps = 9
    x = sde.prior_sample(KEY, (4, 2))
    times = np.asarray(sd.grids.UniformLogSNR()(sde, steps, 1e-2))
    out = sd.UniPC(3, steps, t_min=1e-2, denoise=False)(KEY, sde, score, x).x
    want = papers.unipc(OfScore(sde, score), x, times, 3)
    np.testing.assert_allclose(out, want, atol=1e-9)
