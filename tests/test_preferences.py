"""Scored preferences: what is read, and what a person is told of a bad row."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from factories import scored_pairs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from radpo.core.errors import DataError
from radpo.preferences.preferences import Reading, load_preferences
from radpo.preferences.writing import write_preferences

GOOD = {"id": "a", "prompt": "Hello", "chosen": "Hi there", "rejected": "No", "score_chosen": 8, "score_rejected": 3.5}
MISSING = object()


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return path


def changed(**changes: Any) -> dict[str, Any]:
    row = {**GOOD, "id": "b", **changes}
    return {name: value for name, value in row.items() if value is not MISSING}


BAD = [
    (changed(score_chosen=MISSING), "score_chosen", "missing"),
    (changed(score_rejected=None), "score_rejected", "missing"),
    (changed(score_chosen=float("nan")), "score_chosen", "not a finite number"),
    (changed(score_chosen=11), "score_chosen", "outside the scale"),
    (changed(score_rejected=0), "score_rejected", "outside the scale"),
    (changed(score_chosen="8"), "score_chosen", "wrong type str"),
    (changed(score_chosen=True), "score_chosen", "wrong type bool"),
    (changed(chosen=""), "chosen", "empty response"),
    (changed(rejected=" \n"), "rejected", "empty response"),
    (changed(rejected="Hi there"), "rejected", "identical responses"),
    (changed(score_chosen=2), "score_chosen", "chosen scored below rejected"),
    (changed(chosen=7), "chosen", "wrong type int"),
    (changed(chosen=[{"role": "user", "content": "x"}]), "chosen", "does not end with the assistant"),
    (changed(chosen=[{"role": "assistant"}]), "chosen", "a message without role or content"),
    (changed(chosen=[]), "chosen", "no messages"),
    (changed(prompt=""), "prompt", "empty"),
    (changed(prompt=MISSING), "prompt", "missing"),
    (changed(prompt=[{"role": "assistant", "content": "x"}]), "prompt", "does not end with the user"),
    (changed(chosen="\ud800"), "chosen", "a lone surrogate"),
    (changed(id="a"), "id", "duplicate id"),
    ('{"id": "b", "prompt"', "(whole line)", "not JSON"),
    ("[1, 2]", "(whole line)", "not a JSON object"),
]


@pytest.mark.parametrize(("row", "column", "reason"), BAD)
def test_a_bad_row_gives_its_file_line_column_and_mend(tmp_path: Path, row: Any, column: str, reason: str) -> None:
    path = write(tmp_path / "pairs.jsonl", GOOD, row)
    with pytest.raises(DataError) as error:
        load_preferences(path)
    message = str(error.value)
    assert message.startswith(f"{path}, line 2, column {column}: {reason}; ")
    assert len(message.split("; ", 1)[1]) > 10, "the mend is said"


@pytest.mark.parametrize(("row", "column", "reason"), BAD)
def test_a_bad_row_can_be_skipped_and_is_counted(tmp_path: Path, row: Any, column: str, reason: str) -> None:
    loaded = load_preferences(write(tmp_path / "pairs.jsonl", GOOD, row, changed(id="c")), Reading(on_error="skip"))
    assert loaded.rows_read == 3
    assert loaded.table["id"].to_pylist() == ["a", "c"]
    assert loaded.dropped == {f"{column}: {reason}": 1}


def test_pairs_the_wrong_way_round_are_swapped_when_asked(tmp_path: Path) -> None:
    row = load_preferences(write(tmp_path / "p.jsonl", changed(score_chosen=2)), Reading(swap=True)).table.to_pylist()[
        0
    ]
    assert (row["chosen"], row["rejected"]) == ("No", "Hi there")
    assert (row["score_chosen"], row["score_rejected"]) == (3.5, 2)


def test_jsonl_gzip_parquet_and_datasets_folders_read_the_same(tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict

    table = scored_pairs([(9, 4), (7, 3), (5, 5)])
    write_preferences(table, tmp_path / "p.jsonl")
    write_preferences(table, tmp_path / "p.parquet")
    (tmp_path / "p.jsonl.gz").write_bytes(gzip.compress((tmp_path / "p.jsonl").read_bytes()))
    dataset = Dataset.from_list(table.to_pylist())
    dataset.save_to_disk(tmp_path / "folder")
    DatasetDict({"train": dataset}).save_to_disk(tmp_path / "splits")
    for name in ("p.jsonl", "p.parquet", "p.jsonl.gz", "folder", "splits/train"):
        assert load_preferences(tmp_path / name).table.equals(table), name
    with pytest.raises(DataError, match=r"several splits; name one of .*splits/train"):
        load_preferences(tmp_path / "splits")
    assert not list(tmp_path.glob(".*partial")), "nothing temporary is left"


def test_a_bad_row_of_a_parquet_file_gives_its_row(tmp_path: Path) -> None:
    import pandas as pd

    pd.DataFrame([GOOD, changed(score_chosen=20)]).to_parquet(tmp_path / "p.parquet")
    with pytest.raises(DataError, match=r"row 2, column score_chosen: outside the scale"):
        load_preferences(tmp_path / "p.parquet")


def test_conversations_are_read_with_and_without_a_prompt_column(tmp_path: Path) -> None:
    start = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    whole = {side: [*start, {"role": "assistant", "content": side}] for side in ("chosen", "rejected")}
    for prompt in ("Hello", start, MISSING):
        row = load_preferences(write(tmp_path / "p.jsonl", changed(prompt=prompt, **whole))).table.to_pylist()[0]
        assert (row["prompt"], row["chosen"], row["rejected"]) == (start, "chosen", "rejected")


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("p.jsonl.gz", gzip.compress(json.dumps(GOOD).encode() * 99)[:-20], "damaged or cut short"),
        ("p.jsonl.gz", b"not gzip", "damaged or cut short"),
        ("p.parquet", b"not parquet", "cannot be read as Parquet"),
        ("p.tsv", b"a,b", "unknown format"),
        ("p.jsonl", b'{"id": "\xff"}\n', "not JSON"),
        ("p.jsonl", b"[" * 100_000, "not JSON"),
    ],
)
def test_a_file_that_cannot_be_read_is_an_error_in_words(tmp_path: Path, name: str, content: bytes, told: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=told):
        load_preferences(tmp_path / name)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.jsonl: no such file"):
        load_preferences(tmp_path / "none.jsonl")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-20, 20) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["role", "content"]), inner),
    max_leaves=5,
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.fixed_dictionaries({}, optional=dict.fromkeys(GOOD, json_values)))
def test_no_row_gets_past_unchecked_or_raises_anything_else(tmp_path: Path, row: dict[str, Any]) -> None:
    loaded = load_preferences(write(tmp_path / "fuzz.jsonl", {**GOOD, **row}, row), Reading(on_error="skip"))
    assert loaded.rows_read == loaded.table.num_rows + sum(loaded.dropped.values()) == 2
    for good in loaded.table.to_pylist():
        assert 1 <= good["score_rejected"] <= good["score_chosen"] <= 10
        assert good["chosen"].strip()
        assert good["rejected"].strip()
        assert good["chosen"] != good["rejected"]


def test_the_real_set_is_read_and_every_bad_row_accounted_for(real_data: Path) -> None:
    loaded = load_preferences(
        real_data / "preferences" / "ultrafeedback_binarized_960.jsonl.gz", Reading(on_error="skip")
    )
    assert loaded.rows_read == 960
    assert loaded.dropped == {"rejected: identical responses": 5, "chosen: empty response": 1}
    assert loaded.table.num_rows == 954
