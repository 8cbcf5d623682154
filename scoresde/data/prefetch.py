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
    """An iterator over make(item), in order, which computes up to `ahead` results in advance.

    Use it as a context manager: leaving the block ends the thread. An error in `make` is raised
    where its result would have been returned, after the results before it.
    """

    def __init__(self, make: Callable[[Item], Made], items: Iterable[Item], ahead: int = 2):
        self.waited = 0.0
        """The seconds spent waiting for results so far."""
        self._results: queue.Queue[tuple[Made | None, BaseException | None]] = queue.Queue(
            maxsize=ahead
        )
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=self._work, args=(make, iter(items)), name="prefetch", daemon=True
        )
        self._thread.start()

    def __iter__(self) -> Iterator[Made]:
        return self

    def __next__(self) -> Made:
        start = time.perf_counter()
        made, error = self._results.get()
        self.waited += time.perf_counter() - start

        if error is not None:
            self._results.put((None, error))  # the next call raises it again
            raise error
        return made  # pyright: ignore[reportReturnType]

    def __enter__(self) -> Prefetch[Item, Made]:
        return self

    def __exit__(self, *_) -> None:
        self._stop.set()
        self._thread.join()

    # --- In the thread ---

    def _work(self, make: Callable[[Item], Made], items: Iterator[Item]) -> None:
        try:
            for item in items:
                if not self._put(make(item), None):
                    return
            self._put(None, StopIteration())
        except BaseException as error:  # raised again in the thread that waits for the result
            self._put(None, error)

    def _put(self, made: Made | None, error: BaseException | None) -> bool:
        """Adds a result once there is room; False if the iterator was left before."""
        while not self._stop.is_set():
            try:
                self._results.put((made, error), timeout=0.1)
            except queue.Full:
                continue
            return True
        return False
