"""What several processes of one training (`jax.distributed`) decide together; a single one decides alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np

from scoresde.config import differences

Result = TypeVar("Result")


def any_process(flag: bool) -> bool:
    """Whether it is true in any of them, the same answer in all: every process must ask."""
    if jax.process_count() == 1:
        return flag
    from jax.experimental import multihost_utils

    return bool(np.any(multihost_utils.process_allgather(np.asarray(flag))))


def in_first(work: Callable[[], Result]) -> Result | None:
    """work() in process 0 and None in the others, which wait for it; what it raises ends all.

    Raises:
        RuntimeError: in the others, if it failed.
    """
    result, failure = None, None
    if jax.process_index() == 0:
        try:
            result = work()
        except BaseException as error:
            failure = error
    if not any_process(failure is not None):
        return result
    raise failure or RuntimeError("process 0 failed, which ends this one too: its own message says why.")


def check_alike(about: dict[str, Any]) -> None:
    """All processes hold the same `about`, which is JSON-able.

    Raises:
        ValueError: in all of them if not; those that differ from process 0 say in what.
    """
    if jax.process_count() == 1:
        return
    text = json.dumps(about)
    found = differences(json.loads(_of_first(text)), json.loads(text))
    if any_process(bool(found)):
        what = "; ".join(found) if found else "the others say in what"
        raise ValueError(
            f"the processes of one training were called differently ({what}; process 0 is there, "
            f"process {jax.process_index()} now): give all of them the same settings, data and key, and a "
            f"run's folder that all of them see."
        )


def _of_first(text: str) -> str:
    """Process 0's."""
    from jax.experimental import multihost_utils

    own = np.frombuffer(text.encode(), np.uint8)
    sent = np.zeros(int(multihost_utils.broadcast_one_to_all(np.asarray(len(own), np.int32))), np.uint8)
    sent[: len(own)] = own[: len(sent)]  # process 0's fits; of the others nothing is read
    return np.asarray(multihost_utils.broadcast_one_to_all(sent)).tobytes().decode()
