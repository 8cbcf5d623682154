"""Joining is refused where its settings are wrong; test_processes.py joins two."""

import signal

import jax
import pytest

import scoresde as sd


@pytest.mark.parametrize(
    ("address", "number", "process", "message"),
    [
        ("host0", "2", "0", "JAX_COORDINATOR_ADDRESS is 'host0': wanted process 0's host:port"),
        ("host0:1234", "two", "0", "JAX_NUM_PROCESSES is 'two': wanted a whole number"),
        ("host0:1234", "2", "2", "JAX_PROCESS_ID is 2 of JAX_NUM_PROCESSES = 2: wanted 0 … 1"),
        ("host0:1234", "2", None, "the processes could not connect: .*JAX_PROCESS_ID=None"),
    ],
)
def test_wrong_variables_are_named(monkeypatch, address, number, process, message):
    """Mistakes are found before any waiting, and Ctrl-C is Python's again afterwards."""
    variables = {
        "JAX_COORDINATOR_ADDRESS": address,
        "JAX_NUM_PROCESSES": number,
        "JAX_PROCESS_ID": process,
    }
    for variable, text in variables.items():
        monkeypatch.delenv(variable, raising=False)
        if text is not None:
            monkeypatch.setenv(variable, text)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(ValueError, match=message):
        sd.join_processes()
    assert signal.getsignal(signal.SIGINT) == handler


def test_it_warns_where_slurm_has_started_several_processes(monkeypatch):
    """Nothing else would tell that each of them trains a model of its own."""
    monkeypatch.delenv("JAX_COORDINATOR_ADDRESS", raising=False)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    with pytest.warns(UserWarning, match="SLURM_STEP_NUM_TASKS is 4, .* works by itself"):
        sd.join_processes()


def test_an_address_that_was_passed_is_named_so():
    with pytest.raises(ValueError, match=r"^address is 'host0': wanted"):
        sd.join_processes("host0", 2, 0)


def test_joining_twice_is_refused(monkeypatch):
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    with pytest.raises(RuntimeError, match="has joined others already"):
        sd.join_processes("host0:1234", 2, 0)


def test_without_an_address_a_process_stays_alone(monkeypatch):
    monkeypatch.delenv("JAX_COORDINATOR_ADDRESS", raising=False)
    sd.join_processes()
    with pytest.raises(ValueError, match="count = 2 and index = 0 came without an address"):
        sd.join_processes(count=2, index=0)
