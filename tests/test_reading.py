"""Files that somebody else may have written: what is read, and what is refused."""

import io
import json
import os
import tracemalloc
import zipfile

import numpy as np
import pytest

from scoresde import reading
from scoresde.reading import (
    DEEPEST,
    UnreadableError,
    map_npy,
    parse_json,
    read_file,
    read_json,
    read_npy,
    read_npz,
)


def test_what_is_regular_small_and_inside_is_read_whole(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"0123456789")
    (tmp_path / "link").symlink_to(file)
    assert read_file(file, 10, inside=tmp_path) == b"0123456789"
    assert read_file(tmp_path / "link", 10, inside=tmp_path) == b"0123456789"
    with pytest.raises(UnreadableError, match="holds 10 bytes, more than 9"):
        read_file(file, 9)
    with pytest.raises(FileNotFoundError):
        read_file(tmp_path / "other", 9)


def test_links_out_of_the_folder_and_names_that_leave_it_are_refused(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run2").mkdir()
    secret = tmp_path / "run2" / "secret"
    secret.write_text("secret")
    (tmp_path / "run" / "link").symlink_to(secret)
    (tmp_path / "run" / "folder").symlink_to(tmp_path / "run2")
    (tmp_path / "same").symlink_to(tmp_path / "run2")  # the folder itself may be reached by a link
    assert read_file(tmp_path / "same" / "secret", 10, inside=tmp_path / "same") == b"secret"
    for name in ("link", "folder/secret", "../run2/secret", str(secret)):
        with pytest.raises(UnreadableError, match="lies outside of"):
            read_file(tmp_path / "run" / name, 10, inside=tmp_path / "run")


def test_pipes_devices_and_folders_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, "/dev/zero"):
        with pytest.raises(UnreadableError, match="wanted a regular file"):
            read_file(path, 10)


def test_json_is_bounded_in_depth(tmp_path):
    for opened, closed in (("[", "]"), ('{"a":', "}")):
        deepest = opened * DEEPEST + "1" + closed * DEEPEST
        assert parse_json(deepest) == json.loads(deepest)
        for levels in (DEEPEST + 1, 10**5):
            with pytest.raises(ValueError, match="nested in more than"):
                parse_json(opened * levels + "1" + closed * levels)

    file = tmp_path / "a.json"
    for content in (b"{", b"\xff", b'{"a": ' + b"1" * 10**5 + b"}"):
        file.write_bytes(content)
        with pytest.raises(UnreadableError, match=r"a\.json is not JSON"):
            read_json(file)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6.0).reshape(2, 3),
        np.asfortranarray(np.arange(6).reshape(2, 3)),
        np.float32(3.0),
        np.zeros((3, 0, 2), np.uint8),
    ],
    ids=["rows", "columns", "scalar", "empty"],
)
def test_arrays_come_back_as_numpy_reads_them(tmp_path, array):
    np.save(tmp_path / "a.npy", array)
    np.savez_compressed(tmp_path / "a.npz", x=array, **{"cond['a']": array})
    want = np.load(tmp_path / "a.npy")
    for found in (
        read_npy(tmp_path / "a.npy"),
        read_npz(tmp_path / "a.npz", 10**4)["x"],
        read_npz(tmp_path / "a.npz", 10**4)["cond['a']"],
    ):
        assert found.dtype == want.dtype and found.shape == want.shape
        np.testing.assert_array_equal(found, want)
        assert found.flags.writeable


def header(text):
    text = text.ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


FORGED = {
    "rows": header("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }"),
    "negative": header("{'descr': '<f8', 'fortran_order': False, 'shape': (-1, 8), }") + b"0" * 64,
    "no bytes": header("{'descr': '|V0', 'fortran_order': False, 'shape': (1000000000000,), }"),
    "huge": header("{'descr': '<f8', 'fortran_order': False, 'shape': (0, 10" + "0" * 30 + "), }"),
    "objects": header("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }") + b"12345678",
    "nested": header("{'descr': " + "[" * 50 + "'shape': (1,), }"),
    "words": header("{'descr': '<f8', 'shape': (1,) 'fortran_order'"),
    "bytes": b"\x93NUMPY\x01\x00\xff\xff'",
    "other": b"PK",
}


@pytest.mark.parametrize("content", FORGED.values(), ids=FORGED)
def test_forged_headers_are_refused(tmp_path, content):
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(UnreadableError, match=r"a\.npy is not an array"):
        read_npy(tmp_path / "a.npy")


def test_long_headers_are_not_read(tmp_path):
    header = b"\x93NUMPY\x02\x00" + (2**31).to_bytes(4, "little")
    with (tmp_path / "a.npy").open("wb") as file:
        file.write(header)
        file.truncate(2**32)  # which takes no place on the disk
    tracemalloc.start()
    with pytest.raises(UnreadableError, match=r"a\.npy is not an array"):
        read_npy(tmp_path / "a.npy")
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_an_array_larger_than_the_memory_is_said_to_be_so():
    header = io.BytesIO()
    form = {"descr": "|u1", "fortran_order": False, "shape": (2**62,)}
    np.lib.format.write_array_header_1_0(header, form)
    size = header.tell() + 2**62
    header.seek(0)
    with pytest.raises(
        UnreadableError, match=r"a.npy takes 4,6\S* bytes, and there is less memory"
    ):
        reading._array_of(header, size, "a.npy")


def test_mapped_arrays_are_those_of_the_file_and_as_safe(tmp_path):
    array = np.arange(6, dtype=np.uint8).reshape(3, 2)
    np.save(tmp_path / "a.npy", array)
    found = map_npy(tmp_path / "a.npy")
    np.testing.assert_array_equal(found, array)
    assert isinstance(found, np.memmap) and not found.flags.writeable
    (tmp_path / "a.npy").write_bytes(FORGED["rows"])
    with pytest.raises(UnreadableError, match=r"a\.npy is not an array"):
        map_npy(tmp_path / "a.npy")


def test_archives_of_many_members_or_other_compression_are_refused(tmp_path):
    array = io.BytesIO()
    np.save(array, np.zeros(2))
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        for i in range(1001):
            archive.writestr(f"{i}.npy", b"")
    with pytest.raises(UnreadableError, match="1,001 arrays"):
        read_npz(tmp_path / "a.npz", 10**6)
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("x.npy", array.getvalue())
    with pytest.raises(UnreadableError, match="a method that NumPy does not use"):
        read_npz(tmp_path / "a.npz", 10**6)


def test_archives_are_bounded_once_unpacked(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros(10**6))
    assert (tmp_path / "a.npz").stat().st_size < 10**4
    with pytest.raises(UnreadableError, match="unpacked it holds 8,000,128 bytes"):
        read_npz(tmp_path / "a.npz", 10**6)

    # An archive may say less than it holds.
    size = 2**25
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", bytes(size))
    lies = content.getvalue().replace(size.to_bytes(4, "little"), (10).to_bytes(4, "little"))
    (tmp_path / "a.npz").write_bytes(lies)
    tracemalloc.start()
    with pytest.raises(UnreadableError):
        read_npz(tmp_path / "a.npz", 10**5)
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()
