"""Files that survive a kill: journals, replaced files, checksums."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from radpo.core.files import append_journal, open_journal, read_journal, replace_file

ROWS = [{"n": n, "text": f"line {n} \ud800\n"} for n in range(5)]


def write(path: Path, rows: list[dict[str, object]]) -> None:
    with open_journal(path) as journal:
        append_journal(journal, rows)


@pytest.mark.parametrize("cut", [1, 40, 90])
def test_a_journal_killed_in_a_line_keeps_the_lines_before_and_takes_new_ones(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "journal"
    write(path, ROWS)
    path.write_bytes(path.read_bytes()[:-cut])
    assert list(read_journal(path)) == ROWS[:4]
    write(path, ROWS[4:])
    assert list(read_journal(path)) == ROWS


def test_a_damaged_line_of_a_journal_is_left_out_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    write(path, ROWS)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[2] = lines[2].replace(b"line 2", b"line 9")
    path.write_bytes(b"".join(lines))
    assert list(read_journal(path)) == [*ROWS[:2], *ROWS[3:]]


def test_there_is_no_journal_before_the_first_row(tmp_path: Path) -> None:
    assert list(read_journal(tmp_path / "journal")) == []
    write(tmp_path / "journal", [])
    assert list(read_journal(tmp_path / "journal")) == []


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    replace_file(path, lambda partial: partial.write_text("1"))

    def fails(partial: Path) -> None:
        partial.write_text("half")
        raise ValueError("no luck")

    with pytest.raises(ValueError, match="no luck"):
        replace_file(path, fails)
    assert json.loads(path.read_text()) == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.json"]
