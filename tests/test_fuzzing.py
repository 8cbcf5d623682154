"""What reads files from outside, on damaged and forged ones: it succeeds, or refuses them in one
paragraph.

    pytest tests/test_fuzzing.py --hypothesis-profile=fuzz    minutes, at random

Without the profile it takes a few examples of each kind, the same ones each time. Every document
begins as one that the library wrote, and is then changed: bits flip, the end is cut off, values
become others, of other types too, and entries vanish.
"""

import copy
import gzip
import io
import json
import types
import warnings

import numpy as np
import pytest
import yaml
from flax import nnx, serialization
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from image_files import PIXELS, write_idx
from PIL import Image
from tiny_run import LEVELS, Experiment, untrained

import scoresde as sd
from scoresde.cli.exit import USER_ERRORS
from scoresde.cli.folder import InfoCommand
from scoresde.cli.given_picture import read_image
from scoresde.cli.main import _parse
from scoresde.data import images
from scoresde.data.cache import decode_once
from scoresde.data.idx import read_idx
from scoresde.originals.misfits import misfits
from scoresde.originals.names import linen_names
from scoresde.originals.train_state import adam_moments, read_state
from scoresde.reading import read_npy
from scoresde.runs.files import read_rows
from scoresde.runs.likelihoods import read_likelihoods
from scoresde.runs.manifest import read_manifest, write_manifest
from scoresde.runs.report import write_report
from scoresde.runs.settings import from_dict, to_dict
from scoresde.runs.training_curve import curves
from scoresde.runs.yaml_files import load_yaml
from scoresde.train.load import Trained, open_run

pytestmark = pytest.mark.usefixtures("unchecked")

HEALTH = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
LONG = settings.get_current_profile_name() == "fuzz"


def examples(few, many):
    """The settings of a test: a few examples that are always the same, or many at random."""
    if LONG:
        return settings(max_examples=many, deadline=20_000, suppress_health_check=HEALTH)
    return settings(
        max_examples=few,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=HEALTH,
    )


def ends_well(action):
    """Whether an action succeeds, rather than refusing in one paragraph; all else is a failure."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            action()
        except USER_ERRORS as error:
            assert str(error).strip()
            assert "\n\n" not in str(error)
            assert "Traceback" not in str(error)
            return False
    return True


# --- Changes ---

NESTED = json.loads("[" * 60 + "]" * 60)
NUMBERS = [0, 1, -1, 7, 2**31, 10**18, 10**30, -(10**400), 0.5, -1.0, 1e308, -0.0, 5e-324]
TEXTS = [
    "",
    "x",
    "float32[2,2]",
    "float32[]",
    "arrays-1",
    "\0",
    "../../x",
    "/dev/zero",
    "VE",
    "1e3",
]
LISTS = [[], [[]], [0], [1, "x"], NESTED, [10**9, 10**9], ["a"] * 50]
GROUPS = [{}, {"kind": "VE"}, {"kind": []}, {"x": {}}, {"mean": [1], "std": "x"}]
OTHERS = [None, True, False, float("nan"), float("inf"), "é\ud800"]
VALUES = st.sampled_from([*NUMBERS, *TEXTS, *LISTS, *GROUPS, *OTHERS])


@st.composite
def changed(draw, document):
    """A document of dicts and lists with one to three changes."""
    holder = [copy.deepcopy(document)]
    for _ in range(draw(st.integers(1, 3))):
        _change(draw, holder)
    return holder[0] if holder else None


def _change(draw, node):
    """Changes one entry, at any depth, of a dict or list."""
    keys = list(node) if isinstance(node, dict) else list(range(len(node)))
    if not keys:
        return
    key = draw(st.sampled_from(keys))
    value = node[key]
    if isinstance(value, dict | list) and value and draw(st.integers(0, 4)):
        _change(draw, value)
        return

    kind = draw(st.sampled_from(["replace"] * 5 + ["remove", "wrap", "double", "rename"]))
    if kind == "remove":
        del node[key]
    elif kind == "wrap":
        node[key] = [value]
    elif kind == "double" and isinstance(value, list | str):
        node[key] = value + value
    elif kind == "rename" and isinstance(node, dict):
        node[draw(st.sampled_from(["x", "", "kind", "step", "../x"]))] = node.pop(key)
    else:
        node[key] = copy.deepcopy(draw(VALUES))


@st.composite
def damaged(draw, content):
    """Bytes with one to three changes."""
    content = bytearray(content)
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, max(0, len(content) - 1)))
        kind = draw(st.sampled_from(["flip", "flip", "byte", "cut", "insert", "drop", "digits"]))
        if kind == "flip" and content:
            content[place] ^= 1 << draw(st.integers(0, 7))
        elif kind == "byte" and content:
            content[place] = draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xDC, 0xFF]))
        elif kind == "cut":
            del content[place:]
        elif kind == "insert":
            content[place:place] = draw(st.binary(max_size=20))
        elif kind == "drop":
            del content[place : place + draw(st.integers(1, 20))]
        elif kind == "digits":
            content[place:place] = draw(st.sampled_from([b"9" * 30, b"[" * 5000, b'{"a":', b"-"]))
    return bytes(content)


@st.composite
def changed_json(draw, document):
    """The bytes of a document of JSON, changed as a document or as bytes."""
    if draw(st.integers(0, 3)):
        return json.dumps(draw(changed(document))).encode()
    return draw(damaged(json.dumps(document).encode()))


# --- Settings and a run's folder ---

SETTINGS = to_dict(Experiment(sd.PredictorCorrector(num_steps=7, grid=sd.grids.Karras())))


@examples(25, 3000)
@given(st.one_of(damaged(yaml.safe_dump(SETTINGS).encode()), changed_json(SETTINGS)))
def test_settings(tmp_path, content):
    file = tmp_path / "config.yaml"
    file.write_bytes(content)
    ends_well(lambda: from_dict(load_yaml(file), Experiment))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run's folder with a checkpoint and its held-out examples."""
    net = sd.MLPConfig(width=8, depth=1)
    model = sd.train.model_settings.ModelSettings(sd.VP(), net, sd.EDM(0.5))
    more = {
        "range": [0.0, 16.0],
        "null_is_trained": True,
        "standardization": {"mean": [1.0, 2.0], "std": [1.0, 0.5]},
        "cond_units": [None, {"mean": [0.0], "std": [1.0]}],
        "training": to_dict(sd.Training()),
        "changes": [{"step": 1, "old": {"learning_rate": 0.1}, "new": {"learning_rate": 0.2}}],
    }
    path = untrained(tmp_path_factory.mktemp("runs") / "run", model, (2,), LEVELS, **more)
    np.savez_compressed(path / "held_out.npz", x=np.ones((3, 2), np.int32), cond=np.zeros(3, int))
    return path


def opened(run):
    """What the commands read of a run."""
    trained = open_run(run)
    assert trained.range is not None
    trained.held_out()


def test_what_is_not_changed_is_read(run):
    assert ends_well(lambda: opened(run))
    assert ends_well(lambda: write_report(run))
    assert ends_well(InfoCommand(str(run)))
    assert InfoCommand(str(run))()["checkpoints"] == {1: "good"}
    assert Trained.held_out(types.SimpleNamespace(path=run))[0].shape == (3, 2)


@examples(20, 1200)
@given(st.data())
def test_manifests(run, data):
    file = run / "checkpoints" / "1" / "manifest.json"
    written = file.read_bytes()
    content = read_manifest(file)
    try:
        if data.draw(st.integers(0, 4)):
            part = data.draw(st.sampled_from(["about", "about", "all"]))
            if part == "all":
                content = data.draw(changed(content))
            else:
                content[part] = data.draw(changed(content[part]))
            if not isinstance(content, dict):  # which no writer would take
                content = {"about": content}
            write_manifest(file, content)
        else:
            file.write_bytes(data.draw(changed_json(json.loads(written))))
        ends_well(lambda: opened(run))
        assert ends_well(lambda: write_report(run))  # it leaves out what is damaged
        assert ends_well(InfoCommand(str(run)))
    finally:
        file.write_bytes(written)


ROWS = [{"step": s, "loss": 1.0 / (s + 1), "grad_norm": None, "valid_loss": 2.0} for s in range(4)]


@examples(25, 4000)
@given(st.lists(changed_json(ROWS[1]), max_size=4), damaged(json.dumps(ROWS[2]).encode()))
def test_metrics(tmp_path, lines, last):
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(b"\n".join([json.dumps(ROWS[0]).encode(), *lines, last]))

    def read():
        rows, notes = read_rows(file)
        assert rows[0]["step"] is not None
        curves(rows)
        assert all(len(note) < 200 for note in notes)

    assert ends_well(read)


RESULTS = {
    "status": "running",
    "step": 12500,
    "total_steps": 50000,
    "headline": [["bits/dim", "2.41 ± 0.01", "held-out digits"], ["distance", 3.14159265]],
    "tables": [{"title": "Samplers", "columns": ["sampler", "nfe"], "rows": [["Heun", 35]]}],
    "timings": {"sampling": 0.25, "training": 3661.75, "compilation": 1220.0},
    "versions": {"jax": "0.8.1"},
    "command": "python experiments/digits_vp.py",
    "device": "NVIDIA H100",
}


@examples(25, 1500)
@given(changed_json(RESULTS))
def test_results(tmp_path, content):
    (tmp_path / "results.json").write_bytes(content)
    assert ends_well(lambda: write_report(tmp_path))
    assert ends_well(InfoCommand(str(tmp_path)))


EXACT = {
    **{"step": 40, "ema": True, "examples": 5, "data": "held_out.npz", "failed": 0, "repeats": 1},
    **{"bits_per_dim": 2.5, "bits_per_dim_stderr": 0.01, "nats": -3.0, "nats_stderr": 0.2},
    "dequantization": {"kind": "UniformDequantization", "levels": 17},
    "divergence": {"kind": "Hutchinson", "num_probes": 1},
    **{"tolerance": 1e-5, "t_min": 1e-5},
}
TERMS = ("bound", "prior", "diffusion", "reconstruction")
BOUND = {
    **{"bound": True, "step": 40, "ema": True, "examples": 5, "data": "x.npy", "failed": 0},
    **{"steps": None, "times": 4, "prepare": {"kind": "BinCentres"}},
    **{f"{term}_bits_per_dim": 2.0 for term in TERMS},
    **{f"{term}_bits_per_dim_stderr": 0.1 for term in TERMS},
    **{"exact_bits_per_dim": 2.0, "exact_bits_per_dim_stderr": 0.1, "exact_dequantization": "x"},
    **{"bound_above_exact": 0.1, "bound_above_exact_stderr": 0.01},
}


@examples(25, 4000)
@given(st.sampled_from([EXACT, BOUND]).flatmap(changed_json))
def test_likelihoods(tmp_path, content):
    folder = tmp_path / "likelihood"
    folder.mkdir(exist_ok=True)
    (folder / "0.json").write_text(json.dumps(EXACT))
    (folder / "1.json").write_bytes(content)
    found = []
    assert ends_well(lambda: found.append(read_likelihoods(folder)))
    rows, notes = found[0]
    assert len(rows) + len(notes) == 2


# --- Pictures and arrays ---


def picture(name):
    buffer = io.BytesIO()
    Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).save(buffer, name)
    return buffer.getvalue()


PICTURES = [picture(name) for name in ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")]
PICTURES += [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\nquit\n"]


@examples(25, 3000)
@given(st.sampled_from(PICTURES).flatmap(damaged))
def test_pictures(tmp_path, content):
    folder = tmp_path / "pictures"
    folder.mkdir(exist_ok=True)
    (folder / "a.png").write_bytes(content)
    ends_well(lambda: images.from_folder(folder, size=4, cache=tmp_path / "cache"))
    ends_well(lambda: read_image(str(folder / "a.png"), (8, 8, 3), (-1.0, 1.0)))


def saved(save, *arrays, **named):
    buffer = io.BytesIO()
    save(buffer, *arrays, **named)
    return buffer.getvalue()


ARRAYS = [
    saved(np.save, np.arange(6.0).reshape(3, 2)),
    saved(np.save, np.zeros((2, 2), [("a", "<i4"), ("b", "<f8", (2,))])),
]
ARCHIVES = [
    saved(save, x=np.arange(6.0).reshape(3, 2), cond=np.arange(3))
    for save in (np.savez, np.savez_compressed)
]


@examples(25, 4000)
@given(st.sampled_from(ARRAYS).flatmap(damaged), st.sampled_from(ARCHIVES).flatmap(damaged))
def test_arrays(tmp_path, array, archive):
    (tmp_path / "x.npy").write_bytes(array)
    (tmp_path / "held_out.npz").write_bytes(archive)
    ends_well(lambda: read_npy(tmp_path / "x.npy"))
    ends_well(lambda: Trained.held_out(types.SimpleNamespace(path=tmp_path)))


@examples(25, 3000)
@given(st.data())
def test_idx_files(tmp_path, data):
    folder = tmp_path / "idx"
    if not folder.exists():
        write_idx(folder)
    for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte.gz"):
        content = data.draw(damaged((folder / name).read_bytes()))
        file = tmp_path / name
        file.write_bytes(content)
        ends_well(lambda file=file: read_idx(file))
    file.write_bytes(
        gzip.compress(data.draw(damaged(gzip.decompress((folder / name).read_bytes()))))
    )
    ends_well(lambda: read_idx(file))


@examples(10, 1000)
@given(st.data())
def test_decoded_images(tmp_path, data):
    """Whatever became of the cache, the images are those that were decoded."""

    def decoded():
        return decode_once("x", 24, lambda rows: [(PIXELS[i], int(i)) for i in rows], tmp_path)

    assert ends_well(decoded)
    (place,) = [path for path in tmp_path.iterdir() if path.is_dir()]
    file = place / data.draw(st.sampled_from(["about.json", "pixels.npy", "labels.npy"]))
    file.write_bytes(data.draw(damaged(file.read_bytes())))
    found = []
    assert ends_well(lambda: found.append(decoded()))
    np.testing.assert_array_equal(found[0].pixels, PIXELS)


# --- Checkpoints of the originals ---

NET = sd.NCSNppConfig.ncsnpp(channels=8, multipliers=(1, 2), num_blocks=1, attention=(4,))


@pytest.fixture(scope="module")
def original():
    """A small network of the original's, and a train state of it."""
    net = nnx.eval_shape(lambda: NET.build((8, 8, 3), rngs=nnx.Rngs(0)))
    tree, moments = {}, {}
    for name, _, shape in linen_names(net):
        *folders, last = name.split("/")
        for root, leaf in (
            (tree, np.zeros(shape, np.float32)),
            (moments, {"grad_ema": np.zeros(shape), "grad_sq_ema": np.zeros(shape)}),
        ):
            for folder in folders:
                root = root.setdefault(folder, {})
            root[last] = leaf
    state = {
        "step": np.asarray(7, np.int32),
        "optimizer": {"target": tree, "state": {"step": 7, "param_states": moments}},
        **{"lr": 2e-4, "model_state": {}, "ema_rate": 0.999, "params_ema": tree},
        "rng": np.asarray([0, 42], np.uint32),
    }
    return net, state


def imported(file, net):
    """What an import reads of a file."""
    state = read_state(file)
    if not misfits(state, net):
        assert int(np.asarray(state["step"])) >= 0
        float(np.asarray(state["lr"]))
        adam_moments(state)


@examples(20, 1000)
@given(st.data())
def test_checkpoints_of_the_originals(tmp_path, original, data):
    net, state = original
    file = tmp_path / "checkpoint_1"
    if data.draw(st.booleans()):
        state = data.draw(changed(state))
        try:
            content = serialization.msgpack_serialize(state)
        except Exception:  # Flax does not write numbers so large
            return
    else:
        content = data.draw(damaged(serialization.msgpack_serialize(state)))
    file.write_bytes(content)
    ends_well(lambda: imported(file, net))


# --- Command lines ---

WORDS = {
    "sample": "RUN --num 6 --seed 3 sampler:ddim --sampler.num-steps 7 sampler.grid:karras --json",
    "likelihood": "RUN --data x.npy --tolerance 1e-5 --probes 2 --repeats 3 --batch-size 8",
    "inpaint": "RUN --image in.png --mask mask.png --method dps --noise-std 0.1",
    "info": "RUN",
}
ODD = ["", "-", "--", "--num", "sampler:", ":", "sampler:x", "--sampler.grid", "nan", "inf", "é\0"]
ODD += ["9" * 30, str(10**18), "-1", "1e400", "--x=" + "9" * 5000, "--num=0", "sampler.grid:ddim"]


@examples(12, 800)
@given(st.data())
def test_command_lines(run, capsys, data):
    name = data.draw(st.sampled_from(list(WORDS)))
    words = [str(run) if word == "RUN" else word for word in WORDS[name].split()]
    for _ in range(data.draw(st.integers(1, 2))):
        place = data.draw(st.integers(0, len(words) - 1))
        words[place : place + data.draw(st.integers(0, 1))] = [data.draw(st.sampled_from(ODD))]

    def parsed():
        try:
            _parse(name, words)
        except SystemExit as end:
            assert end.code == 2

    ends_well(parsed)


def test_numbers_on_the_command_line_are_bounded(run, capsys):
    for options in ("--num 1000000000000000000", "sampler:ddim --sampler.num-steps 10000000"):
        with pytest.raises(SystemExit) as end:
            _parse("sample", [str(run), *options.split()])
        assert end.value.code == 2
        assert "wanted a whole number" in capsys.readouterr().err
