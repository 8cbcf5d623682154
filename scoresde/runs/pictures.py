"""What all pictures share: their colours, and how they are saved."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from scoresde.writing import write_atomically

BLUE = "#2f6db3"
ORANGE = "#d2691e"
GREY = "#6b7078"


def save_picture(save: Any, path: str | Path | None) -> None:
    """Calls `save(file, format=...)` and writes what it produced, if a path is given."""
    if path is None:
        return

    buffer = io.BytesIO()
    save(buffer, format=Path(path).suffix[1:] or "png")
    write_atomically(path, buffer.getvalue())
