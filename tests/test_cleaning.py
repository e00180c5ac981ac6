"""Turns written into texts, UltraFeedback's false tens, and `radpo data clean`: found, counted, and put right."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from radpo.cli.main import app
from radpo.core.errors import ConfigError, DataError
from radpo.preferences.cleaning import by_turns, without_system
from radpo.preferences.preferences import Reading, load_preferences
from radpo.preferences.profiling import profile
from radpo.preferences.prompts import load_prompts
from radpo.preferences.rows import FALSE_TEN, TURNS_READ, TURNS_SUSPECTED
from radpo.preferences.turns import seems_to_hold_turns, split_turns

HELPSTEER = (
    "Name a city.\n<extra_id_1>Assistant\nParis.\n\nOr Rome.\n<extra_id_1>User\nAnother one?\n"
    "<extra_id_1>Assistant\nOslo.\n<extra_id_1>User\nThanks. One more?"
)
HELPSTEER_TURNS = [
    ("user", "Name a city."),
    ("assistant", "Paris.\n\nOr Rome."),
    ("user", "Another one?"),
    ("assistant", "Oslo."),
    ("user", "Thanks. One more?"),
]
HH = "\n\nHuman: Name a city.\n\nAssistant: Paris.\n\nHuman: Another one?\n\nAssistant:"
RATINGS = ("helpfulness", "honesty")


def turns(messages: list[dict[str, str]] | None) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in messages or []]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def call(*words: object) -> Any:
    return CliRunner().invoke(app, ["data", *map(str, words)], catch_exceptions=False)


def pair(prompt: Any = "Say it.", **more: Any) -> dict[str, Any]:
    return {
        "prompt": prompt, "chosen": "Yes.", "rejected": "No.", "score_chosen": 9.0, "score_rejected": 3.0, **more,
    }  # fmt: skip


def test_helpsteers_turns_are_read_from_the_text() -> None:
    assert turns(split_turns(HELPSTEER)) == HELPSTEER_TURNS
    assert turns(split_turns("<extra_id_1>User\n" + HELPSTEER)) == HELPSTEER_TURNS
    assert turns(split_turns(HELPSTEER + "\n<extra_id_1>Assistant\n")) == HELPSTEER_TURNS


def test_hh_rlhfs_turns_are_read_from_the_text() -> None:
    wanted = [("user", "Name a city."), ("assistant", "Paris."), ("user", "Another one?")]
    assert turns(split_turns(HH)) == wanted
    assert turns(split_turns(HH + " Oslo.")) == [*wanted, ("assistant", "Oslo.")]


@pytest.mark.parametrize(
    "text",
    [
        "Name a city.",
        "What does <extra_id_1> mean in T5?",
        "Human: is a word",
        "Write a dialogue:\n\nHuman: Hello\n\nAssistant: Hi",
        "One\n<extra_id_1>User\nTwo",
        "One\n<extra_id_1>Assistant\n\n<extra_id_1>User\nTwo",
    ],
)
def test_other_texts_are_no_turns_or_one(text: str) -> None:
    assert len(split_turns(text) or [1]) == 1


@given(st.lists(st.text("abc \n:<>", min_size=1).filter(str.strip), min_size=2, max_size=6))
def test_what_is_written_in_a_layout_is_read_again(said: list[str]) -> None:
    roles = ("User", "Assistant")
    text = said[0] + "".join(f"\n<extra_id_1>{roles[n % 2]}\n{part}" for n, part in enumerate(said[1:], start=1))
    assert [content for _, content in turns(split_turns(text))] == [part.strip() for part in said]


def test_hostile_texts_take_no_long_time() -> None:
    start = time.monotonic()
    for text in ("User:\n", "\n", "\n\nHuman:", "[INST]", "<extra_id_1>User\n", "\n \n Human", "<|user|>"):
        seems_to_hold_turns(text * 100_000)
        split_turns(text * 100_000)
    assert time.monotonic() - start < 20


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_a_prompt_with_turns_in_its_text_is_a_conversation_and_counted(tmp_path: Path, ending: str) -> None:
    rows = [pair(HELPSTEER), pair("Plain."), pair("A chat:\nUser: Hello\nAssistant: Hi\nUser: Bye")]
    read = load_preferences(write(tmp_path / f"pairs.{ending}", rows))
    prompts = read.table["prompt"].to_pylist()
    assert turns(prompts[0]) == HELPSTEER_TURNS
    assert turns(prompts[1]) == [("user", "Plain.")]
    assert turns(prompts[2]) == [("user", rows[2]["prompt"])], "what is only suspected is left as it is"
    assert read.noted == {f"prompt: {TURNS_READ}": 1, f"prompt: {TURNS_SUSPECTED}": 1}


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_suspected_turns_are_counted_where_all_rows_are_plain(tmp_path: Path, ending: str) -> None:
    rows = [pair("Plain."), pair("Go", chosen="<|im_start|>user\nx<|im_end|><|im_start|>assistant\ny")]
    read = load_preferences(write(tmp_path / f"pairs.{ending}", rows))
    assert read.noted == {f"chosen: {TURNS_SUSPECTED}": 1}


def test_hh_rlhfs_whole_conversations_are_split_into_prompt_and_responses(tmp_path: Path) -> None:
    row = {"chosen": HH + " Oslo.", "rejected": HH + " No.", "score_chosen": 7, "score_rejected": 2}
    read = load_preferences(write(tmp_path / "pairs.jsonl", [row]))
    (found,) = read.table.to_pylist()
    assert turns(found["prompt"]) == [("user", "Name a city."), ("assistant", "Paris."), ("user", "Another one?")]
    assert (found["chosen"], found["rejected"]) == ("Oslo.", "No.")
    assert read.noted == {f"chosen: {TURNS_READ}": 1, f"rejected: {TURNS_READ}": 1}


def test_the_layout_of_helpsteer2_itself(tmp_path: Path) -> None:
    rows = [
        {"prompt": HELPSTEER, "response": text, "helpfulness": score, "verbosity": 2}
        for text, score in (("Rome.", 4), ("No.", 0))
    ]
    read = load_preferences(write(tmp_path / "h.jsonl", rows), Reading((0.0, 4.0)))
    assert turns(read.table["prompt"].to_pylist()[0]) == HELPSTEER_TURNS
    assert read.noted == {f"prompt: {TURNS_READ}": 2}


def test_prompts_to_sample_from_are_read_alike(tmp_path: Path) -> None:
    (prompt,) = load_prompts(write(tmp_path / "p.jsonl", [{"prompt": HELPSTEER}]))
    assert turns(list(prompt.messages)) == HELPSTEER_TURNS  # type: ignore[arg-type]


def ultrafeedback(*completions: tuple[float, str, str]) -> dict[str, Any]:
    return {
        "instruction": "Say it.",
        "completions": [
            {
                "response": f"Response {number}",
                "overall_score": overall,
                "annotations": {name: {"Rating": rating} for name, rating in zip(RATINGS, ratings, strict=True)},
            }
            for number, (overall, *ratings) in enumerate(completions)
        ],
    }


def test_false_tens_are_counted_dropped_or_repaired_before_pairing(tmp_path: Path) -> None:
    false_ten, good, na = (10, "1", "1"), (8, "5", "4"), (10, "N/A", "1")
    rows = [ultrafeedback(false_ten, good), ultrafeedback(na, good), ultrafeedback((10, "5", "5"), good)]
    path = write(tmp_path / "u.jsonl", rows)

    def scores(**reading: Any) -> tuple[list[tuple[float, float]], dict[str, int], dict[str, int]]:
        read = load_preferences(path, Reading(**reading))
        found = [(row["score_chosen"], row["score_rejected"]) for row in read.table.to_pylist()]
        return found, dict(read.dropped), dict(read.noted)

    kept = scores()
    assert kept[0] == [(10, 8), (10, 8), (10, 8)]
    assert kept[2][f"overall_score: {FALSE_TEN}"] == 2
    repaired = scores(false_tens="repair")
    assert repaired[0] == [(8, 1), (8, 1), (10, 8)]
    assert repaired[2] == {f"overall_score: {FALSE_TEN}, repaired": 2}
    dropped = scores(false_tens="drop", on_error="skip")
    assert dropped[0] == [(10, 8)]
    assert dropped[1][f"overall_score: {FALSE_TEN}"] == 2


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
@pytest.mark.parametrize("false_tens", ["keep", "drop", "repair"])
def test_false_tens_of_pairs_with_attributes(tmp_path: Path, ending: str, false_tens: Any) -> None:
    low, high = {"helpfulness": 1.0, "honesty": None}, {"helpfulness": 5.0, "honesty": 4.0}
    rows = [
        pair(score_chosen=10.0, attributes_chosen=low, attributes_rejected=high),
        pair(score_chosen=10.0, attributes_chosen=high, attributes_rejected=high),
    ]
    how = Reading(false_tens=false_tens, on_error="skip", swap=True)
    read = load_preferences(write(tmp_path / f"p.{ending}", rows), how)
    found = [(row["score_chosen"], row["score_rejected"], row["chosen"]) for row in read.table.to_pylist()]
    plain = (10.0, 3.0, "Yes.")
    assert found == {"keep": [plain, plain], "drop": [plain], "repair": [(3.0, 1.0, "No."), plain]}[false_tens]
    counted = read.dropped if false_tens == "drop" else read.noted
    assert counted == {f"score_chosen: {FALSE_TEN}" + (", repaired" if false_tens == "repair" else ""): 1}


def test_a_ten_on_another_scale_is_no_false_ten(tmp_path: Path) -> None:
    row = pair(score_chosen=10.0, attributes_chosen={"a": 1.0}, attributes_rejected={"a": 1.0})
    for ending in ("jsonl", "parquet"):
        assert load_preferences(write(tmp_path / f"p.{ending}", [row]), Reading((0.0, 10.0))).noted == {}


def test_stats_flags_false_tens_and_turns(tmp_path: Path) -> None:
    path = write(tmp_path / "u.jsonl", [ultrafeedback((10, "1", "1"), (8, "5", "4"))])
    shown = json.loads(call("stats", path, "--json").stdout)
    assert shown["noted"][f"overall_score: {FALSE_TEN}"] == 1
    assert f"noted: overall_score: {FALSE_TEN}" in call("stats", path).stdout
    unrated = write(tmp_path / "b.jsonl", [pair(score_chosen=10.0)])
    assert "not done: false tens: not checked; the responses have no ratings" in call("stats", unrated).stdout
    assert "false tens" not in call("stats", path).stdout.partition("not done")[2]


def test_clean_writes_what_every_command_reads_and_counts_the_rest(tmp_path: Path) -> None:
    rows = [
        pair(HELPSTEER, id="a"),
        pair(id="b", rejected="Yes."),
        pair(id="c", chosen=" "),
        pair(id="d", score_chosen=1.0),
        pair(id="e", score_chosen=11.0),
        pair(id="a"),
        {"id": "f"},
    ]
    path, out = write(tmp_path / "pairs.jsonl", rows), tmp_path / "clean.parquet"
    shown = json.loads(call("clean", path, "--out", out, "--swap", "--json").stdout)
    assert (shown["rows_read"], shown["pairs"]) == (7, 2)
    assert sum(shown["dropped"].values()) == 5
    assert "id: duplicate id" in shown["dropped"]
    assert shown["noted"] == {f"prompt: {TURNS_READ}": 1}
    read = load_preferences(out)
    assert read.table["id"].to_pylist() == ["a", "d"]
    assert (read.dropped, read.noted) == ({}, {}), "what is clean stays clean"
    assert profile([read.table]).pairs == 2
    again = json.loads(call("clean", out, "--out", tmp_path / "again.jsonl", "--json").stdout)
    assert load_preferences(tmp_path / "again.jsonl").table.equals(read.table)
    assert again["dropped"] == {}


def test_clean_fits_prompts_to_a_template_and_counts_them(tmp_path: Path) -> None:
    said = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "One"},
        {"role": "user", "content": "Two"},
    ]
    path, out = write(tmp_path / "pairs.jsonl", [pair(said), pair("Plain.")]), tmp_path / "clean.jsonl"
    shown = call("clean", path, "--out", out, "--join-system", "--join-turns").stdout
    assert "changed 1: prompt: its system message put before the first user's message" in shown
    assert "changed 1: prompt: neighbouring messages of one role joined" in shown
    first = load_preferences(out).table["prompt"].to_pylist()[0]
    assert first == [{"role": "user", "content": "Be brief.\n\nOne\n\nTwo"}]
    assert said[1]["content"] == "One"


def test_joining_leaves_fitting_prompts_alone() -> None:
    fits = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    assert without_system(fits) == by_turns(fits) == fits


def test_clean_refuses_to_write_over_its_source_and_unknown_words(tmp_path: Path) -> None:
    path = write(tmp_path / "pairs.jsonl", [pair()])
    with pytest.raises(DataError, match="is the source itself"):
        call("clean", path, "--out", path)
    with pytest.raises(ConfigError, match="--false-tens 'mend': must be one of keep, drop, repair"):
        call("clean", path, "--out", tmp_path / "out.jsonl", "--false-tens", "mend")


def test_a_readings_settings_are_what_it_is_made_of_again() -> None:
    assert Reading().settings() == {}
    reading = Reading((0.0, 4.0), on_error="skip", columns={"prompt": "question"}, false_tens="repair")
    stored = json.loads(json.dumps({"scale": reading.scale, "reading": reading.settings()}))
    assert Reading.of(stored) == reading


def matrix(folder: Path, data: str = "") -> Any:
    from factories import write_model

    from radpo.matrix.expand import expand
    from radpo.matrix.loading import load_matrix

    if not (folder / "model").exists():
        write_model(folder / "model")
    (folder / "m.yaml").write_text(
        f"name: m\nmodel: {folder / 'model'}\nvariants: {{base: , dpo: }}\ndata:\n"
        f"  train: {{path: pairs.jsonl}}\n  heldout: {{path: pairs.jsonl}}\n{data}benchmarks: {{unlearning: {{}}}}\n"
    )
    return expand(load_matrix(folder / "m.yaml"))


def test_a_matrix_reads_its_pairs_as_it_says_and_the_keys_know(tmp_path: Path) -> None:
    from cheap_stages import run_inline

    from radpo.engine.store import Store
    from radpo.matrix.manifest import pair_notes

    rows = [pair(id="a"), pair(id="b", chosen="No."), pair(id="c", score_chosen=1.0), pair(HELPSTEER, id="d")]
    for row in rows:
        row["q"] = row.pop("prompt")
    write(tmp_path / "pairs.jsonl", rows)
    plain = matrix(tmp_path)
    plan = matrix(tmp_path, "  on_error: skip\n  swap: true\n  columns: {prompt: q}\n")
    assert not {stage.key for stage in plan.stages} & {stage.key for stage in plain.stages}
    assert {stage.key for stage in matrix(tmp_path, "  on_error: raise\n").stages} == {s.key for s in plain.stages}
    pairs = [stage for stage in plan.stages if stage.function_name == "pairs"]
    store = Store(tmp_path / "store")
    run_inline(store, *pairs)
    read = pq.read_table(store.folder(pairs[0]) / "pairs.parquet")
    assert read["id"].to_pylist() == ["a", "c", "d"]
    assert read["score_chosen"].to_pylist() == [9.0, 3.0, 9.0]
    assert set(pair_notes(pairs, store)) == {
        "pairs.jsonl: 1 of 4 rows were left out (rejected: identical responses).",
        f"pairs.jsonl: 1 times in 4 rows, prompt: {TURNS_READ}.",
    }


def test_a_matrix_that_names_no_way_to_read_is_told_what_there_is(tmp_path: Path) -> None:
    write(tmp_path / "pairs.jsonl", [pair()])
    with pytest.raises(ConfigError, match=r"data.false_tens: 'repare': .*did you mean.*repair"):
        matrix(tmp_path, "  false_tens: repare\n")


def test_train_reads_its_pairs_as_data_commands_do(tmp_path: Path) -> None:
    from factories import write_model

    rows = [pair(id=str(n), chosen=f"Yes {n}") for n in range(4)] + [pair(id="4", rejected="Yes."), pair(id="5")]
    for row in rows:
        row["better"] = row.pop("score_chosen")
    path, model = write(tmp_path / "pairs.jsonl", rows), write_model(tmp_path / "model")
    words = ["train", path, "--out", tmp_path / "out", "--model", model, "--method", "dpo", "--columns",
             "score_chosen=better", "--on-error", "skip", "--set", "batch_size=5",
             "--set", "per_device_train_batch_size=5", "--set", "max_length=64"]  # fmt: skip
    done = CliRunner().invoke(app, list(map(str, words)), catch_exceptions=False)
    assert "left out 1: rejected: identical responses" in done.stderr
    assert done.stdout.strip() == str(tmp_path / "out" / "policy")
    assert json.loads((tmp_path / "out" / "counts.json").read_text())["checked"] == 5


def test_judged_answers_that_are_none_are_counted() -> None:
    from radpo.benchmarks.answers import fault_notes

    texts = [("Yes.", "No."), ("", "$ERROR$"), (" \n", "$ERROR$"), ("$ERROR$", None)]
    assert fault_notes("alpaca-eval", *zip(*texts, strict=True)) == [
        "alpaca-eval: 2 of 4 answers are empty and were judged as they are.",
        "alpaca-eval: 1 of 4 answers are $ERROR$, which stands for a missing answer, and were judged as they are.",
        "alpaca-eval: the baseline: 2 of 3 answers are $ERROR$, which stands for a missing answer, and "
        "were judged as they are.",
    ]
    assert fault_notes("alpaca-eval", ["Yes."], ["No."]) == fault_notes("alpaca-eval", [], []) == []


def test_an_analysis_of_pairs_reads_them_as_data_commands_do(tmp_path: Path) -> None:
    from factories import write_model

    rows = [pair(id=str(n), chosen=f"Yes {n}") for n in range(3)] + [pair(id="4", rejected="Yes.")]
    for row in rows:
        row["better"] = row.pop("score_chosen")
    path, model = write(tmp_path / "pairs.jsonl", rows), write_model(tmp_path / "model")
    words = ["analyze", "unlearning", path, "--policy", model, "--reference", model, "--columns",
             "score_chosen=better", "--on-error", "skip", "--max-length", "500", "--json"]  # fmt: skip
    done = CliRunner().invoke(app, list(map(str, words)), catch_exceptions=False)
    document = json.loads(done.stdout)
    assert document["none/delta_logp_chosen"]["n"] == 3
    assert "pairs.jsonl: 1 of 4 rows were left out (rejected: identical responses)." in document["notes"]
