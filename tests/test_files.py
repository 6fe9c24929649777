"""Tests of eurosat_helpers.files. Kills, processes and a full disk are in test_survival.py."""

import pytest

from eurosat_helpers import files


def test_file_is_replaced_completely_and_nothing_but_the_lock_lies_beside_it(tmp_path):
    file = tmp_path / "table.csv"
    (tmp_path / ".table.csv.partial").write_bytes(b"left by a process that was killed")
    for content in (b"a long first content", b"short"):
        files.write(file, content)
        assert file.read_bytes() == content
    assert {path.name for path in tmp_path.iterdir()} == {"table.csv", ".lock"}


def test_write_that_fails_leaves_what_was_there(tmp_path):
    folder = tmp_path / "table.csv"
    folder.mkdir()
    with pytest.raises(OSError, match=r"Could not write .*table\.csv`; nothing was changed"):
        files.write(folder, b"new")
    assert {path.name for path in tmp_path.iterdir()} == {"table.csv", ".lock"}
