"""Data: arrays and images to train on, and how they are prepared."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from scoresde.data.source import ArraySource as ArraySource
from scoresde.data.source import Source as Source

if TYPE_CHECKING:
    from scoresde.data import arrays as arrays
    from scoresde.data import images as images
    from scoresde.data import prepare as prepare


def __getattr__(name: str) -> Any:
    """Imports a module at its first use: `images` needs Pillow, and `import scoresde` does not."""
    if name in ("arrays", "images", "prepare"):
        return importlib.import_module(f"scoresde.data.{name}")
    raise AttributeError(f"module 'scoresde.data' has no attribute {name!r}")
