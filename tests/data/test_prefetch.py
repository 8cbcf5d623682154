"""Prefetching: results in order, errors in their place, and no thread left behind."""

import threading
import time

import pytest

from scoresde.data.prefetch import Prefetch


def test_prefetch_keeps_the_order_and_no_thread():
    """At most two ahead, errors where they belong; the thread ends when the block is left."""
    made = []
    beside = []

    def make(i):
        if i == 7:
            raise RuntimeError("seven")
        made.append(i)
        beside.append(threading.current_thread() is not threading.main_thread())
        return -i

    with Prefetch(make, range(100), ahead=2) as ahead:
        for i in range(7):
            assert next(ahead) == -i
            assert max(made) <= i + 3  # one in hand, two waiting
        for _ in range(2):
            with pytest.raises(RuntimeError, match="seven"):
                next(ahead)
    assert all(beside)

    with Prefetch(lambda i: i, range(10**9)) as ahead:
        assert next(ahead) == 0
    assert not any(thread.name == "prefetch" for thread in threading.enumerate())

    with Prefetch(lambda i: time.sleep(0.2), range(1)) as ahead:
        assert list(ahead) == [None]
    assert 0.1 < ahead.waited < 5
