"""Pictures of samples."""

import dataclasses

import numpy as np
from PIL import Image

import scoresde as sd
from scoresde.cli.pictures import draw_picture
from scoresde.train.load import open_run


def test_images_are_drawn_in_the_range_of_their_data(trained, tmp_path):
    """For data dequantised to [0, 1], 0 is black and 1 is white."""
    prepare = sd.UniformDequantization(low=0.0, high=1.0)
    run = dataclasses.replace(open_run(trained), prepare=prepare)
    x = np.stack([np.zeros((8, 8, 1)), np.ones((8, 8, 1))])

    picture = np.asarray(Image.open(draw_picture(x, tmp_path / "x.png", run)))
    assert picture[20, 20].max() == 0
    assert picture[20, 70].min() == 255
