"""The notebooks run with short settings, their own assertions included, and what is stored in them
is whole and small."""

import ast
import asyncio
import re
import sys
from pathlib import Path

import nbformat
import pytest
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))

# Set after the cell tagged "parameters". Odd batches stay on one device, which compiles faster.
SHORT = {
    "01_sde_and_score": {
        "num_points": 501,
        "num_steps": 100,
        "num_grid": 21,
        "num_histogram": 100_000,
        "num_cells": 200,
        "training_steps": 150,
        "batch_size": 125,
    },
    "02_ddpm_and_ncsn": {
        "num_points": 500,
        "step_counts": [100, 200, 400],
        "levels": 50,
        "training_steps": 300,
        "batch_size": 125,
    },
    "03_likelihood": {
        "solved": ["VP"],
        "num_grid": 11,
        "num_points": 121,  # one shape, and one tolerance, with the grid
        "tolerances": [1e-3, 1e-6],
        "probe_counts": [4],
        "num_times": 40,
        "num_levels": 5,
        "num_repeats": 200,
        "network": "MLPConfig",  # compiles in a fraction of a U-Net's time
        "sizes": [{"width": 32, "depth": 1}] * 2,
        "training_steps": 40,
        "batch_size": 25,
        "num_losses": 500,
        "num_heldout": 16,
        "dequantizations": 2,
        "num_weighted": 16,
        "draw_counts": [1, 2],
        "num_pairs": 2,
    },
    "04_conditions": {
        "num_points": 1000,
        "num_line": 2000,
        "num_cells": 21,
        "num_digits": 60,
        "weights": [1.0, 4.0],
        "num_informed": 3,
        "num_simulations": 1000,
        "training_steps": 60,
        "batch_size": 65,
        "num_draws": 100,
    },
    "05_variational": {
        "num_pixels": 500,
        "num_draws": 40,
        "lows": [-7.0, -2.0],
        "step_counts": [10, 40],
        "num_points": 200,
        "plane_steps": 400,
        "plane_batch": 127,
        "network": "MLPConfig",
        "size": {"width": 64, "depth": 1},
        "training_steps": 60,
        "batch_size": 25,
        "log_every": 20,
        "num_heldout": 40,
        "num_times": 20,
        "num_levels": 21,
    },
    "06_inverse": {
        "num_points": 500,
        "num_steps": 50,
        "num_particles": 16,
        "num_samples": 4,
        "digit_steps": 20,
        "shown": [0, 7],
        "noise_levels": [0.03, 0.6],
        "num_levels_of": 2,
    },
}


class ThisInterpreter(KernelSpecManager):
    """Kernels run the Python that runs the tests, whatever kernels are installed."""

    def get_kernel_spec(self, kernel_name):
        return KernelSpec(
            argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
            env={
                "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"
            },  # short runs: compiling takes most of the time
            display_name="Python 3",
            language="python",
        )


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request):
    return request.param


def test_it_runs_with_short_settings(path, tmp_path):
    notebook, code = read(path)
    (parameters,) = (cell for cell in code if "parameters" in cell.metadata.get("tags", []))
    assigned = {
        node.id for node in ast.walk(ast.parse(parameters.source)) if isinstance(node, ast.Name)
    }
    assert SHORT[path.stem].keys() <= assigned
    short = "\n".join(f"{name} = {value!r}" for name, value in SHORT[path.stem].items())
    notebook.cells.insert(notebook.cells.index(parameters) + 1, nbformat.v4.new_code_cell(short))

    kernel = AsyncKernelManager(kernel_spec_manager=ThisInterpreter())
    client = NotebookClient(
        notebook, km=kernel, timeout=300, resources={"metadata": {"path": str(tmp_path)}}
    )
    try:
        client.execute()
    finally:
        asyncio.run(kernel.shutdown_kernel(now=True))  # the client leaves a given kernel running
    assert not complaints(notebook.cells)
    assert not list(tmp_path.iterdir())  # a notebook leaves no files behind


def test_what_is_stored_is_whole_and_small(path):
    _, code = read(path)
    assert [cell.execution_count for cell in code] == list(
        range(1, len(code) + 1)
    )  # once, from top to bottom
    assert not complaints(code)
    # A call at the left margin that prints or shows; definitions alone have no output.
    silent = [
        cell.id
        for cell in code
        if re.search(r"^(print|show)\w*\(", cell.source, re.M) and not cell.outputs
    ]
    assert not silent, f"cells without their output: {silent}; run the whole notebook and save it"
    assert path.stat().st_size < 600_000
    for text in texts(code):
        assert not re.search(
            r"(?<![\w./:])/(home|Users|root|tmp|work|usr|opt|var|mnt|private)/|\b[A-Z]:\\", text
        )


def read(path):
    """The notebook, valid, and its code cells."""
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    return notebook, [cell for cell in notebook.cells if cell.cell_type == "code"]


def complaints(cells):
    """Errors and warnings among the outputs."""
    outputs = [output for cell in cells if cell.cell_type == "code" for output in cell.outputs]
    return [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]


def texts(cells):
    """Sources, and what the outputs say in words."""
    for cell in cells:
        yield cell.source
        for output in cell.outputs:
            yield output.get("text", "")
            yield from (
                value for kind, value in output.get("data", {}).items() if kind.startswith("text/")
            )
