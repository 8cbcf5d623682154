"""Fashion-MNIST from its idx files, on small files of the same form."""

import gzip
import os
import struct
import sys
import tracemalloc

import pytest
from image_files import LABELS, PIXELS, write_idx

from scoresde.data import images
from scoresde.data.idx import read_idx
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


def test_no_more_is_unpacked_than_the_header_says(tmp_path):
    """Archives of a few kB that hold 64 MB, or say that they hold terabytes."""
    file = tmp_path / "images.gz"
    huge = b"\0\0\x08\x03" + struct.pack(">III", 2**20, 2**10, 2**10)
    small = b"\0\0\x08\x01" + struct.pack(">I", 10)
    deep = b"\0\0\x08\xff" + struct.pack(">255I", *[1] * 255) + b"0"
    contents = {huge: "at most 268,435,456 bytes", small: "more entries", deep: "wanted images"}
    for header, message in contents.items():
        file.write_bytes(gzip.compress(header + bytes(2**26), compresslevel=1))
        tracemalloc.start()
        with pytest.raises(ValueError, match=message):
            read_idx(file)
        assert tracemalloc.get_traced_memory()[1] < 2**20
        tracemalloc.stop()

    file.unlink()
    os.mkfifo(file)
    with pytest.raises(ValueError, match="wanted a regular file"):
        read_idx(file)


def test_wrong_idx_files_are_refused(tmp_path):
    folder = write_idx(tmp_path / "idx")
    file = folder / "train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match="959 entries"):
        images.fashion_mnist(folder=folder)

    file.unlink()
    with pytest.raises(FileNotFoundError, match="dataset-fashion-mnist"):
        images.fashion_mnist(folder=folder)
