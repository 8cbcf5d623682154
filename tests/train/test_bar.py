"""The progress bar of training."""

import os
import sys

from scoresde.train.bar import tell, training_bar


def test_a_bar_that_nobody_reads_does_not_end_training(monkeypatch, tmp_path):
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w", buffering=1) as nobody:
        monkeypatch.setattr(sys, "stderr", nobody)
        with training_bar(3, 0, visible=True) as bar:
            bar.update()
            bar.set_postfix({"loss": "1"})
            bar.write("stopping")
            tell("resumed")
        monkeypatch.undo()
        with open(os.devnull, "w") as sink:
            os.dup2(sink.fileno(), nobody.fileno())


def test_a_bar_is_cleared_before_a_message(monkeypatch, capsys):
    with training_bar(3, 0, visible=True) as bar:
        bar.write("stopping")
    out, err = capsys.readouterr()
    assert out == "stopping\n"
    assert err.count("training:") >= 2
