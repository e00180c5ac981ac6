"""Sources and layouts: every format and every way that preference sets are laid out, and what a bad one is told."""

from __future__ import annotations

import csv
import gzip
import json
import os
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from factories import scored_pairs
from hypothesis import given, settings
from hypothesis import strategies as st

from radpo.core.errors import DataError, ServiceError
from radpo.preferences.columns import good_rows
from radpo.preferences.pairing import RULES
from radpo.preferences.preferences import PreferenceReader, Reading, load_preferences, schema
from radpo.preferences.rows import LOG_LIKELIHOODS, Rules, check_row
from radpo.preferences.writing import write_preferences

SKIP = Reading(on_error="skip")
GOOD = {"id": "a", "prompt": "Hello", "chosen": "Hi there", "rejected": "No", "score_chosen": 8, "score_rejected": 3.5}


def write_lines(path: Path, *rows: Any) -> Path:
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return path


def completion(text: str, score: Any, ratings: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """As UltraFeedback has it, with some of what else it has."""
    annotations = {name: {"Rating": rating, "Rationale": "…"} for name, rating in (ratings or {}).items()}
    return {"model": "m", "response": text, "overall_score": score, "annotations": annotations, "critique": "…"}


ULTRAFEEDBACK = [
    {"instruction": "nothing answered this", "source": "s", "completions": []},
    {
        "instruction": "one best",
        "source": "s",
        "completions": [
            completion("a", 8.5, {"honesty": "4", "helpfulness": "5"}),
            completion("b", 6.0, {"honesty": "N/A", "helpfulness": "3"}),
            completion("c", 2.0, {"honesty": "1", "helpfulness": "1"}),
            completion("d", 6.0, {"honesty": "2", "helpfulness": "N/A"}),
        ],
    },
    {"instruction": "all the same", "source": "s", "completions": [completion("x", 5.0), completion("x", 5.0)]},
]


@pytest.mark.parametrize("name", ["uf.jsonl", "uf.parquet"])
def test_ultrafeedback_is_paired_best_against_a_random_other(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.endswith("jsonl"):
        write_lines(path, *ULTRAFEEDBACK)
    else:
        pq.write_table(pa.Table.from_pylist(ULTRAFEEDBACK), path)
    drawn = set()
    for seed in range(40):
        loaded = load_preferences(path, Reading(seed=seed))
        assert loaded.rows_read == 3
        assert loaded.dropped == {"responses: nothing to pair": 2}
        [row] = loaded.table.to_pylist()
        assert (row["prompt"], row["chosen"]) == ([{"role": "user", "content": "one best"}], "a")
        assert row["attributes_chosen"] == {"honesty": 4, "helpfulness": 5}
        drawn.add(row["rejected"])
        if row["rejected"] == "b":
            assert row["attributes_rejected"] == {"honesty": None, "helpfulness": 3}, "N/A is no rating"
        assert loaded.table.equals(load_preferences(path, Reading(seed=seed)).table)
    assert drawn == {"b", "c", "d"}


def test_the_pairing_rules_pair_what_they_say(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "uf.jsonl", ULTRAFEEDBACK[1])
    paired = {
        rule: {
            (row["chosen"], row["rejected"]) for row in load_preferences(path, Reading(pairing=rule)).table.to_pylist()
        }
        for rule in RULES
    }
    assert paired["best-worst"] == {("a", "c")}
    assert paired["all"] == {("a", "b"), ("a", "c"), ("a", "d"), ("b", "c"), ("d", "c")}
    assert paired["adjacent"] in ({("a", "b"), ("d", "c")}, {("a", "d"), ("b", "c")}), "the tie of b and d is no pair"
    for rule in ("best-random", "best-other"):
        assert paired[rule] < {("a", "b"), ("a", "c"), ("a", "d")}


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(1, 5)), min_size=1, max_size=7), st.integers(0, 9))
def test_pairs_of_all_rules_are_ordered_and_all_has_every_one(responses: list[tuple[str, int]], seed: int) -> None:
    from radpo.preferences.pairing import ScoredResponse, pair_up

    scored = [ScoredResponse(text, score) for text, score in responses]
    every = {
        (i, j) for i, a in enumerate(scored) for j, b in enumerate(scored) if a.score > b.score and a.text != b.text
    }
    best = max(score for _, score in responses)
    for rule in RULES:
        pairs = pair_up(scored, rule, random.Random(seed))
        assert len(pairs) == len(set(pairs))
        if rule == "all":
            assert set(pairs) == every
        if rule != "best-other":
            assert set(pairs) <= every
        if rule.startswith("best"):
            assert all(scored[chosen].score == best for chosen, _ in pairs)
            assert len(pairs) <= 1


def test_a_bad_completion_is_counted_and_the_others_paired(tmp_path: Path) -> None:
    row = {
        "instruction": "q",
        "completions": [completion("a", 9), completion("b", 85), completion(" ", 3), completion("c", 2)],
    }
    path = write_lines(tmp_path / "uf.jsonl", row)
    loaded = load_preferences(path, SKIP)
    assert [(pair["chosen"], pair["rejected"]) for pair in loaded.table.to_pylist()] == [("a", "c")]
    assert loaded.dropped == {"overall_score: outside the scale": 1, "response: empty response": 1}
    with pytest.raises(
        DataError, match=r"line 1, column overall_score: outside the scale; 85 is not on the scale 1-10"
    ):
        load_preferences(path)


def test_helpsteer_pairs_the_runs_of_one_prompt(tmp_path: Path) -> None:
    rows = [
        {
            "prompt": "p",
            "response": "a",
            "helpfulness": 4,
            "correctness": 3,
            "coherence": 4,
            "complexity": 1,
            "verbosity": 2,
        },
        {
            "prompt": "p",
            "response": "b",
            "helpfulness": 1,
            "correctness": 0,
            "coherence": 4,
            "complexity": 1,
            "verbosity": 2,
        },
        {
            "prompt": "q",
            "response": "c",
            "helpfulness": 2,
            "correctness": 3,
            "coherence": 4,
            "complexity": 1,
            "verbosity": 2,
        },
        {
            "prompt": "r",
            "response": "d",
            "helpfulness": 0,
            "correctness": 3,
            "coherence": 4,
            "complexity": 1,
            "verbosity": 2,
        },
        {
            "prompt": "r",
            "response": "e",
            "helpfulness": 3,
            "correctness": 1,
            "coherence": 4,
            "complexity": 1,
            "verbosity": 2,
        },
    ]
    write_lines(tmp_path / "h.jsonl", *rows)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "h.parquet")
    with (tmp_path / "h.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    for name in ("h.jsonl", "h.parquet", "h.csv"):
        loaded = load_preferences(tmp_path / name, Reading(scale=(0, 4)))
        pairs = loaded.table.to_pylist()
        assert [(p["chosen"], p["rejected"], p["score_chosen"], p["score_rejected"]) for p in pairs] == [
            ("a", "b", 4, 1), ("e", "d", 3, 0),
        ]  # fmt: skip
        assert pairs[1]["attributes_chosen"]["correctness"] == 1
        assert loaded.dropped == {"responses: nothing to pair": 1}


def test_a_known_column_may_go_by_another_name(tmp_path: Path) -> None:
    row = {"question": "Hello", "good": "Hi", "bad": "No", "a": 8, "b": 3}
    names = {"prompt": "question", "chosen": "good", "rejected": "bad", "score_chosen": "a", "score_rejected": "b"}
    write_lines(tmp_path / "p.jsonl", row)
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "p.parquet")
    (tmp_path / "p.csv").write_text("question,good,bad,a,b\nHello,Hi,No,8,3\n")
    for name in ("p.jsonl", "p.parquet", "p.csv"):
        [pair] = load_preferences(tmp_path / name, Reading(columns=names)).table.to_pylist()
        assert (pair["chosen"], pair["score_rejected"]) == ("Hi", 3), name
        with pytest.raises(DataError, match=r"--columns"):
            load_preferences(tmp_path / name)
    with pytest.raises(DataError, match=r"no column 'nope' \(named in --columns\); it has question, good, bad, a, b"):
        load_preferences(tmp_path / "p.parquet", Reading(columns={"prompt": "nope"}))


def test_every_format_and_place_reads_the_same(tmp_path: Path) -> None:
    import fsspec
    from datasets import Dataset

    table = scored_pairs([(9, 4), (7, 3), (5, 5)])
    for name in ("p.jsonl", "p.jsonl.gz", "p.parquet", "folder"):
        write_preferences(table, tmp_path / name)
    rows = [{**row, "prompt": row["prompt"][0]["content"]} for row in table.to_pylist()]
    with (tmp_path / "p.csv").open("w", newline="", encoding="utf-8-sig") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    (tmp_path / "p.csv.gz").write_bytes(gzip.compress((tmp_path / "p.csv").read_bytes()))
    Dataset.from_list(table.to_pylist()).save_to_disk(tmp_path / "saved")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.jsonl").write_bytes((tmp_path / "p.jsonl").read_bytes())
    places = ["p.jsonl", "p.jsonl.gz", "p.parquet", "folder", "p.csv", "p.csv.gz", "saved"]
    sources = [str(tmp_path / name) for name in places]
    sources += [f"hub:{tmp_path / 'set'}:train", f"stream:{tmp_path / 'set'}:train"]
    for name in ("p.jsonl", "p.parquet", "p.csv.gz"):
        with fsspec.open(f"memory://somewhere/{name}", "wb") as remote:
            remote.write((tmp_path / name).read_bytes())
        sources += [f"memory://somewhere/{name}", f"file://{tmp_path / name}"]
    for source in sources:
        loaded = load_preferences(source)
        assert loaded.table.equals(table), source
        assert loaded.rows_read == 3


def test_what_cannot_be_reached_says_so_without_the_password(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^memory://nowhere/p\.jsonl: no such file"):
        load_preferences("memory://nowhere/p.jsonl")
    with pytest.raises((DataError, ServiceError)) as error:
        load_preferences("http://user:secret@127.0.0.1:9/p.jsonl?token=hidden")
    assert "secret" not in str(error.value)
    assert "hidden" not in str(error.value)
    with pytest.raises(ServiceError, match="hub:nobody/nothing:train: the Hub cannot be reached"):
        load_preferences("hub:nobody/nothing:train")
    (tmp_path / "p.json").write_text("[]")
    with pytest.raises(DataError, match=r"unknown format; give a \.jsonl"):
        load_preferences(tmp_path / "p.json")


def test_multi_turn_prompts_and_system_messages_stay_whole(tmp_path: Path) -> None:
    from radpo.preferences.relabel import relabel

    start = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "Why?"},
    ]
    path = write_lines(tmp_path / "p.jsonl", {**GOOD, "prompt": start})
    table = load_preferences(path).table
    assert table.to_pylist()[0]["prompt"] == start
    asked = relabel(table, "ra").table.to_pylist()[1]["prompt"]
    assert asked[0]["content"].endswith("Overall score: 3.5.\n\nBe brief.")
    assert asked[1:] == start[1:]


def test_log_likelihood_columns_are_kept_and_must_be_whole(tmp_path: Path) -> None:
    logps = dict.fromkeys(LOG_LIKELIHOODS, -3.5)
    path = write_lines(
        tmp_path / "p.jsonl", {**GOOD, **logps}, {**GOOD, "id": "b", **logps, "policy_logp_chosen": None}
    )
    loaded = load_preferences(path, SKIP)
    assert loaded.table.schema == schema(log_likelihoods=True)
    assert loaded.dropped == {"policy_logp_chosen: missing": 1}


def test_swapping_takes_everything_of_a_response_along(tmp_path: Path) -> None:
    row = {
        **GOOD, "score_chosen": 2,
        "attributes_chosen": {"honesty": 1}, "attributes_rejected": {"honesty": 4},
        "policy_logp_chosen": -1, "policy_logp_rejected": -2,
        "reference_logp_chosen": -3, "reference_logp_rejected": -4,
    }  # fmt: skip
    for name in ("p.jsonl", "p.parquet"):
        write_lines(tmp_path / name, row) if name == "p.jsonl" else pq.write_table(
            pa.Table.from_pylist([row]), tmp_path / name
        )
        [pair] = load_preferences(tmp_path / name, Reading(swap=True)).table.to_pylist()
        assert (pair["chosen"], pair["score_chosen"], pair["attributes_chosen"]) == ("No", 3.5, {"honesty": 4})
        assert [pair[column] for column in LOG_LIKELIHOODS] == [-2, -1, -4, -3]


def test_swapped_and_plain_rows_keep_the_files_order(tmp_path: Path) -> None:
    rng = random.Random(0)
    rows = [
        {**GOOD, "id": f"r{n}", "chosen": f"c{n}", "score_chosen": rng.choice([2, 8]), "score_rejected": 4}
        for n in range(60)
    ]
    rows[7]["id"] = rows[3]["id"]
    rows[20]["score_chosen"] = 77
    write_lines(tmp_path / "p.jsonl", *rows)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "p.parquet")
    both = [load_preferences(tmp_path / name, Reading(on_error="skip", swap=True)) for name in ("p.jsonl", "p.parquet")]
    assert both[0].table.equals(both[1].table)
    assert both[0].dropped == both[1].dropped == {"id: duplicate id": 1, "score_chosen: outside the scale": 1}
    assert both[0].table["id"].to_pylist() == [f"r{n}" for n in range(60) if n not in (7, 20)]


message = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["system", "user", "assistant"]),
        "content": st.sampled_from(["", " ", "x", "y\x01", "\u2028", "z"]),
    }
)
side = st.lists(message, max_size=3) | st.none()
texts = st.sampled_from(["", " \n", "\u00a0", "x", "y", "z\x00", "é"]) | st.none()
numbers = st.sampled_from([1.0, 5.0, 10.0, 0.5, 10.5, float("nan"), float("inf")]) | st.none()


@settings(max_examples=400, deadline=None)
@given(st.data(), st.booleans(), st.booleans(), st.sampled_from(["text", "messages", "none"]))
def test_columns_take_no_row_that_the_row_check_would_not_and_read_it_alike(
    data: Any, lenient: bool, whole: bool, prompt: str
) -> None:
    def table_row() -> dict[str, Any]:
        row = {
            "chosen": data.draw(side if whole else texts),
            "rejected": data.draw(side if whole else texts),
            "score_chosen": data.draw(numbers),
            "score_rejected": data.draw(numbers),
            "id": data.draw(texts),
        }
        if prompt != "none":
            row["prompt"] = data.draw(texts if prompt == "text" else side)
        return row

    rows = [table_row() for _ in range(data.draw(st.integers(1, 5)))]
    messages = schema().field("prompt").type
    kinds = {"score_chosen": pa.float64(), "score_rejected": pa.float64(), "id": pa.string()}
    kinds |= dict.fromkeys(("chosen", "rejected"), messages if whole else pa.string())
    kinds |= {} if prompt == "none" else {"prompt": pa.string() if prompt == "text" else messages}
    batch = pa.RecordBatch.from_pylist(rows, schema=pa.schema(list(kinds.items())))
    rules = Rules(lenient=lenient)
    found = good_rows(batch, 1, rules, schema())
    if found is None:
        return
    common, good = found
    for number, (row, is_good) in enumerate(zip(batch.to_pylist(), good, strict=True), start=1):
        if is_good:
            assert check_row(row, number, rules) == common.slice(number - 1, 1).to_pylist()[0]


def test_ordinary_rows_are_all_taken_by_the_columns() -> None:
    pairs = scored_pairs([(9, 4), (7, 7), (5, 3)])
    [batch] = pairs.to_batches()
    found = good_rows(batch, 1, Rules(), schema())
    assert found is not None
    assert found[1].all()
    assert pa.Table.from_batches([found[0]]).equals(pairs)


CUT = gzip.compress(b"\n".join(json.dumps(GOOD | {"id": n}).encode() for n in range(999)), mtime=0)[:-30]
BAD_FILES: list[tuple[str, bytes, str]] = [
    ("cut.jsonl.gz", CUT, "damaged or cut short"),
    ("cut.csv.gz", gzip.compress(b"id,chosen\n" + b"1,x\n" * 9999, mtime=0)[:-9], "damaged or cut short"),
    ("quote.csv", b'id,chosen\n1,"x\n', "not CSV"),
    ("twice.csv", b"id,id\n1,2\n", "two columns have the same name"),
    ("empty.parquet", b"", "cannot be read as Parquet"),
    ("other.parquet", b"PAR1" + b"\x00" * 50 + b"PAR1", "cannot be read as Parquet"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "told"), BAD_FILES)
@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_a_damaged_file_is_an_error_whatever_is_skipped(
    tmp_path: Path, name: str, content: bytes, told: str, on_error: Any
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=told) as error:
        load_preferences(tmp_path / name, Reading(on_error=on_error))
    assert str(tmp_path / name) in str(error.value)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ('{"id": "b", "prompt": "Hello", "cho', "(whole line): not JSON"),
        ({"instruction": "q", "completions": []}, "chosen: missing"),
        ({**GOOD, "id": "b", "chosen": "bell \x07"}, "chosen: a control character"),
        ({**GOOD, "id": "b", "rejected": "\udc00"}, "rejected: a lone surrogate"),
        ({**GOOD, "id": "a"}, "id: duplicate id"),
        ({**GOOD, "id": "b", "score_chosen": 10**400}, "score_chosen: not a finite number"),
        ({**GOOD, "id": "b", "attributes_chosen": {"x": 1}}, None),
        ({**GOOD, "id": "b", "prompt": {"role": "user"}}, "prompt: wrong type dict"),
    ],
)
def test_one_bad_row_in_the_middle_is_named_or_counted(tmp_path: Path, row: Any, reason: str | None) -> None:
    rows = [GOOD | {"id": f"x{n}"} for n in range(50)]
    path = write_lines(tmp_path / "p.jsonl", GOOD, *rows, row, *[GOOD | {"id": f"y{n}"} for n in range(50)])
    loaded = load_preferences(path, SKIP)
    assert loaded.rows_read == 102
    assert loaded.dropped == ({} if reason is None else {reason: 1})
    if reason:
        with pytest.raises(DataError, match=rf"{path}, line 52, column "):
            load_preferences(path)


def test_responses_of_ten_megabytes_are_read_and_relabeled(tmp_path: Path) -> None:
    from radpo.preferences.plan import Relabeling
    from radpo.preferences.streaming import relabel_to

    rows = [{**GOOD, "id": str(n), "chosen": f"{n} " + "long " * 2_000_000} for n in range(3)]
    write_lines(tmp_path / "p.jsonl", *rows)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "p.parquet")
    for name in ("p.jsonl", "p.parquet"):
        reader = PreferenceReader(tmp_path / name)
        sizes = [batch.nbytes for batch in reader]
        assert max(sizes) < 25e6, "a chunk ends by its size"
        assert relabel_to(reader, Relabeling("ra", shuffle=True), tmp_path / "out.parquet").used == 3
        made = pq.read_table(tmp_path / "out.parquet").to_pylist()
        assert sorted(len(row["chosen"][0]["content"]) for row in made) == [2, 2, 2, *[10_000_002] * 3]


def test_a_million_rows_with_one_bad_row(tmp_path: Path) -> None:
    count, bad = 1_000_000, 765_432
    scores = np.full(count, 8.0)
    scores[bad - 1] = 11
    ids = pa.array(np.arange(count)).cast(pa.string())
    text = pa.array(np.repeat("some text", count))
    table = pa.table(
        {
            "id": ids, "prompt": text, "chosen": pa.compute.binary_join_element_wise(text, ids, " "), "rejected": text,
            "score_chosen": scores, "score_rejected": np.full(count, 3.0),
        }
    )  # fmt: skip
    pq.write_table(table, tmp_path / "p.parquet")
    reader = PreferenceReader(tmp_path / "p.parquet", SKIP)
    assert sum(batch.num_rows for batch in reader) == count - 1
    assert reader.dropped == {"score_chosen: outside the scale": 1}
    with pytest.raises(DataError, match=rf"row {bad}, column score_chosen: outside the scale; 11 is not on the scale"):
        list(PreferenceReader(tmp_path / "p.parquet"))


def test_the_real_sets_load_without_a_lost_row(real_data: Path) -> None:
    folder = real_data / "preferences"
    pairs = load_preferences(folder / "ultrafeedback_binarized_960.jsonl.gz", Reading(lenient=True)).table
    assert pairs.num_rows == 960
    chosen, rejected = pairs["score_chosen"].to_numpy(), pairs["score_rejected"].to_numpy()
    assert (chosen == rejected).sum() == 108, "its README's count of ties"
    assert (rejected >= 8).sum() == 181, "its README's count of high-scored rejected"
    with gzip.open(folder / "ultrafeedback_binarized_960.jsonl.gz", "rt", encoding="utf-8") as stream:
        rows = [json.loads(line) for line in stream]
    assert pairs["id"].to_pylist() == [str(row["source_index"]) for row in rows]
    assert pairs["chosen"].to_pylist() == [row["chosen"] for row in rows]

    many = load_preferences(
        folder / "mt_bench_turn1_multi_response_scored.jsonl.gz", Reading(on_error="skip", pairing="all")
    )
    assert many.rows_read == 80
    several = load_preferences(
        folder / "vicuna_bench_multi_response_scored.jsonl.gz", Reading(scale=(1, 5), pairing="best-other")
    )
    assert several.rows_read == 64
    assert several.table.num_rows == 64, "every prompt has two different responses"


def test_every_pair_of_the_real_multi_response_set_is_in_order(real_data: Path) -> None:
    path = real_data / "preferences" / "mt_bench_turn1_multi_response_scored.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        rows = [json.loads(line) for line in stream]
    expected = 0
    for row in rows:
        scored = [(c["response"], c.get("overall_score", c.get("score"))) for c in row["completions"]]
        scored = [(text, score) for text, score in scored if text.strip() and score is not None and 1 <= score <= 10]
        expected += sum(a[1] > b[1] and a[0] != b[0] for a in scored for b in scored)
    loaded = load_preferences(path, Reading(on_error="skip", pairing="all"))
    assert loaded.table.num_rows == expected


def test_rows_of_a_local_set_are_those_of_its_files_and_not_of_an_older_cache(tmp_path: Path) -> None:
    path = tmp_path / "set" / "train.jsonl"
    path.parent.mkdir()
    read = []
    for score in (7, 8):
        write_preferences(scored_pairs([(9, 4), (score, 3)]), path)
        os.utime(path, (1_700_000_000, 1_700_000_000))  # as a tool leaves it that restores times
        read.append(load_preferences(f"hub:{tmp_path / 'set'}:train").table.to_pylist()[1]["score_chosen"])
    assert read == [7, 8]
