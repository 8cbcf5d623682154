"""TFDS data sets by name: read where they are prepared, refused at once where they are not."""

import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from image_files import write_idx

from scoresde.data import images, tfds_images
from scoresde.data.geometry import Geometry


def test_a_prepared_set_is_read_by_its_name(tmp_path):
    """By name, version and part of a split; a set that lacks what is asked for is refused."""
    train = images.fashion_mnist("train", folder=write_idx(tmp_path / "idx"))
    (prepared,) = (tmp_path / "cache" / "idx").iterdir()
    again = images.from_tfds("idx_images:1.0.0", "train[:5]", data_dir=prepared, label=None, size=6)
    assert again.labels is None
    np.testing.assert_array_equal(again.pixels, train.pixels[:5, 1:7])  # the shorter side is 6
    assert len(images.from_tfds("idx_images:1.*.*", "test", data_dir=prepared)) == 4

    with pytest.raises(ValueError, match=r"no example in the split 'train\[:0\]'"):
        images.from_tfds("idx_images", "train[:0]", data_dir=prepared)
    with pytest.raises(ValueError, match="features image, label"):
        images.from_tfds("idx_images", data_dir=prepared, image="picture")

    info = next(prepared.rglob("dataset_info.json"))
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(ValueError, match="convert_format"):
        images.from_tfds("idx_images", data_dir=prepared)


def test_what_is_not_prepared_is_refused_at_once(tmp_path):
    """Before TFDS is imported or asks the network, which would take minutes.

    The error says where it looked, and what to write.
    """
    code = (
        f"import sys, time; from scoresde.data import images; start = time.perf_counter()\n"
        f"try: images.from_tfds('cifar10', data_dir={str(tmp_path)!r})\n"
        f"except FileNotFoundError as error: print(error)\n"
        f"print(time.perf_counter() - start, 'tensorflow_datasets' in sys.modules)"
    )
    no_network = {"https_proxy": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | no_network,
    )

    message, found = done.stdout.splitlines()
    seconds, imported = found.split()
    assert float(seconds) < 5
    assert imported == "False"
    assert f"{tmp_path}/cifar10" in message
    assert "images.from_tfds('cifar10', data_dir=" in message
    assert "download=True" in message


@pytest.mark.parametrize("kind", ["image", "tensor"])
def test_images_of_four_channels_are_laid_on_white(kind, tmp_path, monkeypatch):
    """The fourth channel of an image is its opacity; that of a tensor is a channel as others."""
    features = tfds_images.import_tfds().features
    pixels = np.full((2, 4, 4, 4), 30, np.uint8)
    pixels[:, :2, :, 3] = 0
    pixels[:, 2:, :, 3] = 255

    class Records:
        def __len__(self):
            return 2

        def __getitems__(self, indices):
            return [{"image": pixels[i]} for i in indices]

    feature = {
        "image": features.Image(shape=(4, 4, 4)),
        "tensor": features.Tensor(shape=(4, 4, 4), dtype=np.uint8),
    }
    info = SimpleNamespace(features={"image": feature[kind]}, full_name=kind)
    builder = SimpleNamespace(name=kind, info=info, data_dir=tmp_path)
    monkeypatch.setattr(tfds_images, "_open", lambda place: builder)
    monkeypatch.setattr(tfds_images, "_records", lambda builder, split: Records())

    found = tfds_images.read_prepared(tmp_path, "train", "image", None, Geometry(), None)
    if kind == "tensor":
        np.testing.assert_array_equal(found.pixels, pixels)
    else:
        assert found.shape == (4, 4, 3)
        np.testing.assert_array_equal(found.pixels[0, :, 0, 0], [255, 255, 30, 30])
