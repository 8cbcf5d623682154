"""A few small images with labels, and files of them: idx files and a folder of PNGs."""

import gzip
import struct

import numpy as np
from PIL import Image

rng = np.random.default_rng(0)
PIXELS = rng.integers(0, 256, (24, 8, 6, 1), dtype=np.uint8)
LABELS = rng.integers(0, 3, 24).astype(np.int32)


def write_idx(folder):
    """Writes the four files byte by byte, two of them gzipped: 20 images to train on, 4 to test."""
    folder.mkdir()
    for split, part in (("train", slice(0, 20)), ("t10k", slice(20, 24))):
        x = PIXELS[part]
        y = LABELS[part]
        header = b"\0\0\x08\x03" + struct.pack(">III", len(x), 8, 6)
        (folder / f"{split}-images-idx3-ubyte").write_bytes(header + x.tobytes())

        content = b"\0\0\x08\x01" + struct.pack(">I", len(y)) + bytes(y.tolist())
        (folder / f"{split}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(content))
    return folder


def write_pngs(folder, side=8):
    """Writes four images of one grey each in two classes, and a file that is no image."""
    for i, name in enumerate(["b/1.png", "a/2.png", "b/0.PNG", "a/deep/3.png"]):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((side, 6, 3), 10 * i, np.uint8)).save(folder / name, format="png")
    (folder / "a" / "notes.txt").write_text("no image")
    return folder
