"""MNIST and the data sets like it, on small files of the same form."""

import gzip
import json
import os
import shutil
import struct
import sys
import time
import tracemalloc

import pytest
from image_files import LABELS, PIXELS, write_idx

import scoresde.data.mnist
from scoresde.data import images
from scoresde.data.idx import find_idx, read_idx
from scoresde.data.idx_images.idx_images_dataset_builder import Builder
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


# --- Where they are looked for ---


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    """No data set is anywhere; returns the folder of TFDS and that of $SCORESDE_DATA."""
    tfds, data = tmp_path / "tfds", tmp_path / "data"
    monkeypatch.setenv("TFDS_DATA_DIR", str(tfds))
    monkeypatch.setenv("SCORESDE_DATA", str(data))
    monkeypatch.setattr(scoresde.data.mnist, "DEBIAN", tmp_path / "debian")
    return tfds, data


def test_a_set_that_is_nowhere_is_told_at_once(nowhere, monkeypatch):
    tfds, data = nowhere
    start = time.monotonic()
    with pytest.raises(FileNotFoundError) as error:
        images.mnist()
    assert time.monotonic() - start < 5.0
    for place in (tfds / "mnist", data / "mnist", tfds / "downloads"):
        assert str(place) in str(error.value)
    assert "images.mnist(folder=...)" in str(error.value)
    assert "is not set" not in str(error.value)

    monkeypatch.delenv("SCORESDE_DATA")
    with pytest.raises(FileNotFoundError, match=r"\$SCORESDE_DATA is not set"):
        images.kmnist()
    with pytest.raises(FileNotFoundError, match=r"/elsewhere\. Wanted its four idx files"):
        images.mnist(folder="/elsewhere")


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_the_folder_of_data_sets(nowhere, monkeypatch, name):
    """It holds folders with the names of data sets, or is one of them; files of the same names are
    never taken for those of another set."""
    _, data = nowhere
    data.mkdir()
    folder = write_idx(data / name)
    functions = {"mnist": images.mnist, "fashion-mnist": images.fashion_mnist}
    function = functions.pop(name)
    (other,) = functions.values()
    for place in (data, folder):
        monkeypatch.setenv("SCORESDE_DATA", str(place))
        assert rows(function("test")) == rows(Images(PIXELS[20:], LABELS[20:]))
        with pytest.raises(FileNotFoundError, match="is not in"):
            other("test")

    assert rows(function("train[:5]")) != rows(function("train[-5:]"))
    with pytest.raises(ValueError, match="validation"):
        function("validation")


def test_what_tfds_has_downloaded(nowhere, tmp_path):
    """TFDS renames the files, and describes each in another; those of KMNIST lie beside."""
    tfds, _ = nowhere
    downloads = tfds / "downloads" / "mnist"
    downloads.mkdir(parents=True)
    for number, file in enumerate(write_idx(tmp_path / "idx").iterdir()):
        gz = file.name if file.name.endswith(".gz") else f"{file.name}.gz"
        content = file.read_bytes()
        content = content if file.suffix == ".gz" else gzip.compress(content)
        place = downloads / f"cvdf_{gz.split('-')[0]}{number}xyz.gz"
        place.write_bytes(content)
        about = {"dataset_names": ["mnist"], "original_fname": gz}
        place.with_name(f"{place.name}.INFO").write_text(json.dumps(about))
    for number, text in enumerate(
        ["[", "[]", '{"dataset_names": 1}', '{"dataset_names": ["mnist"]}']
    ):
        (downloads / f"other{number}.gz.INFO").write_text(text)

    assert rows(images.mnist("test")) == rows(Images(PIXELS[20:], LABELS[20:]))
    with pytest.raises(FileNotFoundError, match="KMNIST is not in"):
        images.kmnist()


def test_a_set_that_tfds_has_prepared_comes_first(nowhere, tmp_path):
    """What is prepared in another format cannot be read by index, and is passed over."""
    tfds, data = nowhere
    files = find_idx(write_idx(tmp_path / "idx")) or {}
    Builder(files=files, data_dir=tmp_path / "made").download_and_prepare()
    (made,) = (tmp_path / "made").glob("idx_images/*")
    place = tfds / "mnist" / "3.0.1"
    shutil.copytree(made, place)
    assert rows(images.mnist("test")) == rows(Images(PIXELS[20:], LABELS[20:]))

    for file in place.glob("*array_record*"):
        file.rename(file.with_name(file.name.replace("array_record", "tfrecord")))
    with pytest.raises(FileNotFoundError, match="MNIST is not in"):
        images.mnist("test")
    data.mkdir()
    write_idx(data / "mnist")
    assert rows(images.mnist("test")) == rows(Images(PIXELS[20:], LABELS[20:]))


def test_emnist_stands_upright(tmp_path):
    """Its files hold columns as rows, under names of its own."""
    folder = write_idx(tmp_path / "idx")
    for file in list(folder.iterdir()):
        file.rename(folder / f"emnist-letters-{file.name.replace('t10k', 'test')}")
    found = images.emnist("letters", "test", folder=folder)
    assert rows(found) == rows(Images(PIXELS[20:].transpose(0, 2, 1, 3), LABELS[20:]))
    with pytest.raises(FileNotFoundError, match="emnist-digits-train-images"):
        images.emnist("digits", folder=folder)
    with pytest.raises(ValueError, match="wanted one of balanced"):
        images.emnist("train")


def test_names_with_a_dot_before_idx_are_read(tmp_path):
    folder = write_idx(tmp_path / "idx")
    for file in list(folder.iterdir()):
        file.rename(folder / file.name.replace("-idx", ".idx"))
    assert len(images.mnist("test", folder=folder)) == 4
