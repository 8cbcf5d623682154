"""Several processes that train one model together."""

from __future__ import annotations

import os
import re
import signal

import jax


def join() -> None:
    """Joins the other processes if JAX_COORDINATOR_ADDRESS names process 0 as host:port.

    JAX_NUM_PROCESSES and JAX_PROCESS_ID give the number of processes and the index of this one.
    Without them JAX reads the variables of SLURM, Open MPI or Kubernetes. An error in one process
    ends the others after a minute.

    Raises:
        ValueError: if a variable is malformed, or the processes cannot reach each other.
    """
    address = os.environ.get("JAX_COORDINATOR_ADDRESS")
    if address is None:
        return

    if not re.fullmatch(r".+:[0-9]+", address):
        raise ValueError(
            f"JAX_COORDINATOR_ADDRESS is {address!r}: wanted process 0's host:port, "
            f"as in host0:1234."
        )

    count = whole_number("JAX_NUM_PROCESSES")
    index = whole_number("JAX_PROCESS_ID")
    if count is not None and index is not None and index >= count:
        raise ValueError(
            f"JAX_PROCESS_ID is {index} of JAX_NUM_PROCESSES = {count}: wanted 0 … {count - 1}."
        )

    # While JAX waits for the others, up to 5 minutes in C++, Python's handler would not run.
    handler = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        jax.distributed.initialize(
            num_processes=count, process_id=index, shutdown_timeout_seconds=60
        )
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"the processes could not connect: {error} (JAX_COORDINATOR_ADDRESS={address}, "
            f"JAX_NUM_PROCESSES={count}, JAX_PROCESS_ID={index}, from the environment. For one "
            "that is None, JAX asks SLURM, Open MPI or Kubernetes: set it if this is none of them.)"
        ) from error
    finally:
        signal.signal(signal.SIGINT, handler)


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
