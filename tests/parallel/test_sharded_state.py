"""Parameters that are sharded over devices train as replicated ones do."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import some_devices
from flax import nnx
from jax.sharding import PartitionSpec as P

import scoresde as sd
from scoresde.parallel.mesh import mesh_of
from scoresde.parallel.sharded_state import state_shardings
from scoresde.train.record import Record

ENVIRONMENT = os.environ | {
    "JAX_PLATFORMS": "cpu",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    "PYTHONPATH": str(Path(sd.__file__).parents[1]),
}


def in_processes(folder: Path, *arguments, processes: int = 1) -> list[dict]:
    """Returns what `some_devices.py` found, in each of the processes."""
    command = [sys.executable, some_devices.__file__, *map(str, arguments)]
    port = some_devices.free_port()
    logs = [folder / f"{index}.log" for index in range(processes)]  # a pipe may fill up
    running = []
    try:
        for index, log in enumerate(logs):
            others = [port, str(processes), str(index)] if processes > 1 else []
            with log.open("w") as stream:
                running.append(
                    subprocess.Popen([*command, *others], env=ENVIRONMENT, stdout=stream)
                )
        codes = [process.wait(timeout=1200) for process in running]
    finally:
        for process in running:
            process.kill()
    assert codes == [0] * processes
    texts = [log.read_text() for log in logs]
    return [json.loads(text[text.index('{"devices"') :].splitlines()[0]) for text in texts]


def weights(model) -> list:
    return jax.tree.leaves(nnx.to_pure_dict(nnx.state(model.net, nnx.Param)))


def assert_same_training(found: dict, wanted: dict) -> None:
    """Losses over 30 steps within 1e-5 of each other; rows of samples and likelihoods as well."""
    for name in ("loss", "valid_loss", "grad_norm"):
        values = [[row[name] for row in run["rows"]] for run in (found, wanted)]
        np.testing.assert_allclose(*values, rtol=1e-5)
    for name in ("x", "log_prob", "codes", "decoded"):
        np.testing.assert_allclose(found[name], wanted[name], rtol=1e-5, atol=1e-5)


# --- The rule ---


@pytest.mark.parametrize(
    ("shape", "wanted"),
    [
        ((3, 3, 8, 16), P(None, None, None, ("short", "long"))),  # the longest axis
        ((3, 4, 2), P(None, ("short", "long"), None)),  # the longest that 4 divides
        ((2, 2, 3), P("long", "short", None)),  # over two axes
        ((2, 3), P()),  # 4 divides neither
        ((2, 4), P()),  # it has 8 numbers: fewer than 9
    ],
)
def test_large_arrays_are_sharded_along_axes_that_the_devices_divide(shape, wanted):
    mesh = mesh_of([*jax.devices(), *jax.devices()])  # four places for a rule, on any machine
    assert state_shardings(jnp.zeros(shape), mesh, 9).spec == wanted


def test_arrays_are_replicated_without_the_setting():
    mesh = mesh_of(jax.devices())
    assert state_shardings(jnp.zeros((64, 64)), mesh, None).spec == P()


# --- Training, in two devices of this process ---


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    """The folder of a training of which arrays of at least 64 numbers are sharded, and its
    state."""
    folder = tmp_path_factory.mktemp("sharded")
    states = []
    finish = Record.finish

    def keep(record, step, state):
        states.append(state)
        finish(record, step, state)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Record, "finish", keep)
        some_devices.train(folder, 20, 64)
    return folder, states[0]


def test_sharded_parameters_train_as_replicated_ones_and_resume_on_either(sharded, tmp_path):
    """Sums over examples are taken in another order: float32 rounding, 1e-6 relative."""
    folder, _ = sharded
    whole = some_devices.train(tmp_path / "whole", 30, None)
    shutil.copytree(folder, tmp_path / "resumed")
    resumed = some_devices.train(tmp_path / "resumed", 30, None)
    again = some_devices.train(folder, 30, 64)

    for name in ("loss", "valid_loss", "grad_norm"):
        wanted = [row[name] for row in whole.history]
        for other in (resumed, again):
            np.testing.assert_allclose([row[name] for row in other.history], wanted, rtol=1e-5)
    for a, b in zip(weights(again.model), weights(whole.model), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_each_device_holds_half_of_the_state(sharded):
    """Parameters, their average and Adam's two moments of every large array lie in halves."""
    _, state = sharded
    held = jax.tree.map(
        lambda a: [shard.data.size / a.size for shard in a.addressable_shards], state
    )
    for part in ("params", "ema"):
        sizes = jax.tree.map(lambda a, held: (a.size >= 64, held), state[part], held[part])
        for is_large, parts in jax.tree.leaves(sizes, is_leaf=lambda a: isinstance(a, tuple)):
            assert parts == ([0.5, 0.5] if is_large else [1.0, 1.0])
    in_halves = [
        array.size
        for array in jax.tree.leaves(state["opt_state"])
        if array.addressable_shards[0].data.size < array.size
    ]
    large = [array.size for array in jax.tree.leaves(state["params"]) if array.size >= 64]
    assert sorted(in_halves) == sorted(2 * large)


# --- Long forms ---


@pytest.mark.slow
def test_one_to_eight_devices_give_the_same_results(tmp_path):
    alone = in_processes(tmp_path, 1, tmp_path / "1", 30, 0)[0]
    for devices in (2, 4, 8):
        for above in (0, 64):
            run = tmp_path / f"{devices}-{above}"
            found = in_processes(tmp_path, devices, run, 30, above)[0]
            assert found["devices"] == devices
            assert_same_training(found, alone)


@pytest.mark.slow
def test_checkpoints_go_from_four_devices_to_eight_and_two(tmp_path):
    """The arrays are equal to the bit: a run of no further step returns what it read."""
    first = in_processes(tmp_path, 4, tmp_path / "run", 10, 64)[0]
    for devices, above in ((8, 64), (2, 64), (1, 0)):
        found = in_processes(tmp_path, devices, tmp_path / "run", 10, above)[0]
        assert found["weights"] == first["weights"]


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
def test_processes_give_the_results_of_one(tmp_path, processes):
    alone = in_processes(tmp_path, 1, tmp_path / "1", 30, 0)[0]
    for above in (0, 64):
        run = tmp_path / f"shared-{above}"
        every = in_processes(tmp_path, 2, run, 30, above, processes=processes)
        for found in every:
            assert found["devices"] == 2 * processes
            assert_same_training(found, alone)
