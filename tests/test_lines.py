"""A line that is too long for any row is one message, and is never held in memory."""

from __future__ import annotations

import gzip
import resource
import time
from pathlib import Path

import pytest

from radpo.core import lines as limits
from radpo.core.errors import DataError
from radpo.core.json_rows import read_rows
from radpo.preferences.overlap import load_evaluation_prompts
from radpo.preferences.preferences import load_preferences

READERS = {
    "pairs.jsonl.gz": load_preferences,
    "pairs.csv.gz": load_preferences,
    "rows.jsonl.gz": lambda path: list(read_rows(path)),
    "rows.json.gz": lambda path: list(read_rows(path)),
    "questions.jsonl.gz": load_evaluation_prompts,
}


@pytest.fixture(scope="module")
def bomb(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Three gigabytes in one line, as 48 members of a gzip file that has three megabytes."""
    return gzip.compress(b'"' + b"a" * ((64 << 20) - 1), 1) * 48


@pytest.mark.parametrize("name", READERS)
def test_a_line_of_three_gigabytes_in_a_small_gzip_is_one_message(tmp_path: Path, bomb: bytes, name: str) -> None:
    assert len(bomb) < 32 << 20
    (tmp_path / name).write_bytes(bomb)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(DataError, match=rf"{name}(, line 1)?: .*longer than (64|256) MiB"):
        READERS[name](tmp_path / name)
    assert time.process_time() - start < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2 << 20, "in KiB"


@pytest.mark.parametrize("name", ["pairs.jsonl", "pairs.csv", "rows.jsonl"])
def test_the_limit_is_the_lines_and_not_the_files(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LONGEST_LINE", 200)
    rows = {
        "pairs.csv": "prompt,chosen,rejected,score_chosen,score_rejected\n" + "p,a,b,8,3\n" * 100,
        "pairs.jsonl": '{"prompt":"p","chosen":"a","rejected":"b","score_chosen":8,"score_rejected":3}\n' * 100,
        "rows.jsonl": '{"a": 1}\n' * 100,
    }
    (tmp_path / name).write_text(rows[name])
    assert (len(list(read_rows(tmp_path / name))) if name == "rows.jsonl" else
            len(load_preferences(tmp_path / name).table)) == 100  # fmt: skip


def test_a_number_of_thousands_of_digits_in_a_row_is_one_message(tmp_path: Path) -> None:
    for name in ("rows.jsonl", "rows.json"):
        (tmp_path / name).write_text(f'{{"a": {"9" * 5000}}}')
        with pytest.raises(DataError, match=rf"{name}"):
            list(read_rows(tmp_path / name))
