"""Pictures are read back: pixel by pixel, or from the curves and points matplotlib received."""

import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from scoresde.runs import plots
from scoresde.runs.plots import FAILED, GAP, image_grid, path_gif, scatter_2d, training_curve


def test_grid_shows_every_pixel_at_its_place(tmp_path):
    levels = np.arange(3 * 4 * 5 * 3, dtype=np.uint8).reshape(3, 4, 5, 3)  # every value differs
    path = tmp_path / "new" / "grid.png"

    image = np.asarray(image_grid(levels / 127.5 - 1.0, path, columns=2, scale=7))
    assert image.shape == (2 * (4 * 7 + 2) + 2, 2 * (5 * 7 + 2) + 2, 3)

    for i, (row, column) in enumerate([(0, 0), (0, 1), (1, 0)]):
        top = 2 + row * 30
        left = 2 + column * 37
        for dy, dx in [(0, 0), (3, 3), (6, 6)]:  # a pixel's corners and centre
            np.testing.assert_array_equal(
                image[top + dy : top + 28 : 7, left + dx : left + 35 : 7], levels[i]
            )

    assert (image[:2] == GAP).all()
    assert (image[32:, 39:] == GAP).all()

    from PIL import Image

    np.testing.assert_array_equal(np.asarray(Image.open(path)), image)


def test_grid_enlarges_small_images_and_clips_to_the_nearer_end():
    image = np.asarray(image_grid(np.stack([np.full((8, 8, 1), 3.0), np.full((8, 8, 1), -3.0)])))
    assert image.shape == (48 + 4, 2 * 48 + 6, 3)
    assert (image[2:50, 2:50] == 255).all()
    assert (image[2:50, 52:100] == 0).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_failed_sample_is_not_black(value):
    x = np.full((2, 8, 8, 1), -1.0)
    x[1, 3, 4] = value
    image = np.asarray(image_grid(x, columns=2))
    assert (image[2:50, 52:100] == FAILED).all()
    assert (image[2:50, 2:50] == 0).all()


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 3), (5, 8, 8), (5, 3, 8, 8), (5, 1, 8, 8)])
def test_errors_on_shapes_give_a_line_that_works(shape):
    x = np.zeros(shape)
    with pytest.raises(ValueError, match=re.escape(str(shape))) as error:
        image_grid(x)

    line = str(error.value).partition("e.g. ")[2].rstrip(".")
    image = eval(line, {"image_grid": image_grid, "x": x})
    count = {(5, 8, 8): 5}.get(shape, 5 if len(shape) == 4 else 1)
    assert np.sum((np.asarray(image) == 128).all(axis=2)) == count * 48 * 48


def test_bytes_need_their_range():
    x = np.full((1, 8, 8, 1), 200, np.uint8)
    with pytest.raises(ValueError, match=r"from 200 to 200.*low=0, high=255"):
        image_grid(x)
    assert np.asarray(image_grid(x, low=0, high=255))[20, 20, 0] == 200

    with pytest.raises(ValueError, match=r"\(0, 8, 8, 1\)"):
        image_grid(np.zeros((0, 8, 8, 1)))


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


def test_scatter_holds_all_points_and_counts_the_lost_ones(tmp_path):
    points = np.random.default_rng(0).uniform(-1, 3, (999, 2))
    broken = points.copy()
    broken[0] = 1e6
    broken[1] = np.nan
    broken[2, 1] = np.inf

    fig = scatter_2d({"data": points, "samples": broken}, tmp_path / "points.svg")
    data, samples = fig.axes
    np.testing.assert_array_equal(data.collections[0].get_offsets(), points)
    np.testing.assert_array_equal(samples.collections[0].get_offsets(), points[3:])

    assert data.get_title(loc="left") == "data\n999 points"
    assert samples.get_title(loc="left") == "samples\n999 points, 1 outside, 2 not finite"
    assert data.get_xlim() == samples.get_xlim()
    assert data.get_ylim() == samples.get_ylim()
    assert data.get_xlim()[1] < 4
    assert data.get_aspect() == 1.0
    assert b"<svg" in (tmp_path / "points.svg").read_bytes()

    scatter_2d(
        {"all lost": np.full((3, 2), np.nan), "none": np.zeros((0, 2)), "one": np.ones((1, 2))}
    )


@pytest.mark.parametrize(
    ("points", "found"), [({"data": np.zeros((5, 3))}, r"'data': \(5, 3\)"), ({}, r"\{\}")]
)
def test_scatter_wants_two_columns(points, found):
    with pytest.raises(ValueError, match=found):
        scatter_2d(points)


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "grid.png"
    path.write_bytes(b"old")

    def full_disk(*_):
        raise OSError("no space left")

    monkeypatch.setattr(Path, "replace", full_disk)
    with pytest.raises(OSError, match="no space"):
        image_grid(np.zeros((1, 8, 8, 1)), path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_drawing_in_threads(tmp_path):
    rows = [[{"step": s, "loss": float(10 + k + s)} for s in range(5)] for k in range(4)]
    with ThreadPoolExecutor(4) as pool:
        figures = list(pool.map(lambda k: training_curve(rows[k], tmp_path / f"{k}.png"), range(4)))
    assert [fig.axes[0].lines[0].get_ydata()[0] for fig in figures] == [10, 11, 12, 13]
    assert all(b"IEND" in (tmp_path / f"{k}.png").read_bytes()[-12:] for k in range(4))


def test_import_is_cheap_and_drawing_leaves_pyplot_alone():
    program = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("plots", sys.argv[1])
plots = importlib.util.module_from_spec(spec)
spec.loader.exec_module(plots)
assert not {"matplotlib", "PIL"} & sys.modules.keys()
plots.training_curve([{"step": 0, "loss": 1.0}])
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program, plots.__file__], check=True)


def test_a_gif_shows_the_path_of_images_and_of_points(tmp_path):
    """The frames are evenly chosen, the first and last included; x is left, E[x0 | x] right."""
    from PIL import Image

    t = np.linspace(1.0, 0.0, 9)
    x = np.linspace(-1.0, 1.0, 9)[None, :, None, None, None] * np.ones((4, 9, 8, 8, 1))

    frames = path_gif(t, x, -x, tmp_path / "images.gif", frames=5)
    assert len(frames) == 5

    grid = image_grid(x[:, -1])
    assert frames[0].size == (2 * grid.width + 8, grid.height + 18)
    last = np.asarray(frames[-1])
    np.testing.assert_array_equal(last[18:, : grid.width], np.asarray(grid))
    np.testing.assert_array_equal(last[18:, grid.width + 8 :], np.asarray(image_grid(-x[:, -1])))
    with Image.open(tmp_path / "images.gif") as gif:
        assert (gif.format, gif.n_frames) == ("GIF", 5)

    points = np.random.default_rng(0).normal(size=(50, 9, 2))
    assert len(path_gif(t, 100 * points, points, tmp_path / "points.gif", frames=3)) == 3

    with pytest.raises(ValueError, match="images"):
        path_gif(t, points[:, :, :1], points[:, :, :1], tmp_path / "no.gif")
