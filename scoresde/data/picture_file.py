"""Pictures in files that anybody may have made: of a few formats, and of bounded size."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image

from scoresde.reading import UnreadableError, check_size, open_regular

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
"""The formats that are read, by Pillow's names. Of its others some start a program, as PostScript
does, whatever the name of the file says."""

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
"""How the names of such files end."""

LARGEST_FILE = 2**28
"""The bytes that the file of a picture may hold."""

MOST_PIXELS = 2**26
"""The pixels that a picture may have: 8192×8192."""


@contextmanager
def open_picture(path: str | os.PathLike[str]) -> Iterator[Image.Image]:
    """Opens a picture for the block, in which its pixels are decoded.

    Raises:
        FileNotFoundError: if there is no file.
        OSError, ValueError: if it is none of `FORMATS`, damaged, too large, or no regular file.
    """
    with open_regular(path) as stream:
        check_size(stream, path, LARGEST_FILE)
        try:
            picture = Image.open(stream, formats=FORMATS)
        except Image.DecompressionBombError as error:
            raise UnreadableError(f"{path}: {error}") from error

        with picture:
            width, height = picture.size
            if width * height > MOST_PIXELS:
                raise UnreadableError(
                    f"{path} has {width} × {height} pixels: wanted at most {MOST_PIXELS:,} of them."
                )
            yield picture
