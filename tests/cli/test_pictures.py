"""Pictures of samples."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx
from PIL import Image

import scoresde as sd
from scoresde.cli.pictures import columns_by_class, draw_picture
from scoresde.train.load import open_run


def test_images_are_drawn_in_the_range_of_their_data(trained, tmp_path):
    """For data dequantised to [0, 1], 0 is black and 1 is white."""
    run = open_run(trained)
    run = dataclasses.replace(run, about=run.about | {"range": [0.0, 1.0]})
    x = np.stack([np.zeros((8, 8, 1)), np.ones((8, 8, 1))])

    picture = np.asarray(Image.open(draw_picture(x, tmp_path / "x.png", run)))
    assert picture[20, 20].max() == 0
    assert picture[20, 70].min() == 255


PIXELS = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 1), dtype=np.uint8)


@pytest.mark.parametrize(
    ("data", "prepare"),
    [
        (PIXELS, sd.data.prepare.Scale(256, 0.0, 1.0)),
        (PIXELS, sd.UniformDequantization(256, 0.0, 1.0)),
        (PIXELS / 255.0 + 0.001 * (PIXELS == 0), None),
    ],
    ids=["Scale", "UniformDequantization", "real"],
)
def test_the_range_of_a_runs_data_is_kept_with_it(tmp_path, data, prepare):
    """`fit` knows it, and black is drawn black, whatever made the data real numbers."""
    config = sd.MLPConfig(width=8, depth=1)
    model = sd.ScoreModel(sd.VP(), config.build((8, 8, 1), rngs=nnx.Rngs(0)), sd.EDM(0.5))
    training = sd.Training(steps=1, batch_size=32)
    run = tmp_path / "run"
    fit = sd.fit(
        jax.random.key(0), model, data, prepare=prepare, training=training, run=run, progress=False
    )
    trained = open_run(run)
    assert trained.range == fit.range == (0.0, 1.0)

    picture = draw_picture(np.zeros((1, 8, 8, 1)), tmp_path / "x.png", trained)
    assert np.asarray(Image.open(picture))[20, 20].max() == 0


@pytest.mark.parametrize(
    ("classes", "num", "columns"),
    [
        (10, 64, 10),
        (2, 64, 2),
        (10, 4, 4),  # one row, without empty places
        (20, 64, 20),
        (21, 64, None),
        (1, 64, None),
        (2, 100, None),  # 50 rows
        (10, 5000, 10),  # of which 400 are drawn
        (None, 64, None),
    ],
)
def test_columns_are_classes_where_the_grid_fits_a_page(classes, num, columns):
    assert columns_by_class(classes, num) == columns
