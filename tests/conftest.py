"""Imports with checked shapes, and fixtures that run a test on every SDE and sampler."""

import atexit
import gc
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import zlib

# nohup and the background of a script ignore Ctrl-C; the tests, and processes that they start, not.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Two processes of tests on two cores: threads of BLAS that wait for each other take minutes.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# One cache for this run's processes: many tests compile the same programs.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="scoresde-tests-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "0"
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)

# XLA up to that of jax 0.10 compiles a third faster with this flag; others refuse to start with it.
if "XLA_FLAGS" not in os.environ:
    os.environ["XLA_FLAGS"] = "--xla_cpu_use_fusion_emitters=false"
    if subprocess.run(
        [sys.executable, "-c", "import jax; jax.devices()"], capture_output=True
    ).returncode:
        os.environ["XLA_FLAGS"] = ""

import jax
import jaxtyping
import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

# Tests compile much and compute little. JAX_DISABLE_MOST_OPTIMIZATIONS=0 gives them the programs
# that users get.
if "JAX_DISABLE_MOST_OPTIMIZATIONS" not in os.environ:
    jax.config.update("jax_disable_most_optimizations", True)

with install_import_hook("scoresde", "beartype.beartype"):
    import scoresde as sd
    import scoresde.cli.main
    import scoresde.data.arrays
    import scoresde.data.images
    import scoresde.evaluation.distances
    import scoresde.runs.plots
    import scoresde.runs.report

    for name in sd.__all__:  # some modules are imported at the first use of their names
        getattr(sd, name)

from families import FINITE, PROCESSES, PUBLISHED, SAMPLERS

from scoresde.sde.mixture import ring

settings.register_profile("fuzz")  # of test_fuzzing.py
sd.use_cpu_cores(2)  # a mesh of two devices in every training test, on any machine


@pytest.fixture(params=PROCESSES.values(), ids=PROCESSES.keys())
def any_sde(request):
    """Every SDE in tests/sde; elsewhere a third of them, and the others are `slow`."""
    return request.param


@pytest.hookimpl(tryfirst=True)  # before the marks select
def pytest_collection_modifyitems(items):
    """Marks two of three SDEs of a family test outside tests/sde as slow, by the test's name."""
    for item in items:
        params = getattr(item, "callspec", None)
        if params is None or "tests/sde/" in item.nodeid:
            continue
        sde = params.params.get("any_sde", params.params.get("finite_sde"))
        for index, process in enumerate(PROCESSES.values()):
            if process is sde and (index + zlib.crc32(item.originalname.encode())) % 3:
                item.add_marker(pytest.mark.slow)


@pytest.fixture(
    params=[
        pytest.param(
            process, id=name, marks=[] if name in ("vp", "ve", "rectified") else [pytest.mark.slow]
        )
        for name, process in PROCESSES.items()
    ]
)
def long_sde(request):
    """`any_sde` for what takes seconds each: most of them are `slow`."""
    return request.param


@pytest.fixture(params=FINITE.values(), ids=FINITE.keys())
def finite_sde(request):
    return request.param


@pytest.fixture(params=PUBLISHED.values(), ids=PUBLISHED.keys())
def sde(request):
    return request.param


@pytest.fixture(params=SAMPLERS.values(), ids=SAMPLERS.keys())
def sampler(request):
    return request.param


def pytest_collection_finish():
    """Keeps what is imported out of garbage collections, and makes them rare: an eighth of the
    time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)


@pytest.fixture(autouse=True, scope="module")
def forget_programs():
    """Drops a module's compiled programs: kept, they take gigabytes and slow every collection."""
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture(
    params=[
        pytest.param(
            sampler,
            id=name,
            marks=[pytest.mark.slow]
            if name in ("ancestral", "heun", "euler_maruyama", "exponential")
            else [],
        )
        for name, sampler in SAMPLERS.items()
    ]
)
def looped_sampler(request):
    """Every sampler, for questions about its loop; four of the five that share one are `slow`."""
    return request.param


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def unchecked():
    """Turns off the tests' own shape checks, so that bad input reaches the library's errors."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def mixture():
    return ring()
