"""Joins the processes that train one model together."""

from __future__ import annotations

import os
import re
import signal
import threading

import jax

from scoresde import checks
from scoresde.parallel.watch import watch

WAIT = 300
"""Seconds that the processes wait for each other at their start."""

ADDRESS = "JAX_COORDINATOR_ADDRESS"
"""The environment variable that names the host and the port of process 0."""

STARTED = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
"""Variables in which SLURM and Open MPI say how many processes they have started together."""

HEARTBEAT = 90
"""Seconds after which JAX itself gives a silent process up; the watch does so earlier."""


def join_processes(
    address: str | None = None, count: int | None = None, index: int | None = None
) -> None:
    """Joins the other processes: `sd.fit` then trains one model in all of them.

    Call it before any other use of JAX, in each process; `jax.process_count()` tells whether there
    are others. If one of them is lost later, the others end within a minute, with exit code 1 and
    one line that says which, and what is kept (watch.py).

    Args:
        address: the host:port of process 0; None reads JAX_COORDINATOR_ADDRESS, and without that
            this process stays alone.
        count: the number of processes; None reads JAX_NUM_PROCESSES.
        index: which of them this one is, from 0; None reads JAX_PROCESS_ID.

    Without count and index JAX reads the variables of SLURM, Open MPI or Kubernetes.

    Each process also has a connection with process 0, on a port of its choice, by which a loss is
    noticed.

    Warns if SLURM or Open MPI has started several, and there is no address.

    Raises:
        ValueError: if one is malformed, or the processes cannot reach each other.
        RuntimeError: if this process has joined others already.
    """
    source = ADDRESS if address is None else "address"
    address = os.environ.get(ADDRESS) if address is None else address
    if address is None:
        _check_alone(count, index)
        return
    if jax.distributed.is_initialized():
        raise RuntimeError(
            "this process has joined others already: call sd.join_processes() once, and "
            "jax.distributed.initialize() not beside it."
        )

    if not re.fullmatch(r".+:[0-9]+", address):
        raise ValueError(
            f"{source} is {address!r}: wanted process 0's host:port, as in host0:1234."
        )
    count = whole_number("JAX_NUM_PROCESSES") if count is None else count
    index = whole_number("JAX_PROCESS_ID") if index is None else index
    if count is not None and index is not None and not 0 <= index < count:
        raise ValueError(
            f"JAX_PROCESS_ID is {index} of JAX_NUM_PROCESSES = {count}: wanted 0 … {count - 1}."
        )

    # While JAX waits for the others in C++, Python's handler would not run.
    in_main_thread = threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGINT, signal.SIG_DFL) if in_main_thread else None
    terminate = signal.getsignal(signal.SIGTERM)
    try:
        _connect(address, count, index)
    except (ValueError, RuntimeError, OSError) as error:
        raise ValueError(
            f"the processes could not connect: {error} (JAX_COORDINATOR_ADDRESS={address}, "
            f"JAX_NUM_PROCESSES={count}, JAX_PROCESS_ID={index}, from the environment unless they "
            "were passed. For one that is None, JAX asks SLURM, Open MPI or Kubernetes: set it if "
            "this is none of them.)"
        ) from error
    finally:
        if in_main_thread:
            signal.signal(signal.SIGINT, handler)
            # JAX has replaced this one by its own.
            signal.signal(signal.SIGTERM, terminate or signal.SIG_DFL)


def _connect(address: str, count: int | None, index: int | None) -> None:
    jax.distributed.initialize(
        address,
        num_processes=count,
        process_id=index,
        initialization_timeout=WAIT,
        heartbeat_timeout_seconds=HEARTBEAT,
        shutdown_timeout_seconds=60,
    )

    from jax._src import distributed  # without devices, which `use_cpu_cores` may still change

    state = distributed.global_state
    if state.num_processes > 1:
        host = address.rpartition(":")[0].strip("[]")
        watch(host, state.process_id, state.num_processes, WAIT)


def _check_alone(count: int | None, index: int | None) -> None:
    if count is not None or index is not None:
        raise ValueError(
            f"count = {count} and index = {index} came without an address: wanted that of process "
            f'0 too, as in sd.join_processes("host0:1234", 2, 0).'
        )
    for variable in STARTED:
        if os.environ.get(variable, "1") not in ("", "1"):
            checks.warn(
                f"{variable} is {os.environ[variable]}, but {ADDRESS} is not set: each of these "
                f"processes works by itself. For one training of all set it to process 0's "
                f"host:port, such as host0:1234, in each."
            )


def whole_number(variable: str) -> int | None:
    """Returns the value of an environment variable as a whole number, or None if it is not set.

    Raises:
        ValueError: if it is not a whole number.
    """
    text = os.environ.get(variable)
    if text is None:
        return None
    if not text.isdecimal():
        raise ValueError(f"{variable} is {text!r}: wanted a whole number.")
    return int(text)
