"""Replacing a file as a whole."""

import os
import stat
from pathlib import Path

import pytest

from modelops_dagster.clients.whole_files import write_whole


@pytest.mark.parametrize("is_durable", [True, False])
def test_the_new_content_is_all_there_is(tmp_path: Path, is_durable: bool) -> None:
    path = tmp_path / "new" / "file.json"
    for content in ("first", b"second", "zweite Fassung, länger"):
        write_whole(path, content, is_durable=is_durable)
        assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert os.listdir(path.parent) == ["file.json"]


def test_a_private_file_is_its_owners(tmp_path: Path) -> None:
    write_whole(tmp_path / "open", "x")
    write_whole(tmp_path / "key", "x", is_private=True)
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "open").stat().st_mode) & 0o600 == 0o600


def test_what_cannot_be_written_leaves_the_old_content_alone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.mkdir()  # a folder cannot be replaced by a file
    (path / "old").write_text("kept")
    with pytest.raises(OSError, match="directory"):
        write_whole(path, "new")
    assert (path / "old").read_text() == "kept"
    assert os.listdir(tmp_path) == ["file"]
