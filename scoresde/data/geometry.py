"""Cropping and resizing of images, the same for every source."""

from __future__ import annotations

import dataclasses

import numpy as np
from PIL import Image

from scoresde import checks


@dataclasses.dataclass(frozen=True)
class Geometry:
    """Cuts out a central square, resizes the shorter side to `size`, and cuts the longer to it.

    Resizing is bilinear and averages where it shrinks, as `tf.image.resize(antialias=True)`
    does. The CelebA-64 of Song et al. 2021 is Geometry(crop=140, size=64).

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

    def of_array(self, pixels: np.ndarray) -> np.ndarray:
        """Returns the same for an array (height, width, c); what needs no change passes through."""
        wanted = (self.size, self.size, self.channels or pixels.shape[-1])
        if self == Geometry() or (self.crop is None and pixels.shape == wanted):
            return pixels
        return self(Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels))

    def _with_channels(self, image: Image.Image) -> Image.Image:
        if image.mode[0] in "IF":  # 16 or 32 bits, which a conversion would clip
            raise ValueError(f"its pixels have mode {image.mode}: wanted 8 bits a channel.")
        if self.channels is None and image.mode in ("L", "RGB"):
            return image

        grey = self.channels == 1 or (self.channels is None and image.mode in ("1", "LA"))
        return image.convert("L" if grey else "RGB")


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
