"""`use_cpu_cores` sets the number of CPU devices before JAX starts, and warns if it is too late."""

import subprocess
import sys
import warnings

import pytest

import scoresde as sd


def test_the_number_of_devices_is_returned_and_may_be_asked_for_again():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert sd.use_cpu_cores(2) == 2


def test_another_number_comes_too_late():
    with pytest.warns(UserWarning, match=r"runs with 2 CPU devices, not 3: call use_cpu_cores\(\)"):
        assert sd.use_cpu_cores(3) == 2


def test_a_new_process_has_as_many_devices_as_asked_for():
    program = "import scoresde as sd; print(sd.use_cpu_cores(3))"
    out = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == "3"
