"""Checkpoints come back bit for bit, or are named and skipped: every kind of damage is tried."""

import dataclasses
import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import scoresde.runs.checkpoint as checkpoint
import scoresde.runs.fingerprints as fingerprints
import scoresde.runs.stored_steps as stored_steps
from scoresde.runs.checkpoint import CheckpointError, Checkpoints
from scoresde.runs.lock import LOCK, SILENCE, Holder

ABOUT = {
    "net": {"width": 32, "rates": [1e-3, 0.1]},
    "shape": [8, 8, 1],
    "versions": {"jax": "x"},
    "ema": None,
}


def make_state(seed, width=4):
    """A training state with all that is hard to store.

    It holds bfloat16, NaN, -0, typed keys and optax's named tuples.
    """
    key = jax.random.key(seed)
    params = {
        "conv": {
            "kernel": jax.random.normal(key, (3, 3, 1, width)),
            "bias": jnp.array([jnp.nan, -0.0, jnp.inf, 1e-42]),
        },
        "half": [jax.random.normal(key, (5,), jnp.bfloat16), (jnp.arange(3, dtype=jnp.uint8),)],
    }

    tx = optax.apply_if_finite(optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3)), 3)
    opt_state = tx.init(params)
    opt_state = jax.tree.map(
        lambda leaf: leaf + jnp.ones_like(leaf) if leaf.dtype != bool else ~leaf, opt_state
    )
    return {
        "step": jnp.int32(seed),
        "params": params,
        "ema": jax.tree.map(lambda leaf: leaf * 2, params),
        "opt_state": opt_state,
        "key": key,
        "keys": jax.random.split(jax.random.key(seed, impl="rbg"), 3),
    }


def bits(tree):
    """The tree's type, and each leaf as (dtype, shape, bytes)."""

    def leaf_bits(leaf):
        data = (
            jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
        )
        return str(leaf.dtype), leaf.shape, np.asarray(data).tobytes()

    return jax.tree.structure(tree), [leaf_bits(leaf) for leaf in jax.tree.leaves(tree)]


def abstract(tree):
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)


def write(directory, *steps, keep=10):
    with Checkpoints(directory, keep=keep) as checkpoints:
        for step in steps:
            checkpoints.save(step, make_state(step), {**ABOUT, "step": step})


def restore_naming(directory, *fragments):
    """Restores, and checks that one warning names the step passed over, with each fragment."""
    with pytest.warns(UserWarning) as caught:
        restored = Checkpoints(directory).restore(make_state(0))

    messages = [str(warning.message) for warning in caught]
    messages = [message for message in messages if "passed over" in message]
    assert len(messages) == 1, messages
    for fragment in fragments:
        assert fragment in messages[0]
    return restored


def files_of(directory, step):
    return sorted(file for file in (directory / str(step)).rglob("*") if file.is_file())


def flip(file, bit):
    data = bytearray(file.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    file.write_bytes(data)


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory):
    directory = tmp_path_factory.mktemp("two_steps")
    write(directory, 1, 2)
    return directory


# --- What went in comes out ---


@pytest.mark.parametrize("like", [lambda state: state, abstract], ids=["arrays", "shapes"])
def test_round_trip_to_the_bit(two_steps, like):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        restored = Checkpoints(two_steps).restore(like(make_state(0)))

    assert restored.step == 2
    assert restored.about == {**ABOUT, "step": 2}
    assert bits(restored.state) == bits(make_state(2))

    restored = Checkpoints(two_steps).restore(like(make_state(0)), step=1)
    assert bits(restored.state) == bits(make_state(1))


def test_donating_the_state_right_after_save_is_safe(tmp_path):
    advance = jax.jit(lambda x: x + 1, donate_argnums=0)
    x = jnp.zeros((512, 1024))
    with Checkpoints(tmp_path, keep=4) as checkpoints:
        for step in range(4):
            checkpoints.save(step, {"x": x}, {})
            x = advance(x)

        like = {"x": x}
        advance(x)  # what describes the wanted arrays may be donated too
        for step in range(4):
            assert np.unique(checkpoints.restore(like, step).state["x"]) == step


def test_scalars_of_python_and_numpy(tmp_path):
    state = {"f": 0.1, "i": 2**40, "n": np.float32(0.1), "a": np.arange(3), "s": "text"}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(0, state, {})
        back = checkpoints.restore(state).state

    assert (back["f"], back["i"], back["s"]) == (0.1, 2**40, "text")
    assert back["n"] == state["n"] and back["n"].dtype == np.float32
    assert back["a"].tolist() == [0, 1, 2]


def test_subtree_and_about_alone(two_steps):
    checkpoints = Checkpoints(two_steps)
    restored = checkpoints.restore_subtree(
        {"ema": abstract(make_state(0)["ema"]), "key": make_state(0)["key"]}, step=1
    )
    assert bits(restored.state) == bits({name: make_state(1)[name] for name in ("ema", "key")})
    assert checkpoints.restore_subtree({}).about == {**ABOUT, "step": 2}

    with pytest.raises(
        CheckpointError, match=r"emma/conv/bias: checkpoint \(missing\), wanted float32\[4\]"
    ):
        checkpoints.restore_subtree({"emma": make_state(0)["ema"]})
    with pytest.raises(
        CheckpointError, match=r"ema/half/0: checkpoint bfloat16\[5\], wanted \(none: unexpected\)"
    ):
        checkpoints.restore_subtree({"ema": {"conv": make_state(0)["ema"]["conv"]}})


def test_what_was_verified_is_not_read_again_before_it_changes(two_steps, tmp_path, monkeypatch):
    """`about` is read first, then the state; another object, as another process, reads it all."""
    directory = shutil.copytree(two_steps, tmp_path / "copy")
    read = []
    fingerprint = fingerprints.fingerprint
    monkeypatch.setattr(
        fingerprints, "fingerprint", lambda file: read.append(file) or fingerprint(file)
    )
    checkpoints = Checkpoints(directory)
    checkpoints.restore_subtree({})
    files = len(files_of(directory, 2)) - 1  # without the manifest
    assert len(read) == files
    assert bits(checkpoints.restore(make_state(0), 2).state) == bits(make_state(2))
    assert len(read) == files
    Checkpoints(directory).restore(make_state(0), 2)
    assert len(read) == 2 * files

    # Another content of the same size, whose time of change was set back.
    file = max(files_of(directory, 2), key=lambda file: file.stat().st_size)
    before = file.stat()
    flip(file, 77)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(CheckpointError, match="has changed"):
        checkpoints.restore(make_state(0), 2)


def test_relative_directory_and_home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("runs/a", 3)
    assert Checkpoints("runs/a").steps() == Checkpoints(tmp_path / "runs" / "a").steps() == [3]
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Checkpoints("~/runs/a").steps() == [3]


# --- Other leaves than wanted ---


def test_every_leaf_that_differs_is_named_before_loading(two_steps):
    like = make_state(0, width=8)
    # Orbax would cast this silently.
    like["params"]["half"][0] = like["params"]["half"][0].astype(jnp.float32)
    like["extra"] = like.pop("step")
    like["key"] = jax.random.key_data(like["key"])

    with pytest.raises(CheckpointError) as error:
        Checkpoints(two_steps).restore(like)

    text = str(error.value)
    assert "extra: checkpoint (missing), wanted int32[]" in text
    assert "key: checkpoint key<fry>[], wanted uint32[2]" in text
    assert "ema/conv/kernel: checkpoint float32[3,3,1,4], wanted float32[3,3,1,8]" in text
    # Eight leaves differ (also mu, nu, params' kernel and half, and step), and five are named.
    assert "… and 3 more" in text
    assert "about" in text


def test_same_leaves_in_another_tree_is_an_error(two_steps):
    like = make_state(0)
    like["opt_state"] = like["opt_state"]._replace(
        inner_state=(*like["opt_state"].inner_state, optax.EmptyState())
    )
    with pytest.raises(CheckpointError, match=r"step 2 .*does not load: .*structures do not match"):
        Checkpoints(two_steps).restore(like)


# --- Damage ---


def test_one_flipped_bit_in_any_file_is_found(tmp_path):
    write(tmp_path, 1, 2)
    rng = np.random.default_rng(0)
    files = [file for file in files_of(tmp_path, 2) if file.stat().st_size]
    assert len(files) > 8
    assert any(file.parent.name == "d" for file in files)  # Orbax's array data is among them

    for file in files:
        bit = int(rng.integers(file.stat().st_size * 8))
        flip(file, bit)
        restored = restore_naming(tmp_path, "step 2", str(file))
        assert restored.step == 1
        assert bits(restored.state) == bits(make_state(1))
        with pytest.raises(CheckpointError, match="step 2 cannot be used"):
            Checkpoints(tmp_path).restore_subtree({}, step=2)
        flip(file, bit)
    assert Checkpoints(tmp_path).restore(make_state(0)).step == 2


def remove_largest(folder):
    files = [file for file in folder.rglob("*") if file.is_file()]
    largest = max(files, key=lambda file: file.stat().st_size)
    largest.unlink()


def truncate_data(folder):
    file = next(file for file in sorted(folder.rglob("d/*")))
    os.truncate(file, file.stat().st_size - 1)


def empty_folder(folder):
    subprocess.run(["rm", "-r", folder], check=True)
    folder.mkdir()


def unreadable(folder):
    file = folder / "manifest.json"
    file.unlink()
    file.mkdir()


DAMAGE = {
    "file removed": remove_largest,
    "file truncated": truncate_data,
    "no manifest": lambda folder: (folder / "manifest.json").unlink(),
    "empty manifest": lambda folder: (folder / "manifest.json").write_bytes(b""),
    "manifest of another kind": lambda folder: (folder / "manifest.json").write_text("[1]"),
    "manifest unreadable": unreadable,
    "empty folder": empty_folder,
    "renamed": lambda folder: folder.rename(folder.with_name("9")),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damage_is_named_then_replaced(tmp_path, damage):
    write(tmp_path, 1, 2)
    damage(tmp_path / "2")
    step = 9 if (tmp_path / "9").exists() else 2

    restored = restore_naming(tmp_path, f"step {step}", str(tmp_path / str(step)))
    assert restored.step == 1
    assert bits(restored.state) == bits(make_state(1))
    with pytest.raises(CheckpointError, match=f"step {step} cannot be used"):
        Checkpoints(tmp_path).restore(make_state(0), step=step)

    write(tmp_path, step)
    assert bits(Checkpoints(tmp_path).restore(make_state(0)).state) == bits(make_state(step))


def test_no_sound_checkpoint(tmp_path):
    with pytest.raises(
        CheckpointError, match=r"no usable checkpoint in .*nowhere: it holds no step folder"
    ):
        Checkpoints(tmp_path / "nowhere").restore({})
    assert not (tmp_path / "nowhere").exists()  # reading creates nothing

    write(tmp_path, 1, 2)
    for step in (1, 2):
        remove_largest(tmp_path / str(step))
    with (
        pytest.warns(UserWarning),
        pytest.raises(CheckpointError, match=r"(?s)step 2 cannot.*step 1 cannot"),
    ):
        Checkpoints(tmp_path).restore(make_state(0))
    with pytest.raises(CheckpointError, match=r"step 5 cannot be used.*Committed steps: \[1, 2\]"):
        Checkpoints(tmp_path).restore(make_state(0), step=5)


def test_foreign_entries_are_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "007").mkdir()
    write(tmp_path, 1, 2, keep=1)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["007", "2", "notes.txt"]


# --- What is kept ---


def test_keeps_the_newest_sound_ones(tmp_path):
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, make_state(step), ABOUT)
        checkpoints.wait()
        assert checkpoints.steps() == [2, 3]

        truncate_data(tmp_path / "3")
        checkpoints.save(4, make_state(4), ABOUT)
        checkpoints.wait()
        assert checkpoints.steps() == [2, 3, 4]  # two sound ones; the damaged one does not count

        checkpoints.save(5, make_state(5), ABOUT)
        checkpoints.wait()
        assert checkpoints.steps() == [4, 5]

        # An earlier step than those kept: what was just saved stays.
        checkpoints.save(1, make_state(1), ABOUT)
        checkpoints.wait()
        assert checkpoints.steps() == [1, 4, 5]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["1", "4", "5"]


def test_an_old_step_that_cannot_be_removed_fails_no_save(tmp_path, monkeypatch):
    def refuse(self, step):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Checkpoints, "_remove", refuse)
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(1, make_state(1), ABOUT)
        checkpoints.save(2, make_state(2), ABOUT)
        with pytest.warns(UserWarning, match=r"old checkpoint .*1 could not be removed \(Perm"):
            checkpoints.wait()
        assert checkpoints.committed == 2
    assert Checkpoints(tmp_path).states() == {1: "good", 2: "good"}


def test_links_are_removed_as_links_beside_what_a_killed_save_left(tmp_path):
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "data").write_text("mine")
    directory = tmp_path / "checkpoints"
    (directory / "1" / "arrays-0").mkdir(parents=True)
    (directory / "1" / "arrays-0" / "half").write_text("of a file")
    for place in (directory, directory / "1"):
        (place / ".scoresde-1-link").symlink_to(precious)

    write(directory, 1)
    assert [entry.name for entry in directory.iterdir()] == ["1"]
    assert len(list((directory / "1").iterdir())) == 2  # one set of arrays, one manifest
    assert (precious / "data").read_text() == "mine"


def test_saving_a_step_again_replaces_it(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        for seed in (3, 4, 5):
            checkpoints.save(1, make_state(seed), {"seed": seed})
    restored = Checkpoints(tmp_path).restore(make_state(0))
    assert restored.about == {"seed": 5}
    assert bits(restored.state) == bits(make_state(5))
    assert len(list((tmp_path / "1").iterdir())) == 2  # one set of arrays, one manifest


# --- Readers beside a writer ---


def test_a_step_that_is_being_saved_is_no_fault(tmp_path, monkeypatch):
    """Neither a warning nor a damaged checkpoint; it is, once its writer is dead."""
    begun, may_end = threading.Event(), threading.Event()
    write_manifest = checkpoint.write_manifest

    def slow(path, content):
        begun.set()
        may_end.wait()
        write_manifest(path, content)

    write(tmp_path, 1)
    monkeypatch.setattr(checkpoint, "write_manifest", slow)
    with Checkpoints(tmp_path) as writer:
        writer.save(2, make_state(2), ABOUT)
        begun.wait()
        reader = Checkpoints(tmp_path)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert reader.restore(make_state(0)).step == 1
        assert list(reader.states()) == [1, 2]
        assert reader.states()[1] == "good"
        assert reader.states()[2].startswith(f"being saved by process {os.getpid()}")

        saving = tmp_path / "2" / checkpoint.SAVING
        dataclasses.replace(Holder.read(saving), started="1").write(saving)  # another process, dead
        assert "manifest.json is missing" in reader.states()[2]
        assert restore_naming(tmp_path, "step 2").step == 1
        may_end.set()
    assert Checkpoints(tmp_path).states() == {1: "good", 2: "good"}
    assert not (tmp_path / "2" / checkpoint.SAVING).exists()


def test_a_process_that_cannot_be_seen_saves_while_it_holds_the_run(tmp_path):
    """What a power cut left is damaged; what another machine writes now is not."""
    directory = tmp_path / "checkpoints"
    write(directory, 1)
    saver = dataclasses.replace(Holder.here(), machine="before the power cut", since="2020")
    (directory / "2").mkdir()
    saver.write(directory / "2" / checkpoint.SAVING)
    reader = Checkpoints(directory)
    assert "manifest.json is missing" in reader.states()[2]
    assert restore_naming(directory, "step 2").step == 1

    lock = tmp_path / LOCK
    dataclasses.replace(saver, token="of the lock").write(lock)
    assert reader.states()[2] == f"being saved by {saver.in_words()}"
    shutil.rmtree(directory / "1")
    with pytest.raises(CheckpointError, match="step 2 is being saved by process"):
        reader.restore(make_state(0))

    long_ago = lock.stat().st_mtime - 2 * SILENCE
    os.utime(lock, (long_ago, long_ago))
    assert "manifest.json is missing" in reader.states()[2]
    dataclasses.replace(saver, pid=saver.pid + 1).write(lock)  # the next training of the run
    assert "manifest.json is missing" in reader.states()[2]


@pytest.mark.parametrize("replaced", [True, False], ids=["saved again", "removed"])
@pytest.mark.parametrize("moment", ["verify", "_load"])
def test_what_a_writer_changes_meanwhile_is_read_again(tmp_path, monkeypatch, moment, replaced):
    """A step that goes away while it is read is no fault, nor one that is saved again."""
    write(tmp_path, 1, 2)
    place = stored_steps if moment == "verify" else stored_steps.StoredSteps
    whole = getattr(place, moment)
    calls = []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 1:
            if replaced:
                write(tmp_path, 2)
            else:
                shutil.rmtree(tmp_path / "2")
            if moment == "verify":
                raise stored_steps.DamagedError("a file is missing")
            raise CheckpointError("a file is missing")
        return whole(*args)

    monkeypatch.setattr(place, moment, interrupted)
    reader = Checkpoints(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        restored = reader.restore(make_state(0))
    assert restored.step == (2 if replaced else 1)
    assert bits(restored.state) == bits(make_state(restored.step))


WRITING = """
import sys, warnings
import numpy as np
from scoresde.runs.checkpoint import Checkpoints
with Checkpoints(sys.argv[1], keep=2) as checkpoints:
    for step in range(1, int(sys.argv[2]) + 1):
        again = step - step % 3  # a third of them is saved twice
        checkpoints.save(again, {"x": np.full(1000, again)}, {"step": again})
        if step == 1:
            checkpoints.wait()
            print("begun", flush=True)
"""


@pytest.mark.parametrize("saves", [10, pytest.param(500, marks=pytest.mark.slow)])
def test_reading_beside_a_writer_is_quiet_and_right(tmp_path, saves):
    """The newest of a run that keeps two, as fast as both can; steps are saved again, too."""
    command = [sys.executable, "-c", WRITING, str(tmp_path), str(saves)]
    writer = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert writer.stdout.readline() == b"begun\n"
    reads = last = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        while writer.poll() is None:
            reader = Checkpoints(tmp_path)
            found = reader.restore({"x": np.zeros(1000, int)})
            assert found.about == {"step": found.step} and np.all(found.state["x"] == found.step)
            assert found.step >= last
            last = found.step
            for state in reader.states().values():
                assert state == "good" or state.startswith("being saved by process")
            reads += 1
    print(f"{reads} reads beside {saves} saves")
    assert writer.returncode == 0 and reads > 3
    assert Checkpoints(tmp_path).steps()[-1] == saves - saves % 3


def test_steps_that_are_links_are_neither_read_nor_removed(tmp_path):
    other = tmp_path / "other"
    write(other, 1, 2, 3)
    run = tmp_path / "run"
    run.mkdir()
    for step in (1, 2, 3):
        (run / str(step)).symlink_to(other / str(step))
    write(run, 4, 5, 6, keep=1)
    assert Checkpoints(run).steps() == [6]
    assert Checkpoints(other).states() == {1: "good", 2: "good", 3: "good"}


# --- Saves that fail ---


def test_a_failure_is_reported_once_and_costs_one_step(tmp_path, monkeypatch):
    write_manifest = checkpoint.write_manifest

    def full_disk(path, content):
        if content["step"] == 2:
            path.with_suffix(".tmp").write_text("half")
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write_manifest(path, content)

    monkeypatch.setattr(checkpoint, "write_manifest", full_disk)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, make_state(1), ABOUT)
        checkpoints.save(2, make_state(2), ABOUT)
        with pytest.raises(
            CheckpointError, match=f"step 2 could not be saved to {tmp_path}/2: .*No space left"
        ):
            checkpoints.save(3, make_state(3), ABOUT)
        checkpoints.wait()
        assert checkpoints.steps() == [1, 3]
        assert not (tmp_path / "2").exists()
        assert bits(checkpoints.restore(make_state(0)).state) == bits(make_state(3))

        checkpoints.save(2, make_state(2), ABOUT)
        with pytest.raises(CheckpointError, match="step 2"):
            checkpoints.close()

    with (
        pytest.raises(KeyError),
        pytest.warns(UserWarning, match="step 2"),
        Checkpoints(tmp_path) as checkpoints,
    ):
        checkpoints.save(2, make_state(2), ABOUT)
        raise KeyError("the run's own error is the one to see")


def test_a_directory_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    checkpoints = Checkpoints(tmp_path / "file" / "runs")
    with pytest.raises(
        CheckpointError, match=f"step 1 could not be saved to {tmp_path}/file/runs/1: NotADirectory"
    ):
        checkpoints.save(1, make_state(1), ABOUT)

    (tmp_path / "file").unlink()
    checkpoints.save(1, make_state(1), ABOUT)
    checkpoints.close()
    assert bits(checkpoints.restore(make_state(0)).state) == bits(make_state(1))


def test_what_cannot_be_stored_is_refused(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(CheckpointError, match="wanted a dict"):
        checkpoints.save(1, [jnp.zeros(2)], {})
    with pytest.raises(CheckpointError, match="about is not JSON"):
        checkpoints.save(1, {"x": jnp.zeros(2)}, {"array": jnp.zeros(2)})
    with pytest.raises(CheckpointError, match="Unsupported leaf type"):
        checkpoints.save(1, {"x": object()}, {})
    with pytest.raises(ValueError, match="step = -1"):
        checkpoints.save(-1, {"x": jnp.zeros(2)}, {})
    with pytest.raises(ValueError, match="keep = 0"):
        Checkpoints(tmp_path, keep=0)
    assert list(tmp_path.iterdir()) == []


# --- Another process ---


def run_python(code, *args, flags=""):
    root = str(Path(checkpoint.__file__).parents[2])
    env = {**os.environ, "PYTHONPATH": root, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", code, *map(str, args)]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)


KILLED = """
import os, signal, sys
import jax.numpy as jnp
import scoresde.runs.checkpoint as checkpoint
directory, step, moment = sys.argv[1], int(sys.argv[2]), sys.argv[3]
checkpoints = checkpoint.Checkpoints(directory)
checkpoints.save(1, {"x": jnp.full((1000, 1000), 1.0)}, {"seed": 1})
checkpoints.wait()
die = lambda *args: os.kill(os.getpid(), signal.SIGKILL)
if moment == "before the manifest":
    checkpoint.write_manifest = die
if moment == "in the manifest":
    checkpoint.Path.replace = die
checkpoints.save(step, {"x": jnp.full((1000, 1000), 2.0)}, {"seed": 2})
die() if moment == "in the arrays" else checkpoints.wait()
"""


@pytest.mark.parametrize(
    "step, moment",
    [
        (2, "in the arrays"),
        (2, "before the manifest"),
        (1, "in the manifest"),
        (1, "in the arrays"),
    ],
)
def test_killed_in_the_middle_of_a_save(tmp_path, step, moment):
    assert run_python(KILLED, tmp_path, step, moment).returncode == -signal.SIGKILL
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        restored = Checkpoints(tmp_path).restore({"x": jnp.zeros((1000, 1000))})

    # A save that replaces step 1 had not committed either.
    assert (restored.step, restored.about) == (1, {"seed": 1})
    assert np.all(np.asarray(restored.state["x"]) == 1.0)
    assert [f"step {step}" in str(warning.message) for warning in caught] == [True] * (step == 2)

    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(step, {"x": jnp.full((1000, 1000), 3.0)}, {})
    assert np.all(np.asarray(checkpoints.restore({"x": jnp.zeros((1000, 1000))}).state["x"]) == 3.0)
    assert len(list((tmp_path / str(step)).iterdir())) == 2  # nothing left of the killed save


DISK_FULL = """
import resource, sys
import jax, numpy as np
from scoresde.runs.checkpoint import CheckpointError, Checkpoints
# 1.6 MB that does not compress
noise = lambda seed: {"x": jax.random.normal(jax.random.key(seed), (400, 1000))}
checkpoints = Checkpoints(sys.argv[1])
checkpoints.save(1, noise(1), {})
checkpoints.wait()
resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, resource.RLIM_INFINITY))
checkpoints.save(2, noise(2), {})
try:
    checkpoints.wait()
except CheckpointError as error:
    print(str(error))
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
same = lambda seed: np.array_equal(checkpoints.restore(noise(0)).state["x"], noise(seed)["x"])
print(checkpoints.steps(), same(1))
checkpoints.save(3, noise(3), {})
checkpoints.close()
print(checkpoints.steps(), same(3))
"""


def test_full_disk(tmp_path):
    result = run_python(DISK_FULL, tmp_path)
    assert result.returncode == 0, result.stderr

    message, *rest = result.stdout.splitlines()
    assert f"step 2 could not be saved to {tmp_path}/2" in message
    assert "File too large" in result.stdout
    assert rest[-2:] == ["[1] True", "[1, 3] True"]


SHARDED = """
import sys
import scoresde.runs.checkpoint
assert "orbax" not in sys.modules  # importing scoresde stays cheap
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from scoresde.runs.checkpoint import Checkpoints
assert jax.device_count() == 4
x = jnp.asarray(np.random.default_rng(0).normal(size=(8, 4)), jnp.float32)
sharding = lambda shape, spec: NamedSharding(jax.make_mesh(shape, ("a", "b")), spec)
with Checkpoints(sys.argv[1], keep=9) as checkpoints:
    for step, place in enumerate([x.sharding, sharding((4, 1), P("a")), jax.devices()[3]]):
        checkpoints.save(step, {"x": jax.device_put(x, place)}, {})
    for step in range(3):
        for wanted in (sharding((2, 2), P("b", "a")), sharding((4, 1), P()), x.sharding):
            like = {"x": jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=wanted)}
            restored = checkpoints.restore(like, step).state["x"]
            assert restored.sharding.is_equivalent_to(wanted, 2), (restored.sharding, wanted)
            assert np.array_equal(restored, x)
"""


def test_shardings_follow_like_whatever_was_saved(tmp_path):
    result = run_python(SHARDED, tmp_path, flags="--xla_force_host_platform_device_count=4")
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""  # Orbax says nothing where nothing is wrong

    # The four devices that saved do not exist here.
    on_one_device = {"x": jax.ShapeDtypeStruct((8, 4), jnp.float32)}
    restored = Checkpoints(tmp_path).restore(on_one_device, step=1).state["x"]
    assert np.array_equal(restored, np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32))
    assert restored.sharding.device_set == {jax.local_devices()[0]}
