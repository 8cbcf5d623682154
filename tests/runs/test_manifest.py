"""A manifest is plain JSON, verifies its files and itself, and names the leaves that differ."""

import json
import os

import jax
import jax.numpy as jnp
import pytest

from scoresde.runs.fingerprints import fingerprint, fingerprints
from scoresde.runs.manifest import (
    DamagedError,
    describe_leaves,
    leaf_differences,
    newest_manifest,
    read_manifest,
    verify,
    write_manifest,
)

STATE = {"params": {"conv": {"kernel": jnp.zeros((3, 3, 1, 4))}}, "key": jax.random.key(0)}
ABOUT = {"net": {"width": 32, "rates": [1e-3, 0.1]}, "ema": None}


@pytest.fixture
def folder(tmp_path):
    """The folder of step 7, with two files of "arrays"."""
    folder = tmp_path / "checkpoints" / "7"
    (folder / "arrays-0" / "d").mkdir(parents=True)
    (folder / "arrays-0" / "a").write_bytes(b"abc")
    (folder / "arrays-0" / "d" / "b").write_bytes(b"")

    manifest = {
        "step": 7,
        "about": ABOUT,
        "arrays": "arrays-0",
        "leaves": describe_leaves(STATE),
        "files": fingerprints(folder, "arrays-0", write=lambda: None),
    }
    write_manifest(folder / "manifest.json", manifest)
    return folder


def test_the_manifest_can_be_read_by_a_person(folder):
    content = json.loads((folder / "manifest.json").read_text())["content"]
    assert content["about"] == ABOUT
    assert content["leaves"] == {
        "params/conv/kernel": "float32[3,3,1,4]",
        "key": "key<fry>[]",
    }
    # SHA-256 of "abc" as FIPS 180-2 prints it, appendix B.1.
    assert content["files"]["arrays-0/a"] == (
        "3 bytes, sha256 ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )
    assert set(content["files"]) == {"arrays-0/a", "arrays-0/d/b"}


def test_intact_files_are_verified(folder):
    assert verify(folder, 7)["about"] == ABOUT


def change_file(folder):
    (folder / "arrays-0" / "a").write_bytes(b"abd")


def remove_file(folder):
    (folder / "arrays-0" / "d" / "b").unlink()


def change_manifest(folder):
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace("32", "33", 1))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (change_file, "arrays-0/a has changed: found 3 bytes"),
        (remove_file, "arrays-0/d/b is missing"),
        (change_manifest, "manifest.json is damaged: it does not match its own checksum"),
    ],
)
def test_damage_is_named(folder, damage, message):
    damage(folder)
    with pytest.raises(DamagedError, match=message):
        verify(folder, 7)


def written_again(folder, **changes):
    """Writes the manifest, with a right checksum, with other entries; None takes one out."""
    content = read_manifest(folder / "manifest.json") | changes
    content = {name: entry for name, entry in content.items() if entry is not None}
    write_manifest(folder / "manifest.json", content)


def files_and(folder, others):
    return read_manifest(folder / "manifest.json")["files"] | others


def link(place, target):
    place.rename(target) if place.exists() else target.mkdir()
    place.symlink_to(target)


HOSTILE = {
    "arrays above": (lambda f: written_again(f, arrays="../../other"), "its arrays is not"),
    "arrays at a root": (lambda f: written_again(f, arrays="/tmp"), "its arrays is not"),
    "no files": (lambda f: written_again(f, files={}), "its files is not"),
    "no leaves": (lambda f: written_again(f, leaves=None), "its leaves is not"),
    "leaves without shapes": (lambda f: written_again(f, leaves={"x": "y"}), "its leaves is not"),
    "leaves too large": (
        lambda f: written_again(f, leaves={"x": f"float32[{10**17}]"}),
        "its leaves is not",
    ),
    "another kind": (lambda f: written_again(f, about=[1]), "its about is not"),
    "a file elsewhere": (
        lambda f: written_again(f, files=files_and(f, {"arrays-0/../b": fingerprint(f / "b")})),
        "arrays-0/../b is missing",
    ),
    "a file unlisted": (
        lambda f: (f / "arrays-0" / "d" / "c").touch(),
        "arrays-0/d/c is not listed in the manifest",
    ),
    "linked arrays": (
        lambda f: link(f / "arrays-0", f.parent.parent / "other"),
        "arrays-0 is a link",
    ),
    "a linked folder in them": (
        lambda f: link(f / "arrays-0" / "d", f.parent.parent / "other"),
        "d is a link, a pipe or a device",
    ),
    "a linked step": (lambda f: link(f, f.parent.parent / "other"), "7 is a link"),
    "a pipe": (lambda f: os.mkfifo(f / "arrays-0" / "c"), "c is a link, a pipe or a device"),
    "a linked manifest": (
        lambda f: link(f / "manifest.json", f.parent.parent / "other"),
        "manifest.json lies outside of",
    ),
    "an endless manifest": (
        lambda f: (f / "manifest.json").unlink() or (f / "manifest.json").symlink_to("/dev/zero"),
        "manifest.json lies outside of",
    ),
}


@pytest.mark.parametrize(("change", "message"), HOSTILE.values(), ids=HOSTILE)
def test_what_no_run_writes_is_refused(folder, change, message):
    (folder / "b").write_bytes(b"secret")
    change(folder)
    with pytest.raises(DamagedError, match=message):
        verify(folder, 7)


def test_a_manifest_that_would_not_be_read_is_not_written(folder, monkeypatch):
    monkeypatch.setattr("scoresde.runs.manifest.LARGEST_JSON", 1000)
    with pytest.raises(ValueError, match="keep long lists out of `about`"):
        written_again(folder, about={"x": "x" * 1000})


def test_the_newest_manifest_is_one_of_the_run_itself(folder, tmp_path):
    run = tmp_path / "run" / "checkpoints"
    run.mkdir(parents=True)
    assert newest_manifest(folder.parent)["step"] == 7
    (run / "7").symlink_to(folder)
    assert newest_manifest(run) is None
    written_again(folder, about={"shape": "x"})
    assert newest_manifest(folder.parent) is None


def test_a_renamed_folder_is_refused(folder):
    with pytest.raises(DamagedError, match="belongs to step 7: the folder was renamed"):
        verify(folder, 8)


def test_leaves_that_agree_have_no_differences():
    leaves = describe_leaves(STATE)
    assert leaf_differences(leaves, dict(reversed(leaves.items()))) == ""


def test_differing_leaves_are_listed_and_the_others_counted():
    wanted = {str(i): "float32[2]" for i in range(8)}
    found = {"0": "float32[2]", "1": "bfloat16[2]", "9": "int32[]"}

    first, *others = leaf_differences(found, wanted).strip().splitlines()
    assert first == "1: checkpoint bfloat16[2], wanted float32[2]"
    assert others[0] == "  2: checkpoint (missing), wanted float32[2]"
    assert len(others) == 5
    assert others[-1] == "  … and 3 more"
