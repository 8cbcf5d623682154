"""What the processes of one program (`jax.distributed`) do together; a single one acts alone."""

from __future__ import annotations

import itertools
import json
import secrets
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np

Result = TypeVar("Result")

WAIT = 24 * 3600
"""Seconds to wait for what may take long, such as preparing data, or callbacks. JAX notices much
earlier if a process has died."""

_barriers = itertools.count()
_alone: ContextVar[bool] = ContextVar("alone", default=False)

# --- Together, or alone ---


def are_together() -> bool:
    """Returns whether calls are made by several processes together here."""
    return jax.process_count() > 1 and jax.distributed.is_initialized() and not _alone.get()


@contextmanager
def one_process() -> Iterator[None]:
    """Lets this process sample, and evaluate likelihoods, without the others.

    After `jax.distributed.initialize` these are calls of all processes, each of which computes its
    share of the rows. In the `with` block the process that makes a call computes all of them.
    """
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


# --- Waiting for each other ---


def barrier(what: str, seconds: int = WAIT) -> None:
    """Returns once all processes have made this call.

    They wait on the host, since the first use of a collective waits only 30 seconds (Gloo). `what`
    names the call in errors.

    Raises:
        RuntimeError: if not all arrive in time, or if this process works alone, such as process 0
            inside a callback.
    """
    if jax.process_count() == 1:
        return

    all_together = f"{what} under jax.distributed is for all processes together"
    if _alone.get():
        raise RuntimeError(
            f"{all_together}, and this is a callback, which process 0 runs alone, or inside of "
            f"sd.one_process(): use the model that a callback receives, or do this in every "
            f"process."
        )
    try:
        _wait_for_all(f"scoresde {what} {next(_barriers)}", seconds)
    except RuntimeError as error:
        raise RuntimeError(
            f"{all_together}, and not all arrived within {seconds} seconds: let every process make "
            f"this call, or make it in a script that runs as one process. ({error})"
        ) from error


def _wait_for_all(name: str, seconds: int) -> None:
    from orbax.checkpoint.multihost import get_barrier_sync_fn

    wait_at_barrier = get_barrier_sync_fn()
    arrived: Future[None] = Future()

    def wait() -> None:
        try:
            wait_at_barrier(key=name, timeout_ms=1000 * seconds)
            arrived.set_result(None)
        except BaseException as error:
            arrived.set_exception(error)

    # In a thread, because Ctrl-C interrupts waiting for a thread but not waiting inside C++.
    threading.Thread(target=wait, daemon=True).start()
    arrived.result()


def any_process(flag: bool) -> bool:
    """Returns whether the flag is true in any process. All of them must ask, and get one answer."""
    if jax.process_count() == 1:
        return flag

    from jax.experimental import multihost_utils

    return bool(np.any(multihost_utils.process_allgather(np.asarray(flag))))


def in_first(work: Callable[[], Result]) -> Result | None:
    """Returns work() in process 0, and None in the others, which wait for it.

    If `work` raises an error, it ends all processes.

    Raises:
        RuntimeError: in the other processes, if it failed in process 0.
    """
    result = None
    failure = None
    if jax.process_index() == 0:
        alone = _alone.set(jax.process_count() > 1)
        try:
            result = work()
        except BaseException as error:
            failure = error
        finally:
            _alone.reset(alone)

    barrier("what process 0 does for all")
    if not any_process(failure is not None):
        return result
    raise failure or RuntimeError(
        "process 0 failed, which ends this one too: its own message says why."
    )


def by_first(work: Callable[[], Result]) -> Result | None:
    """Returns work(), done by process 0 where several work together; None in the others."""
    return in_first(work) if are_together() else work()


# --- Refusing what differs ---


def check_alike(
    about: dict[str, Any],
    advice: str = "pass the same settings, data and key to all of them, and a folder for the run "
    "that all of them see",
) -> None:
    """Refuses a call that is not the same in all processes. `about` describes it, and is JSON-able.

    Raises:
        ValueError: in all processes if one differs; those unlike process 0 report the differences.
    """
    if jax.process_count() == 1:
        return

    text = json.dumps(about)
    found = differences(json.loads(_from_first(text)), json.loads(text))
    if any_process(bool(found)):
        what = "; ".join(found) if found else "the other processes report the differences"
        raise ValueError(
            f"the processes were called differently ({what}; process 0 is there, "
            f"process {jax.process_index()} now): {advice}."
        )


def check_shared(folder: Path) -> None:
    """Refuses a folder in which the other processes do not find what process 0 writes.

    Raises:
        ValueError: in all processes if one does not see it.
    """
    if jax.process_count() == 1:
        return

    # A new name each time, because file systems cache what they did not find.
    mark = folder / f".seen-by-all-{_from_first(secrets.token_hex(8))}"
    in_first(mark.touch)
    missing = not mark.is_file()
    missing_somewhere = any_process(missing)
    in_first(mark.unlink)

    if missing_somewhere:
        process = f"process {jax.process_index()}"
        found = (
            f"{process} does not see in {folder} what process 0 writes there"
            if missing
            else f"{process} sees in {folder} what process 0 writes there, another process does not"
        )
        raise ValueError(f"{found}: name a folder on a file system that all processes share.")


def differences(old: Any, new: Any, place: str = "") -> list[str]:
    """Returns where the plain data of two settings differ: "sde.beta_max: 20.0 there, 15.0 now"."""
    if isinstance(old, dict) and isinstance(new, dict):
        found = []
        for key in dict.fromkeys((*old, *new)):
            inner = f"{place}.{key}".lstrip(".")
            found += differences(old.get(key), new.get(key), inner)
        return found

    return [] if old == new else [f"{place}: {old} there, {new} now"]


def _from_first(text: str) -> str:
    """Returns the text of process 0, in every process."""
    from jax.experimental import multihost_utils

    # Broadcast arrays must have one shape everywhere, so the length goes first.
    own = np.frombuffer(text.encode(), np.uint8)
    length = int(multihost_utils.broadcast_one_to_all(np.asarray(len(own), np.int32)))
    sent = np.zeros(length, np.uint8)
    sent[: len(own)] = own[:length]  # whole in process 0; the others' content is ignored
    return np.asarray(multihost_utils.broadcast_one_to_all(sent)).tobytes().decode()
