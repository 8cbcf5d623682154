"""A file of results that several processes compute together: process 0 writes it, and all read."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax

from scoresde.checked_lines import CheckedLines, Take
from scoresde.parallel.processes import are_together, barrier, by_first, check_alike, in_first
from scoresde.reading import open_regular


@dataclasses.dataclass(frozen=True)
class SharedLines(CheckedLines):
    """Lines of results; all processes that work together make the same calls."""

    def resume(self, take: Take) -> None:
        if not are_together():
            super().resume(take)
            return

        taken = 0

        def counted(line: dict[str, Any]) -> None:
            nonlocal taken
            take(line)
            taken += 1

        # What process 0 leaves in the file is sound, and is what the others read.
        in_first(partial(super().resume, counted))
        if jax.process_index() > 0:
            with open_regular(self.path, inside=self.path.parent) as stream:
                self._read(stream, counted)
        barrier(f"reading {self.path.name}")  # nobody appends before all have read
        check_alike({"results that are there": taken}, "give them one folder that all of them see")

    def append(self, content: dict[str, Any]) -> None:
        by_first(partial(super().append, content))

    def check_writable(self) -> None:
        by_first(super().check_writable)

    def remove(self) -> None:
        """Removes the file, if there is one."""
        by_first(partial(self.path.unlink, missing_ok=True))
