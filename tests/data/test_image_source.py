"""Images as a source: arrays that are no images are refused."""

import pytest
from image_files import LABELS, PIXELS

from scoresde.data.images import Images


@pytest.mark.parametrize(
    ("pixels", "labels"),
    [
        (PIXELS[..., 0], None),
        (PIXELS[:0], None),
        (PIXELS / 255.0, None),
        (PIXELS, LABELS[:5]),
    ],
)
def test_arrays_that_are_no_images_are_refused(pixels, labels):
    with pytest.raises(ValueError, match="wanted"):
        Images(pixels, labels)


def test_labels_change_the_fingerprint():
    assert Images(PIXELS).fingerprint != Images(PIXELS, LABELS).fingerprint
