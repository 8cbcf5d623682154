"""Training in two processes: the steps of one, cut in halves; what differs between them is refused in both."""

import dataclasses
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import two_processes
from flax import nnx

import scoresde as sd


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """What the two processes saw, and the folder that they shared."""
    folder = tmp_path_factory.mktemp("both")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    env = os.environ | {
        "JAX_NUM_CPU_DEVICES": "2",
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "PYTHONPATH": str(Path(sd.__file__).parents[1]),
    }
    command = [sys.executable, two_processes.__file__, port]
    logs = [
        folder / f"{i}.log" for i in range(2)
    ]  # pipes may fill while the other process is waited for
    with logs[0].open("w") as first, logs[1].open("w") as second:
        processes = [
            subprocess.Popen(
                [*command, str(i), str(folder)], env=env, stdout=log, stderr=subprocess.STDOUT
            )
            for i, log in enumerate((first, second))
        ]
        try:
            codes = [process.wait(timeout=300) for process in processes]
        finally:
            for process in processes:
                process.kill()
    told = [log.read_text() for log in logs]
    assert codes == [0, 0], "".join(told)
    return [json.loads(out[out.index('{"devices"') :].splitlines()[0]) for out in told], folder


def test_two_processes_take_the_steps_of_one(both, tmp_path):
    """Losses, gradients, validation and weights are those of one process, through a stop and a resumption.

    Sums over the batch are split otherwise: float32 rounding, 1e-6 relative, grows over 12 steps of Adam.
    """
    seen, folder = both
    whole = two_processes.train(tmp_path)
    assert [process["devices"] for process in seen] == [4, 4]
    assert [process["finished"] for process in seen] == [[False, 12]] * 2
    for process in seen:
        assert [row["step"] for row in process["rows"]] == [4, 8, 12]
        for name in ("loss", "grad_norm", "valid_loss", "learning_rate", "skipped"):
            found, wanted = (
                [row[name] for row in rows] for rows in (process["rows"], whole.history)
            )
            np.testing.assert_allclose(found, wanted, rtol=1e-4)
    model = sd.load(folder / "run")  # as one process sees it
    for a, b in zip(
        *(
            jax.tree.leaves(nnx.to_pure_dict(nnx.state(m.net, nnx.Param)))
            for m in (model, whole.model)
        ),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
    assert seen[0]["sample"] == seen[1]["sample"]
    assert (
        len((folder / "run" / "metrics.jsonl").read_text().splitlines()) == 3
    )  # written by one of them
    longer = dataclasses.replace(
        two_processes.TRAINING, steps=16
    )  # one process goes on where two were
    last = [
        two_processes.train(run, training=longer).history[-1] for run in (folder / "run", tmp_path)
    ]
    assert [row["step"] for row in last] == [16, 16]
    np.testing.assert_allclose(last[0]["loss"], last[1]["loss"], rtol=1e-4)


def test_a_signal_to_one_process_stops_both(both):
    """At the same row of metrics; the callbacks are process 0's."""
    (first, second), _ = both
    assert first["stopped"] == second["stopped"]
    assert first["stopped"] in ([True, 4], [True, 8])
    assert first["called"] == [step for step in (4, 8, 12) if step > first["stopped"][1]]
    assert second["called"] == []


def test_what_differs_between_processes_is_refused_in_both(both):
    """The one that differs says in what."""
    (first, second), _ = both
    for what, name in (
        ("other key", "key"),
        ("other rows of metrics", "training.log_every: 4 there, 5 now"),
    ):
        assert "called differently" in first[what]
        assert "called differently" in second[what] and name in second[what]
    assert "a batch of 9" in first["batch of 9"] and "a batch of 9" in second["batch of 9"]
    assert first["callback"] == "ValueError: no picture"
    assert second["callback"].startswith("RuntimeError: process 0 failed")
    assert "another process does not: name a folder" in first["not shared"]
    assert "process 1 does not see in" in second["not shared"]


def test_checkpoints_are_read_by_all_processes_or_not_at_all(both):
    """Orbax waits for all of them: one alone, in a callback, is told so at once."""
    (first, second), _ = both
    assert first["read by all"] and second["read by all"]
    assert (
        "a checkpoint under jax.distributed is for all processes together"
        in first["read in a callback"]
    )
    assert second["read in a callback"].startswith("RuntimeError: process 0 failed")


def test_functions_among_the_settings_are_the_same_in_both(both):
    """Told apart by name, not by their place in memory."""
    assert [process["label of their own"] for process in both[0]] == ["not refused"] * 2
