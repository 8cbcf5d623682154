"""Channels, cropping and resizing of images, the same for every source."""

from __future__ import annotations

import dataclasses

import numpy as np
from PIL import Image

from scoresde import checks

GREY_MODES = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N", "F")
"""Pillow's modes of one channel, with or without transparency; palettes may be grey too."""

DECODING = "transparent on white"
"""What the pixels depend on beside the files and the geometry: the identity of decoded images."""


@dataclasses.dataclass(frozen=True)
class Geometry:
    """Cuts out a central square, resizes the shorter side to `size`, and cuts the longer to it.

    Resizing is bilinear and averages where it shrinks, as `tf.image.resize(antialias=True)`
    does. The CelebA-64 of Song et al. 2021 is Geometry(crop=140, size=64). Transparent images are
    laid on white first: the colours under transparent pixels are no part of the image.

    Raises:
        ValueError: if a number is out of range; when called, if an image is smaller than the
            crop, or has more than 8 bits a channel."""

    size: int | None = None
    """The side of the square that is returned; None keeps the size of each image."""
    crop: int | None = None
    """The side of the central square that is cut out first; None cuts nothing."""
    channels: int | None = None
    """1 for grey; 3 for red, green and blue; None to keep each image grey or coloured as it is."""

    def __post_init__(self):
        for name in ("size", "crop"):
            if getattr(self, name) is not None:
                checks.count(name, getattr(self, name))
        if self.channels not in (None, 1, 3):
            raise ValueError(f"channels = {self.channels}: wanted 1, 3 or None.")

    def __call__(self, image: Image.Image) -> np.ndarray:
        """Returns the pixels, uint8 (height, width, c)."""
        image = self._with_channels(image)
        if self.crop is not None:
            image = _central(image, self.crop)
        if self.size is not None and image.size != (self.size, self.size):
            image = _resized(image, self.size)

        pixels = np.asarray(image, np.uint8)
        return pixels[..., None] if pixels.ndim == 2 else pixels

    def of_array(self, pixels: np.ndarray, transparency: bool = False) -> np.ndarray:
        """Returns the same for an array (height, width, c); what needs no change passes through.

        transparency: whether the last of 2 or 4 channels is opacity.

        Raises:
            ValueError: as above; if an array of other than 1 or 3 channels needs a change.
        """
        if transparency and pixels.shape[-1] in (2, 4):
            return self(Image.fromarray(pixels))  # LA or RGBA

        wanted = (self.size, self.size, self.channels or pixels.shape[-1])
        if self == Geometry() or (self.crop is None and pixels.shape == wanted):
            return pixels
        if pixels.shape[-1] not in (1, 3):
            raise ValueError(
                f"an image has shape {pixels.shape}: wanted 1 or 3 channels to crop, resize or "
                f"convert. Write size=None, crop=None, channels=None to keep it as it is."
            )
        return self(Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels))

    def _with_channels(self, image: Image.Image) -> Image.Image:
        if image.mode[0] in "IF":  # 16 or 32 bits, which a conversion would clip
            raise ValueError(
                f"its pixels have mode {image.mode}: wanted 8 bits a channel. Write the file again "
                f"from Image.fromarray((np.asarray(image) / top * 255).astype(np.uint8)), where "
                f"top is the largest value of all images, 65535 for 16 bits."
            )
        grey = self.channels == 1 or (self.channels is None and is_grey(image))
        return _on_white(image).convert("L" if grey else "RGB")


def is_grey(image: Image.Image) -> bool:
    """Returns whether an image has one channel, or a palette of which it uses greys alone."""
    if image.mode not in ("P", "PA"):
        return image.mode in GREY_MODES
    colours = np.asarray(_on_white(image).convert("RGB"))
    return bool(np.all(colours == colours[..., :1]))


def _on_white(image: Image.Image) -> Image.Image:
    """Returns an image without transparency: laid on white, where it had some."""
    if not image.has_transparency_data:
        return image
    image = image.convert("LA") if image.mode == "La" else image
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image)


def _resized(image: Image.Image, size: int) -> Image.Image:
    """Returns the central square of the image, once its shorter side is `size`."""
    ratio = size / min(image.size)
    width, height = (max(size, round(ratio * side)) for side in image.size)
    return _central(image.resize((width, height), Image.Resampling.BILINEAR), size)


def _central(image: Image.Image, side: int) -> Image.Image:
    width, height = image.size
    if side > min(width, height):
        raise ValueError(
            f"an image of {height}×{width} has no central {side}×{side}: write a smaller crop, "
            f"crop={min(width, height)} at most."
        )

    left = (width - side) // 2
    top = (height - side) // 2
    return image.crop((left, top, left + side, top + side))
