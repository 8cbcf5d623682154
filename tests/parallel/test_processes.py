"""Two processes train as one would, and refuse in both what differs between them."""

import dataclasses
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import lost_process
import numpy as np
import pytest
import two_processes
from flax import nnx

import scoresde as sd


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """What the two processes saw, and the folder that they shared."""
    folder = tmp_path_factory.mktemp("both")
    codes, printed = run_together(
        folder,
        *([two_processes.__file__, "PORT", str(i), str(folder)] for i in range(2)),
        devices=2,
    )
    assert codes == [1, -signal.SIGKILL], "".join(printed)
    (folder / "last words").write_text(printed[0].splitlines()[-1])
    return [read_line_of_json(text) for text in printed], folder


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The same training in one process, and its folder."""
    folder = tmp_path_factory.mktemp("alone")
    return two_processes.train(folder), folder


def run_together(folder, *commands, devices):
    """Runs Python on each list of arguments, in which PORT is a free one, all at once.

    Returns their exit codes, and what they printed.
    """
    env = os.environ | {
        "JAX_COORDINATOR_BIND_ADDRESS": f"127.0.0.1:{(port := free_port())}",
        "JAX_NUM_CPU_DEVICES": str(devices),
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "PYTHONPATH": str(Path(sd.__file__).parents[1]),
    }

    # Logs are files, because a pipe may fill up while the test waits for the other process.
    logs = [folder / f"{i}.log" for i in range(len(commands))]
    processes = []
    try:
        for command, log in zip(commands, logs, strict=True):
            arguments = [port if word == "PORT" else word for word in command]
            with log.open("w") as stream:
                processes.append(
                    subprocess.Popen(
                        [sys.executable, *arguments],
                        env=env,
                        stdout=stream,
                        stderr=subprocess.STDOUT,
                    )
                )
        codes = [process.wait(timeout=1200) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return codes, [log.read_text() for log in logs]


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def read_line_of_json(text: str) -> dict:
    start = text.index('{"devices"')
    return json.loads(text[start:].splitlines()[0])


def weights(model) -> list:
    return jax.tree.leaves(nnx.to_pure_dict(nnx.state(model.net, nnx.Param)))


def test_two_processes_take_the_steps_of_one(both, alone):
    """Losses, gradients, validation and weights are those of one process, through a resumption.

    Sums over the batch are split differently: the float32 rounding error, 1e-6 relative, grows
    over 12 steps of Adam.
    """
    seen, folder = both
    whole, _ = alone
    assert [process["devices"] for process in seen] == [4, 4]
    assert [process["finished"] for process in seen] == [[False, 12]] * 2

    for process in seen:
        assert [row["step"] for row in process["rows"]] == [4, 8, 12]
        for name in ("loss", "grad_norm", "valid_loss", "learning_rate", "skipped"):
            found = [row[name] for row in process["rows"]]
            wanted = [row[name] for row in whole.history]
            np.testing.assert_allclose(found, wanted, rtol=1e-4)

    model = sd.load(folder / "run")  # one process reads what two wrote
    for a, b in zip(weights(model), weights(whole.model), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)

    lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 3  # written by one of them


def test_two_processes_draw_the_samples_of_one(both):
    """Each computes its share of the rows, and has all of them."""
    (first, second), _ = both
    alone = two_processes.sample(jax.random.key(1))
    for seen in (first, second):
        np.testing.assert_allclose(seen["sample"], alone, rtol=1e-5, atol=1e-6)

    assert "data: " not in second["other key of samples"]
    for seen in (first, second):
        assert "the processes were called differently" in seen["other key of samples"]
    assert "key: " in second["other key of samples"]
    assert "`with sd.one_process():`" in second["other key of samples"]

    # Where one fails, both do, and both may try again.
    assert "another process failed while it computed its share" in first["failed share"]
    assert "MemoryError: too many rows" in second["failed share"]
    for seen in (first, second):
        assert seen["failed share"].endswith(str(seen["sample"]))

    one = two_processes.sample(jax.random.key(0))
    np.testing.assert_allclose(first["sample of one"], one, rtol=1e-5, atol=1e-6)
    assert second["sample of one"] != first["sample of one"]


def test_two_processes_run_a_command_as_one_does(both, tmp_path):
    """It is stopped after one of two chunks; then that one is read by both, and is not drawn
    again."""
    seen, folder = both
    assert [process["command"] for process in seen] == [[130, 0]] * 2
    assert not list((folder / "run").glob("*.partial"))

    copy = shutil.copytree(folder / "run", tmp_path / "copy")
    assert two_processes.sample_by_command(copy) == 0
    found, wanted = (np.load(run / "six.npz") for run in (folder / "run", copy))
    np.testing.assert_array_equal(found["label"], wanted["label"])
    np.testing.assert_allclose(found["x"], wanted["x"], rtol=1e-5, atol=1e-5)


def test_one_process_resumes_what_two_began(both, alone, tmp_path):
    longer = dataclasses.replace(two_processes.TRAINING, steps=16)
    last_rows = []
    for name, run in (("by two", both[1] / "run"), ("by one", alone[1])):
        copy = shutil.copytree(run, tmp_path / name)
        last_rows.append(two_processes.train(copy, training=longer).history[-1])

    assert [row["step"] for row in last_rows] == [16, 16]
    np.testing.assert_allclose(last_rows[0]["loss"], last_rows[1]["loss"], rtol=1e-4)


def test_a_signal_to_one_process_stops_both(both):
    """They stop at the same row of metrics, and process 0 alone runs the callbacks."""
    (first, second), _ = both
    assert first["stopped"] == second["stopped"]
    assert first["stopped"] in ([True, 4], [True, 8])
    assert first["called"] == [step for step in (4, 8, 12) if step > first["stopped"][1]]
    assert second["called"] == []


@pytest.mark.parametrize(
    ("what", "difference"),
    [
        ("other key", "key"),
        ("other rows of metrics", "training.log_every: 4 there, 5 now"),
    ],
)
def test_what_differs_between_processes_is_refused_in_both(both, what, difference):
    """The process that differs from process 0 reports the difference."""
    (first, second), _ = both
    assert "called differently" in first[what]
    assert "called differently" in second[what]
    assert difference in second[what]


def test_a_failure_in_one_process_ends_both(both):
    (first, second), _ = both
    assert "a batch of 9" in first["batch of 9"]
    assert "a batch of 9" in second["batch of 9"]

    assert first["callback"] == "ValueError: no picture"
    assert second["callback"].startswith("RuntimeError: process 0 failed")


def test_a_process_that_is_killed_ends_the_other(both):
    """With one line; the exit codes are checked where they start."""
    _, folder = both
    words = (folder / "last words").read_text()
    found = re.fullmatch(
        "error: process 1 of 2 is lost: its connection ended. This one cannot go on without it. "
        f"The newest checkpoint in {folder / 'lost' / 'checkpoints'} is of step ([0-9]+): the same "
        "command, in as many processes as there are, resumes from it.",
        words,
    )
    assert found, words
    assert two_processes.checkpoint_of(folder / "lost", int(found[1])).is_file()


@pytest.mark.slow
def test_fewer_processes_resume_what_more_began(tmp_path):
    """One of 4 is killed, then one of 2; a single process finishes, at the losses of one alone."""
    run = tmp_path / "run"
    for count, step in ((4, 8), (2, 24), (1, 0)):
        commands = [
            [lost_process.__file__, "PORT", *map(str, (count, i, run, step))] for i in range(count)
        ]
        start = time.monotonic()
        codes, printed = run_together(tmp_path, *commands, devices=1)
        if step == 0:
            assert codes == [0], printed
            break

        assert codes == [*[1] * (count - 1), -signal.SIGKILL], "".join(printed)
        assert time.monotonic() - start < 240.0
        for text in printed[:-1]:
            assert f"process {count - 1} of {count} is lost" in text.splitlines()[-1]

    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = {row["step"]: row["loss"] for row in rows if "loss" in row}
    whole = two_processes.train(training=lost_process.TRAINING).history
    np.testing.assert_allclose(
        [losses[row["step"]] for row in whole], [row["loss"] for row in whole], rtol=1e-4
    )


def test_a_folder_that_one_process_does_not_see_is_refused_in_both(both):
    (first, second), _ = both
    assert "another process does not: name a folder" in first["not shared"]
    assert "process 1 does not see in" in second["not shared"]


def test_checkpoints_are_read_by_all_processes_or_not_at_all(both):
    """Orbax waits for all of them, so that one alone, in a callback, is refused at once."""
    (first, second), _ = both
    assert first["read by all"] and second["read by all"]

    wanted = "a checkpoint under jax.distributed is for all processes together"
    assert wanted in first["read in a callback"]
    assert second["read in a callback"].startswith("RuntimeError: process 0 failed")


def test_functions_among_the_settings_are_the_same_in_both(both):
    """Functions are compared by name, not by their place in memory."""
    seen, _ = both
    assert [process["custom label"] for process in seen] == ["not refused"] * 2
