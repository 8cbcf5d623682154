"""Fashion-MNIST from its idx files, on small files of the same form."""

import sys

import pytest
from image_files import LABELS, PIXELS, write_idx

from scoresde.data import images
from scoresde.data.images import Images


def rows(found):
    """Pairs of image and label, sorted: TFDS shuffles what it writes."""
    pairs = zip(found.pixels, found.labels, strict=True)
    return sorted((x.tobytes(), int(label)) for x, label in pairs)


def test_idx_files_become_images_without_tensorflow(tmp_path):
    folder = write_idx(tmp_path / "idx")
    train = images.fashion_mnist("train", folder=folder)
    test = images.fashion_mnist("test", folder=folder)
    assert rows(train) == rows(Images(PIXELS[:20], LABELS[:20]))
    assert rows(test) == rows(Images(PIXELS[20:], LABELS[20:]))
    assert "tensorflow" not in sys.modules


def test_wrong_idx_files_are_refused(tmp_path):
    folder = write_idx(tmp_path / "idx")
    file = folder / "train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match="959 entries"):
        images.fashion_mnist(folder=folder)

    file.unlink()
    with pytest.raises(FileNotFoundError, match="dataset-fashion-mnist"):
        images.fashion_mnist(folder=folder)
