"""Curves are read back from what matplotlib received."""

import numpy as np
import pytest

from scoresde.runs.training_curve import training_curve


def test_training_curve_draws_raw_and_mean_losses(tmp_path):
    steps = np.arange(200)
    loss = np.random.default_rng(0).normal(size=200)
    rows = [{"step": int(s), "loss": v} for s, v in zip(steps, loss, strict=True)]
    rows = rows[::-1]  # out of order
    rows += [{"step": 50, "valid_loss": 0.25}, {"step": 150, "valid_loss": float("nan")}]

    fig = training_curve(rows, tmp_path / "curve.png")
    (ax,) = fig.axes
    raw, mean, valid = ax.lines
    np.testing.assert_array_equal(raw.get_xydata(), np.stack([steps, loss], axis=1))
    # The window holds 200 // 40 = 5 rows.
    np.testing.assert_allclose(mean.get_ydata()[100], loss[100 - 2 : 100 + 3].mean())
    np.testing.assert_allclose(mean.get_ydata()[0], loss[:3].mean())  # fewer at the ends, not zeros
    assert raw.get_alpha() < 0.5
    assert valid.get_ydata()[0] == 0.25

    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["loss", "validation loss (1 not finite)"]
    assert ax.get_xlabel() == "step"
    assert ax.get_ylabel() == "loss"
    assert ax.get_yscale() == "linear"  # some losses are negative
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_gradient_norm_and_learning_rate_have_their_own_scales():
    rows = [
        {"step": s, "loss": 100.0 / (s + 1), "grad_norm": 2.0 + s, "learning_rate": 1e-4 * s}
        for s in range(50)
    ]
    losses, norms, rates = training_curve(rows).axes
    assert (losses.get_yscale(), norms.get_yscale(), rates.get_yscale()) == ("log", "log", "linear")
    assert [ax.get_ylabel() for ax in (norms, rates)] == ["gradient norm", "learning rate"]
    np.testing.assert_array_equal(rates.lines[0].get_ydata(), 1e-4 * np.arange(50))

    # There is a panel only where there is something to draw.
    assert len(training_curve([{"step": 0, "learning_rate": 1.0}]).axes) == 1


@pytest.mark.parametrize("value", [float("nan"), None])
def test_a_run_that_only_diverged_is_counted(value):
    (ax,) = training_curve([{"step": 0, "loss": value}, {"step": 1, "loss": value}]).axes
    assert ax.get_legend().get_texts()[0].get_text() == "loss (2 not finite)"


def test_nothing_to_draw_is_an_error():
    with pytest.raises(ValueError, match='"step": 0, "loss"'):
        training_curve([{"step": 3, "accuracy": 0.5}])
