"""Work done ahead in a thread: the host assembles batch n + 1 while the device computes batch n."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")


class Prefetch(Generic[Item, Made]):
    """make(item) for every item, in order, up to `ahead` of them before they are asked for. Leaving ends the thread.

    An error of `make` comes out where its result would have: results before it are not lost.
    """

    def __init__(self, make: Callable[[Item], Made], items: Iterable[Item], ahead: int = 2):
        self.waited = 0.0
        """Seconds spent waiting for results so far."""
        self._results: queue.Queue[tuple[Made | None, BaseException | None]] = queue.Queue(
            maxsize=ahead
        )
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=self._work, args=(make, iter(items)), name="prefetch", daemon=True
        )
        self._thread.start()

    def _work(self, make: Callable[[Item], Made], items: Iterator[Item]) -> None:
        try:
            for item in items:
                if not self._put(make(item), None):
                    return
            self._put(None, StopIteration())
        except BaseException as error:  # to be raised in the thread that asks
            self._put(None, error)

    def _put(self, made: Made | None, error: BaseException | None) -> bool:
        while not self._stop.is_set():
            try:
                self._results.put((made, error), timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def __iter__(self) -> Iterator[Made]:
        return self

    def __next__(self) -> Made:
        start = time.perf_counter()
        made, error = self._results.get()
        self.waited += time.perf_counter() - start
        if error is not None:
            self._results.put((None, error))  # asked again, it says so again
            raise error
        return made  # pyright: ignore[reportReturnType]

    def __enter__(self) -> Prefetch[Item, Made]:
        return self

    def __exit__(self, *_) -> None:
        self._stop.set()
        self._thread.join()
