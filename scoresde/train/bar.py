"""A progress bar, and lines above it, that training outlives once nobody reads them any more."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Any

from tqdm import tqdm
from tqdm.utils import ObjectWrapper


class _Unread(ObjectWrapper):
    """A stream that loses what cannot be written, as where Ctrl-C has ended `2>&1 | tee` too."""

    def write(self, text: str) -> None:
        with suppress(OSError):
            self._wrapped.write(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._wrapped.flush()


def training_bar(total: int, initial: int, visible: bool) -> tqdm[Any]:
    """Returns a bar over the steps of training, on standard error."""
    return tqdm(
        total=total,
        initial=initial,
        desc="training",
        unit="step",
        disable=not visible,
        mininterval=0.5 if sys.stderr.isatty() else 30.0,
        dynamic_ncols=True,
        file=_Unread(sys.stderr),
    )


def tell(line: str) -> None:
    """Prints a line on standard error, above the bars that are there."""
    tqdm.write(line, file=_Unread(sys.stderr))
