"""Decoded images: each decoded once, and a cache that is whole or not used."""

import json
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from scoresde.data import cache


def decode(folder, count=600, calls=None, fail_at=None):
    """Image i is full of i, so that every one tells where it belongs."""

    def examples(indices):
        for i in indices:
            if i == fail_at:
                raise KeyboardInterrupt
            if calls is not None:
                calls.append(i)
            yield np.full((2, 2, 1), i % 251, np.uint8), i

    return cache.decode_once("numbers", count, examples, folder)


def test_decoded_once(tmp_path, monkeypatch):
    """Each image once, in its place; later calls decode nothing, in memory or mapped."""
    calls = []
    decode(tmp_path, calls=calls)
    assert sorted(calls) == [0, *range(600)]  # the first is looked at twice

    calls.clear()
    found = decode(tmp_path, calls=calls)
    monkeypatch.setattr(cache, "LARGEST_IN_MEMORY", 100)
    mapped = decode(tmp_path, calls=calls)
    assert not calls
    assert isinstance(mapped.pixels, np.memmap)
    for one in (found, mapped):
        np.testing.assert_array_equal(one.pixels[:, 1, 1, 0], np.arange(600) % 251)
        np.testing.assert_array_equal(one.labels, np.arange(600))
        assert one.digest == found.digest


def test_threads_that_want_the_same_get_the_same(tmp_path):
    """Two at once: one decodes, the other finds it done."""
    calls = []
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(decode(tmp_path, calls=calls)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2
    assert len(calls) == 601
    np.testing.assert_array_equal(found[0].pixels, found[1].pixels)


def test_an_interrupted_decode_leaves_nothing_that_is_taken_for_whole(tmp_path):
    """After an exception, after a kill in the middle, and where bytes were lost or changed."""
    with pytest.raises(KeyboardInterrupt):
        decode(tmp_path, fail_at=500)
    assert not list(tmp_path.iterdir())

    # A process that dies at the 500th image.
    code = (
        f"import os, sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r})\n"
        f"import numpy as np\n"
        f"from pathlib import Path; from scoresde.data import cache\n"
        f"image = np.zeros((2, 2, 1), np.uint8)\n"
        f"stop = lambda rows: [os._exit(9) if i == 500 else (image, i) for i in rows]\n"
        f"cache.decode_once('numbers', 600, stop, Path({str(tmp_path)!r}))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 9
    (remains,) = tmp_path.iterdir()
    assert remains.name.endswith(".partial")
    want = np.arange(600) % 251
    np.testing.assert_array_equal(decode(tmp_path).pixels[:, 0, 0, 0], want)
    (place,) = tmp_path.iterdir()  # the remains are gone

    # Bytes that were lost or changed.
    for damage in (lambda b: b[:-1], lambda b: b[:-5] + b"\0" + b[-4:]):
        file = place / "pixels.npy"
        file.write_bytes(damage(file.read_bytes()))
        with pytest.warns(UserWarning, match="damaged"):
            np.testing.assert_array_equal(decode(tmp_path).pixels[:, 0, 0, 0], want)
    assert json.loads((place / "about.json").read_text())["identity"] == "numbers"


def test_a_place_that_cannot_be_written_is_said_before_anything_is_decoded(tmp_path):
    """As a home folder may be."""
    (tmp_path / "file").touch()
    calls = []
    with pytest.raises(OSError, match=r"decoded images cannot be kept in .*set SCORESDE_CACHE"):
        decode(tmp_path / "file" / "decoded", calls=calls)
    assert not calls
