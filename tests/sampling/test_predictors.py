"""One step of every predictor, corrected before or after, is the paper's formula."""

import jax
import numpy as np
import papers
import pytest
from families import FINITE, PREDICTORS
from gaussian import OfScore

import scoresde as sd
from scoresde.keys import example_keys, fold_in_examples, normal_like
from scoresde.sde.mixture import ring

KEY = jax.random.key(0)


ORDERS = [(name, (i + j) % 2 == 0) for i, name in enumerate(PREDICTORS) for j in range(len(FINITE))]


EACH = pytest.mark.parametrize(
    ("predictor", "corrector_first", "process"),
    [(*order, p) for order, p in zip(ORDERS, 4 * list(FINITE), strict=True)],
)
"""Every predictor under every SDE, in each order under half of them."""


@EACH
def test_one_step_is_its_formula(predictor, corrector_first, process, x64):
    """The paper's lines with the same noise, from t_i to t_{i-1} for i = N - 1, N // 2 and 1.

    One run visits the three pairs of times of N = 1000; each step is taken from the state it had.
    Every predictor meets both rules, each under half of the SDEs.
    """
    any_sde = FINITE[process]
    r = 0.3
    levels = any_sde.level_times(1000)[[999, 998, 500, 499, 1, 0]].tolist()
    rule = (
        sd.BatchMeanStep
        if (process in ("vp", "subvp")) == corrector_first
        else sd.correctors.NoiseLevelStep
    )(r)
    score = ring().score(any_sde)
    x1 = any_sde.prior_sample(KEY, (6, 2))
    sampler = sd.PredictorCorrector(
        PREDICTORS[predictor],
        sd.correctors.Langevin(1, rule),
        num_steps=5,
        corrector_first=corrector_first,
        t_min=levels[-1],
        grid=sd.grids.GivenTimes(tuple(levels)),
        save_path=True,
    )
    path = sampler(KEY, any_sde, score, x1).path.x
    for k in (0, 2, 4):
        want = written_out(
            any_sde, score, predictor, corrector_first, rule, path[:, k], levels[k : k + 2], k
        )
        np.testing.assert_allclose(path[:, k + 1], want, rtol=1e-12, atol=1e-12)


def written_out(any_sde, score, predictor, corrector_first, rule, x1, t, k):
    """Step k, from x1 at t[0] to t[1]."""
    keys = fold_in_examples(example_keys(KEY, 6), k)
    key_correct = fold_in_examples(keys, 0)
    key_predict = fold_in_examples(keys, 1)
    z_predict = normal_like(key_predict, x1)
    z_correct = normal_like(fold_in_examples(example_keys(key_correct, 6), 0), x1)

    def mean_norm(value):
        return np.mean(np.linalg.norm(value, axis=1))

    def correct(x, at):
        model = OfScore(any_sde, score, [z_correct])
        size = papers.corrector_size(model, *t, at, rule.snr)
        if isinstance(rule, sd.BatchMeanStep):
            ratio = mean_norm(z_correct) / mean_norm(score(x, at))
            size = size / any_sde.variance(at) * ratio**2
        return papers.langevin(model, x, at, size)

    def predict(x):
        model = OfScore(any_sde, score, [z_predict])
        return papers.PREDICTORS[predictor](model, x, *t)

    if corrector_first and predictor != "none":
        return predict(correct(x1, t[0]))
    return correct(predict(x1), t[1])
