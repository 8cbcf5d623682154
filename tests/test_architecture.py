"""The rules of docs/architecture.md: imports point one way, and the way to the network is short."""

import ast
import re
import traceback
from pathlib import Path

import jax
import pytest
from flax import nnx

import scoresde as sd

PACKAGE = Path(sd.__file__).parent

# Each folder may import those before it in its own line, and nothing else of the package.
ALLOWED = {
    "sde": {"ground"},
    "nets": {"ground"},
    "data": {"ground"},
    "evaluation": {"ground"},
    "score": {"ground", "sde"},
    "loss": {"ground", "sde", "data"},
    "discrete": {"ground", "sde", "score", "data"},
    "parallel": {"ground", "sde"},
    "runs": {"ground", "parallel"},
    "sampling": {"ground", "sde", "parallel"},
    "guidance": {"ground", "sde", "parallel"},
    "inverse": {"ground", "sde", "parallel", "sampling"},
    "likelihood": {"ground", "sde", "parallel", "sampling", "data", "loss"},
}


def imported(path):
    """The folders of the package that a module imports from."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "scoresde":
            parts = node.module.split(".")
            names = [parts[1]] if len(parts) > 1 else [alias.name for alias in node.names]
            found |= {name if (PACKAGE / name).is_dir() else "ground" for name in names}
    return found


@pytest.mark.parametrize("folder", ALLOWED)
def test_imports_point_one_way(folder):
    for path in (PACKAGE / folder).rglob("*.py"):
        beyond = imported(path) - ALLOWED[folder] - {folder}
        assert not beyond, f"{path.relative_to(PACKAGE)} imports {beyond}"


def test_the_ground_stands_alone():
    for name in (
        "types",
        "keys",
        "checks",
        "precision",
        "standardization",
        "layout",
        "reading",
        "writing",
        "checked_lines",
    ):
        assert imported(PACKAGE / f"{name}.py") <= {"ground"}


# Modules that read only what they or the package wrote: texts of their own process, its weights,
# and rows of a run that are looked at line by line. The others call scoresde/reading.py.
READ_THEMSELVES = {
    "reading.py": {"loads"},
    "checked_lines.py": {"loads"},
    "data/picture_file.py": {"Image.open"},
    "runs/path_gif.py": {"Image.open"},
    "weights/pretrained.py": {"np.load", "loads", "read_text"},
    "parallel/processes.py": {"loads"},
    "runs/checkpoint.py": {"loads"},
}


def reads(path):
    """The calls in a module that read a file, or JSON, whoever wrote it."""
    found = set()
    text = path.read_text()
    if not re.search(r"read_text|read_bytes|loads|fromfile|load\(|open\(", text):
        return found
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Call):
            continue
        last = getattr(node.func, "attr", getattr(node.func, "id", ""))
        if last not in ("read_text", "read_bytes", "loads", "fromfile", "load", "open"):
            continue
        called = ast.unparse(node.func)
        mode = ast.unparse(node.args[0]) if node.args else ""
        if last in ("read_text", "read_bytes", "loads", "fromfile"):
            found.add(last)
        elif called in ("np.load", "json.load", "Image.open", "open"):
            found.add(called)
        elif last == "open" and mode.startswith("'r"):
            found.add("open")
    return found


def test_files_are_read_in_one_place():
    for path in PACKAGE.rglob("*.py"):
        name = path.relative_to(PACKAGE).as_posix()
        beyond = reads(path) - READ_THEMSELVES.get(name, set())
        assert not beyond, f"{name} calls {beyond}: call scoresde/reading.py"


def test_the_way_from_sample_to_the_network_is_short(monkeypatch):
    """At most 8 calls in the library's own files, and at most 3 from a sampler's step."""
    net = sd.UNetConfig(channels=8, num_blocks=1).build((8, 8, 1), rngs=nnx.Rngs(0))
    stacks = []
    forward = type(net).__call__

    def recorded(self, *args, **kwargs):
        frames = traceback.extract_stack()
        stacks.append([f.name for f in frames if str(PACKAGE) in f.filename])
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(type(net), "__call__", recorded)
    model = sd.ScoreModel(sd.VP(), net)
    sd.sample(jax.random.key(0), sd.EulerMaruyama(2), sd.VP(), model, (2, 8, 8, 1))

    way = [*stacks[0], "the network"]
    assert way[0] == "sample"
    assert len(way) <= 8, way
    assert len(way) - way.index("linear_step") <= 3, way


def test_names_of_the_contract_are_flat():
    flat = (
        "VP SubVP VE GaussianMixture ScoreModel Noise Score Data Velocity EDM denoise dsm_loss fit "
        "load sample EulerMaruyama PredictorCorrector Ancestral AnnealedLangevin DDIM DPMSolverPP "
        "UniPC Exponential Heun Restart ProbabilityFlow AdaptiveSDE log_likelihood Hutchinson "
        "ExactDivergence bits_per_dim DDPM NCSN Training UNetConfig MLPConfig NCSNppConfig "
        "DiTConfig use_cpu_cores encode decode interpolate variational_bound gaps BatchMeanStep "
        "join_processes"
    )
    for name in flat.split():
        assert callable(getattr(sd, name))
    assert sd.data.images.from_folder and sd.evaluation.GaussianFit.fit
    assert sd.runs.Checkpoints and issubclass(sd.runs.CheckpointError, Exception)


def test_models_and_samples_print_shortly():
    net = sd.UNetConfig(channels=8, num_blocks=1).build((8, 8, 1), rngs=nnx.Rngs(0))
    model = sd.ScoreModel(sd.VP(), net)
    assert len(str(model).splitlines()) <= 10
    out = sd.sample(jax.random.key(0), sd.EulerMaruyama(2), sd.VP(), lambda x, t: -x, (3, 2))
    assert str(out) == "Sample(x=float32[3, 2], 3 evaluations each, none failed)"
