"""What all pictures share: they are written whole, in any thread, and import late."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from scoresde.runs.image_grid import image_grid
from scoresde.runs.training_curve import training_curve


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "grid.png"
    path.write_bytes(b"old")

    def full_disk(*_):
        raise OSError("no space left")

    monkeypatch.setattr(Path, "replace", full_disk)
    with pytest.raises(OSError, match="no space"):
        image_grid(np.zeros((1, 8, 8, 1)), path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_drawing_in_threads(tmp_path):
    rows = [[{"step": s, "loss": float(10 + k + s)} for s in range(5)] for k in range(4)]
    with ThreadPoolExecutor(4) as pool:
        figures = list(pool.map(lambda k: training_curve(rows[k], tmp_path / f"{k}.png"), range(4)))
    assert [fig.axes[0].lines[0].get_ydata()[0] for fig in figures] == [10, 11, 12, 13]
    assert all(b"IEND" in (tmp_path / f"{k}.png").read_bytes()[-12:] for k in range(4))


def test_import_is_cheap_and_drawing_leaves_pyplot_alone():
    program = """
import sys
from scoresde.runs import plots
assert not {"matplotlib", "PIL"} & sys.modules.keys()
plots.training_curve([{"step": 0, "loss": 1.0}])
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)
