"""Folders of images: the right pixels and labels, in the order of their paths."""

import os
import struct
import time
import warnings
import zlib

import numpy as np
import pytest
from image_files import write_pngs
from PIL import EpsImagePlugin, Image

from scoresde.cli.exit import UsageError
from scoresde.cli.given_picture import read_image
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


# --- Grey and colour ---


GREY = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)


def in_mode(mode):
    image = Image.fromarray(GREY)
    if mode == "P":
        return image.convert("P")  # its palette is 256 greys
    if mode == "LA":
        image.putalpha(255)
        return image
    return image.convert(mode)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P"])
def test_grey_files_have_one_channel(mode, tmp_path):
    for i in range(3):
        in_mode(mode).save(tmp_path / f"{i}.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = images.from_folder(tmp_path)
    assert found.shape == (8, 8, 1)
    expected = 255 * (np.asarray(in_mode("1"))) if mode == "1" else GREY
    np.testing.assert_array_equal(found.pixels[1, ..., 0], expected)
    assert images.from_folder(tmp_path, channels=3).shape == (8, 8, 3)


def test_grey_jpegs_have_one_channel_and_coloured_palettes_three(tmp_path):
    in_mode("L").save(tmp_path / "0.jpg")
    assert images.from_folder(tmp_path).shape == (8, 8, 1)

    (tmp_path / "0.jpg").unlink()
    palette = Image.fromarray(GREY % 3, "P")
    palette.putpalette([0, 0, 0, 200, 30, 30, 90, 90, 90])
    palette.save(tmp_path / "0.png")
    assert images.from_folder(tmp_path).shape == (8, 8, 3)


def test_a_folder_of_both_is_colour_and_says_so(tmp_path):
    """Whatever its order; either of the advised lines is silent."""
    in_mode("L").save(tmp_path / "0.png")
    in_mode("RGB").save(tmp_path / "1.png")
    with pytest.warns(UserWarning, match=r"1 of 2 images are grey, the first is .*0.png"):
        assert images.from_folder(tmp_path).shape == (8, 8, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert images.from_folder(tmp_path, channels=3).shape == (8, 8, 3)
        assert images.from_folder(tmp_path, channels=1).shape == (8, 8, 1)


def test_hidden_colours_are_no_part_of_an_image(tmp_path):
    """Two files that look alike, with different colours under their transparent pixels."""
    for i, hidden in enumerate((0, 200)):
        pixels = np.full((8, 8, 4), hidden, np.uint8)
        pixels[..., 3] = 0
        pixels[:4] = [10, 20, 30, 255]
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    found = images.from_folder(tmp_path)
    np.testing.assert_array_equal(found.pixels[0], found.pixels[1])
    np.testing.assert_array_equal(found.pixels[0, 4:], 255)
    np.testing.assert_array_equal(found.pixels[0, 0, 0], [10, 20, 30])


def test_images_decoded_in_another_way_are_decoded_again(tmp_path, monkeypatch):
    write_pngs(tmp_path / "folder")
    before = images.from_folder(tmp_path / "folder")
    monkeypatch.setattr("scoresde.data.image_folder.DECODING", "another way")
    after = images.from_folder(tmp_path / "folder")
    assert len(list((tmp_path / "cache" / "decoded").iterdir())) == 2
    assert after.fingerprint == before.fingerprint


def test_only_the_documented_formats_are_read(tmp_path, monkeypatch):
    """Whatever its name: PostScript would start a program."""
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n%%EOF\n"
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", pytest.fail)
    (tmp_path / "a.png").write_bytes(postscript)
    with pytest.raises(ValueError, match=r"a\.png cannot be used: cannot identify"):
        images.from_folder(tmp_path, cache=tmp_path / "cache")
    with pytest.raises(UsageError, match=r"a\.png cannot be read as a picture"):
        read_image(str(tmp_path / "a.png"), (8, 8, 3), (-1.0, 1.0))


def test_pipes_and_pictures_of_many_pixels_are_refused(tmp_path):
    """A header of 100 bytes may announce gigapixels."""
    file = tmp_path / "a.png"
    os.mkfifo(file)
    with pytest.raises(ValueError, match="wanted a regular file"):
        images.from_folder(tmp_path, size=4, cache=tmp_path / "cache")
    file.unlink()

    Image.new("L", (8, 8)).save(file)
    whole = file.read_bytes()
    for width, message in ((9000, "67,108,864"), (30_000, "decompression bomb")):
        size = struct.pack(">II", width, width)
        header = whole[12:16] + size + whole[24:29]
        check = struct.pack(">I", zlib.crc32(header))
        file.write_bytes(whole[:12] + header + check + whole[33:])
        with pytest.raises(ValueError, match=message):
            images.from_folder(tmp_path, size=4, cache=tmp_path / "cache")
        with pytest.raises(UsageError, match=message):
            read_image(str(file), (8, 8, 3), (-1.0, 1.0))
