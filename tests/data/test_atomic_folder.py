"""Folders that are whole or not there at all."""

import pytest

from scoresde.data.atomic_folder import atomic_folder


def test_the_folder_of_the_first_process_is_kept(tmp_path):
    """Both make the same, so the second discards its own; an error leaves nothing."""
    place = tmp_path / "made"
    with atomic_folder(place) as second:
        (second / "by").write_text("the second")
        assert not place.exists()
        with atomic_folder(place.with_name("other")) as first:
            (first / "by").write_text("the first")
        place.with_name("other").rename(place)  # meanwhile, in another process

    with pytest.raises(OSError, match="disk full"), atomic_folder(tmp_path / "never"):
        raise OSError("disk full")
    assert [entry.name for entry in tmp_path.iterdir()] == ["made"]
    assert (place / "by").read_text() == "the first"
