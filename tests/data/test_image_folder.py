"""Folders of images: the right pixels and labels, in the order of their paths."""

import time

import numpy as np
import pytest
from image_files import write_pngs
from PIL import Image

from scoresde.data import images


def test_folders(tmp_path):
    """In the order of their paths, labels by the first folder; what cannot be used is named."""
    folder = write_pngs(tmp_path / "folder")
    found = images.from_folder(folder, labels=True)
    np.testing.assert_array_equal(found.pixels[:, 0, 0, 0], [10, 30, 20, 0])
    np.testing.assert_array_equal(found.labels, [0, 0, 1, 1])
    assert found.classes == ("a", "b")
    assert found.shape == (8, 6, 3)
    assert images.from_folder(folder, size=4, channels=1).shape == (4, 4, 1)

    Image.fromarray(np.zeros((9, 6, 3), np.uint8)).save(folder / "a" / "4.png")
    with pytest.raises(ValueError, match=r"example 1 has shape .9, 6, 3"):
        images.from_folder(folder)
    (folder / "c.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"c.png belongs to no class"):
        images.from_folder(folder, labels=True)
    with pytest.raises(ValueError, match=r"c.png cannot be used"):
        images.from_folder(folder, size=6)
    with pytest.raises(FileNotFoundError, match="no image"):
        images.from_folder(tmp_path / "cache")


def test_folders_as_people_have_them(tmp_path, monkeypatch):
    """A photo turned by EXIF, hidden files, links (one in a circle), an image that is too large."""
    folder = write_pngs(tmp_path / "folder")
    photo = np.zeros((8, 6, 3), np.uint8)
    photo[:4] = 200  # the upper half, once it is upright
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees, clockwise
    Image.fromarray(np.rot90(photo)).save(folder / "a" / "0.png", exif=exif)

    for hidden in (folder / ".checkpoints" / "1.png", folder / "a" / ".2.png"):
        hidden.parent.mkdir(exist_ok=True)
        Image.fromarray(photo).save(hidden)
    (folder / "c").symlink_to(tmp_path / "elsewhere")
    write_pngs(tmp_path / "elsewhere")
    (folder / "a" / "up").symlink_to(folder)

    found = images.from_folder(folder, labels=True)
    assert found.classes == ("a", "b", "c")
    np.testing.assert_array_equal(np.bincount(found.labels), [3, 2, 4])
    np.testing.assert_array_equal(found.pixels[0], photo)

    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(ValueError, match=r"0.png cannot be used"):
        images.from_folder(folder, size=4)


def test_a_change_in_a_folder_is_noticed(tmp_path):
    folder = write_pngs(tmp_path / "folder")
    before = images.from_folder(folder)
    time.sleep(0.01)
    Image.fromarray(np.full((8, 6, 3), 99, np.uint8)).save(folder / "a" / "2.png")
    after = images.from_folder(folder)
    assert after.pixels[0, 0, 0, 0] == 99
    assert after.fingerprint != before.fingerprint
