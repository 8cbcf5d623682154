"""What several processes of one training (`jax.distributed`) decide together; a single one decides alone."""

from __future__ import annotations

import itertools
import json
import secrets
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np

Result = TypeVar("Result")
WAIT = 24 * 3600
"""Seconds for what takes as long as it takes: data prepared, callbacks. A process that died is noticed earlier."""
_meetings = itertools.count()
_first_only: ContextVar[bool] = ContextVar("first_only", default=False)


def meet(what: str, seconds: int = WAIT) -> None:
    """Return once all processes are here; on the host, as a collective's first use waits for 30 seconds only (Gloo).

    Raises:
        RuntimeError: if they are not within that time, or this runs in process 0 alone: in a callback, say.
    """
    if jax.process_count() == 1:
        return
    together = f"{what} under jax.distributed is for all processes together"
    if _first_only.get():
        raise RuntimeError(
            f"{together}, and this is a callback, which process 0 runs alone: use the model that it is "
            f"given, or do this after fit, in every process."
        )
    from orbax.checkpoint.multihost import get_barrier_sync_fn

    barrier, name = get_barrier_sync_fn(), f"scoresde {what} {next(_meetings)}"
    arrived: Future[None] = Future()

    def wait() -> None:
        try:
            barrier(key=name, timeout_ms=1000 * seconds)
            arrived.set_result(None)
        except BaseException as error:
            arrived.set_exception(error)

    threading.Thread(
        target=wait, daemon=True
    ).start()  # Ctrl-C ends the waiting for a thread, not that in C++
    try:
        arrived.result()
    except RuntimeError as error:
        raise RuntimeError(
            f"{together}, and not all came within {seconds} seconds: let every process make this call, "
            f"or a script of its own. ({error})"
        ) from error


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
        alone = _first_only.set(jax.process_count() > 1)
        try:
            result = work()
        except BaseException as error:
            failure = error
        finally:
            _first_only.reset(alone)
    meet("what process 0 does for all")
    if not any_process(failure is not None):
        return result
    raise failure or RuntimeError(
        "process 0 failed, which ends this one too: its own message says why."
    )


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


def check_shared(folder: Path) -> None:
    """All processes see the same folder: the others find there what process 0 writes.

    Raises:
        ValueError: in all of them if not.
    """
    if jax.process_count() == 1:
        return
    mark = (
        folder / f".seen-by-all-{_of_first(secrets.token_hex(8))}"
    )  # a name that no file system's cache knows
    in_first(mark.touch)
    missing = not mark.is_file()
    somewhere = any_process(missing)
    in_first(mark.unlink)
    if somewhere:
        raise ValueError(
            f"process {jax.process_index()} {'does not see' if missing else 'sees'} in {folder} what process 0 writes "
            f"there{'' if missing else ', another process does not'}: name a folder on a file system that all share."
        )


def _of_first(text: str) -> str:
    """Process 0's."""
    from jax.experimental import multihost_utils

    own = np.frombuffer(text.encode(), np.uint8)
    sent = np.zeros(
        int(multihost_utils.broadcast_one_to_all(np.asarray(len(own), np.int32))), np.uint8
    )
    sent[: len(own)] = own[: len(sent)]  # process 0's fits; of the others nothing is read
    return np.asarray(multihost_utils.broadcast_one_to_all(sent)).tobytes().decode()


def differences(old: Any, new: Any, place: str = "") -> list[str]:
    """Where two settings' plain data differ: "sde.beta_max: 20.0 there, 15.0 now"."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = list(dict.fromkeys((*old, *new)))
        lines = (
            differences(old.get(key), new.get(key), f"{place}.{key}".lstrip(".")) for key in keys
        )
        return [line for group in lines for line in group]
    return [] if old == new else [f"{place}: {old} there, {new} now"]
