"""Arrays drawn in chunks: whatever was kept is not drawn again, and all come out bit for bit."""

import json
import math

import numpy as np
import pytest

from scoresde import checked_lines
from scoresde.cli.chunks import Chunks

NAMES = ("x", "nfe", "success")


def arrays_of(rows):
    x = np.sin(np.multiply.outer(rows, np.arange(1, 7))).reshape(len(rows), 3, 2)
    x = np.where(rows[:, None, None] == 2, np.nan, x).astype(np.float32)
    return {"x": x, "nfe": rows.astype(np.int32), "success": rows != 2}


def gather(chunks, stop_at=None):
    """Returns the arrays, and the rows that were drawn."""
    drawn = []

    def draw(rows):
        drawn.append(rows.tolist())
        if len(drawn) == stop_at:
            raise KeyboardInterrupt
        return arrays_of(rows)

    return chunks.gather(draw, NAMES, "rows"), drawn


def interrupted(tmp_path, **changes):
    chunks = Chunks(tmp_path / "x.npz", {"seed": 0, **changes}, num=7, batch_size=3)
    with pytest.raises(KeyboardInterrupt):
        gather(chunks, stop_at=3)
    return chunks


def assert_all(arrays):
    for name, wanted in arrays_of(np.arange(7)).items():
        assert arrays[name].dtype == wanted.dtype
        np.testing.assert_array_equal(arrays[name], wanted)


def test_chunks_are_of_one_shape_and_continue(tmp_path):
    chunks = interrupted(tmp_path)
    arrays, drawn = gather(chunks)
    assert_all(arrays)
    assert drawn == [[6, 6, 6]]
    assert gather(chunks)[1] == []
    chunks.remove()
    assert not any(tmp_path.iterdir())
    assert gather(chunks)[1] == [[0, 1, 2], [3, 4, 5], [6, 6, 6]]


def test_settings_may_be_infinite(tmp_path):
    """As `churn_max` of sd.Heun is."""
    arrays, drawn = gather(interrupted(tmp_path, churn_max=math.inf))
    assert_all(arrays)
    assert drawn == [[6, 6, 6]]


def test_one_chunk_needs_no_file(tmp_path):
    arrays, drawn = gather(Chunks(tmp_path / "x.npz", {}, num=7, batch_size=7))
    assert_all(arrays)
    assert drawn == [[*range(7)]]
    assert not any(tmp_path.iterdir())


def test_other_settings_have_other_files(tmp_path):
    first = interrupted(tmp_path)
    assert interrupted(tmp_path, seed=1).path != first.path
    assert Chunks(tmp_path / "x.npz", {"seed": 0}, num=7, batch_size=4).path != first.path
    assert len([*tmp_path.iterdir()]) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"chunk": 3}, "is of chunk 3, which is not one of 3"),
        ({"chunk": -1}, "is of chunk -1"),
        ({"nfe": None}, "holds an array that cannot be read"),
        ({"nfe": {"dtype": "int32", "shape": [3], "base64": "AAAA"}}, "cannot be read"),
        ({"nfe": {"dtype": "int8", "shape": [1, 3], "base64": "AAAA"}}, "shape .1, 3.: wanted 3"),
        ({"nfe": {"dtype": "object", "shape": [3], "base64": "AAAA"}}, "cannot be read"),
    ],
)
def test_a_chunk_of_another_form_is_drawn_again(tmp_path, changes, message):
    """Whatever its checksum says."""
    chunks = interrupted(tmp_path)
    lines = chunks.path.read_text().splitlines(keepends=True)
    first, content = json.loads(lines[0]), json.loads(lines[1]) | changes
    del content["sha256"]
    line = checked_lines._line(content, first["sha256"]).decode()
    chunks.path.write_text("".join([lines[0], line, lines[2]]))
    with pytest.warns(UserWarning, match=f"line 2 .*{message}"):
        arrays, drawn = gather(chunks)
    assert_all(arrays)
    assert drawn == [[0, 1, 2], [6, 6, 6]]
