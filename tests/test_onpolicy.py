"""On-policy data: sampling that resumes, grading, and pairing by rule."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from radpo.core.errors import DataError
from radpo.judges.samples import score_samples
from radpo.judges.verifier import Verifier
from radpo.preferences.onpolicy import pair, sample
from radpo.preferences.prompts import Prompt
from radpo.preferences.questions import load_questions

CONSTRAINTS = ({"kind": "no_commas"}, {"kind": "number"})
QUESTIONS = [Prompt(f"q{n}", [{"role": "user", "content": f"Ask {n}"}], CONSTRAINTS) for n in range(5)]


def answer(conversations: Sequence[Sequence[Mapping[str, str]]], seed: int) -> list[str]:
    return [f"{messages[-1]['content']} {seed} {place}" for place, messages in enumerate(conversations)]


@pytest.mark.parametrize("torn", ["at a chunk", "in a line", "in a chunk"])
def test_sampling_resumed_gives_what_sampling_at_once_gives(tmp_path: Path, torn: str) -> None:
    sample(QUESTIONS, answer, tmp_path / "whole.jsonl", per_prompt=3, seed=7, chunk=4)
    calls = []

    def dies(conversations: Sequence[Sequence[Mapping[str, str]]], seed: int) -> list[str]:
        calls.append(seed)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return answer(conversations, seed)

    out = tmp_path / "torn.jsonl"
    with pytest.raises(KeyboardInterrupt):
        sample(QUESTIONS, dies, out, per_prompt=3, seed=7, chunk=4)
    assert not out.exists(), "what is not whole does not bear the name"
    [partial] = tmp_path.glob(".torn.jsonl.*.partial")
    lines = partial.read_bytes().splitlines(keepends=True)
    if torn == "in a line":
        partial.write_bytes(b"".join(lines) + b'{"prompt_id": "q2", "sam')
    if torn == "in a chunk":
        partial.write_bytes(b"".join(lines[:6]))
    again = []
    sample(
        QUESTIONS, lambda c, s: again.append(s) or answer(c, s), out, per_prompt=3, seed=7, chunk=4  # type: ignore[func-returns-value]
    )  # fmt: skip
    assert out.read_text() == (tmp_path / "whole.jsonl").read_text()
    assert len(again) == (3 if torn == "in a chunk" else 2), "finished chunks are not sampled again"


@pytest.mark.parametrize("other", [{"seed": 8}, {"made_by": "hotter"}, {"chunk": 2}, {"prompts": QUESTIONS[::-1]}])
def test_what_another_run_left_is_not_taken_up(tmp_path: Path, other: dict[str, Any]) -> None:
    def dies(conversations: Sequence[Sequence[Mapping[str, str]]], seed: int) -> list[str]:
        if seed % 1_000_003 > 0:
            raise KeyboardInterrupt
        return ["another run's"] * len(conversations)

    with pytest.raises(KeyboardInterrupt):
        sample(QUESTIONS, dies, tmp_path / "out.jsonl", per_prompt=2, seed=7, chunk=4)
    wanted = {"prompts": QUESTIONS, "seed": 7, "chunk": 4, **other}
    sample(answer=answer, out=tmp_path / "out.jsonl", per_prompt=2, **wanted)
    assert "another run's" not in (tmp_path / "out.jsonl").read_text()


def test_grading_adds_score_reason_and_judge(tmp_path: Path) -> None:
    sample(QUESTIONS, answer, tmp_path / "s.jsonl", per_prompt=1, seed=0)
    score_samples(tmp_path / "s.jsonl", Verifier(), tmp_path / "g.jsonl")
    row = json.loads((tmp_path / "g.jsonl").read_text().splitlines()[0])
    assert (row["score"], row["judge"]) == (10.0, "verifier")
    assert row["reason"] == "met: no commas; met: a number in digits"


graded = st.dictionaries(
    st.sampled_from("abcd"), st.lists(st.sampled_from([1.0, 4.0, 7.0, 10.0, None]), min_size=1, max_size=5)
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(graded, st.sampled_from(["best-random", "best-worst"]), st.integers(0, 5))
def test_a_pair_is_the_best_sample_against_a_worse_one(
    tmp_path: Path, groups: dict[str, list[float | None]], rule: Any, seed: int
) -> None:
    path = tmp_path / "graded.jsonl"
    rows = [
        {"prompt_id": name, "prompt": [{"role": "user", "content": name}], "response": f"{name}{n}", "score": value}
        for name, values in groups.items()
        for n, value in enumerate(values)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    pairs = pair(path, rule, seed)
    found = {row["id"]: row for row in pairs.table.to_pylist()}
    for name, values in groups.items():
        known = [value for value in values if value is not None]
        if len(set(known)) < 2:
            assert name not in found
            continue
        assert found[name]["score_chosen"] == max(known)
        assert found[name]["score_rejected"] < max(known)
        if rule == "best-worst":
            assert found[name]["score_rejected"] == min(known)
        assert groups[name][int(found[name]["rejected"][1:])] == found[name]["score_rejected"]
    assert pair(path, rule, seed).table.equals(pairs.table), "the same seed gives the same pairs"


def write_graded(path: Path, rows: list[tuple[str, str, float | None]]) -> Path:
    path.write_text(
        "".join(
            json.dumps({"prompt_id": name, "prompt": [{"role": "user", "content": name}], "response": text, "score": n})
            + "\n"
            for name, text, n in rows
        )
    )
    return path


def test_what_gives_no_pair_is_counted_by_reason(tmp_path: Path) -> None:
    rows: list[tuple[str, str, float | None]] = [
        ("same scores", "x", 4),
        ("same scores", "y", 4),
        ("same texts", "x", 4),
        ("same texts", "x", 7),
        ("good", "x", 7),
        ("good", "y", 4),
        ("good", " ", 1),
        ("good", "z", None),
    ]
    pairs = pair(write_graded(tmp_path / "graded.jsonl", rows), "best-worst", 0)
    assert [(row["id"], row["chosen"], row["rejected"]) for row in pairs.table.to_pylist()] == [("good", "x", "y")]
    assert pairs.dropped == {
        "prompts whose samples all score the same": 1,
        "prompts with identical samples": 1,
        "empty samples": 1,
        "samples without a score": 1,
    }


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("{", "line 2: not JSON"),
        ("[" * 100_000, "line 2: not JSON"),
        ("[]", "line 2: lacks prompt_id, prompt, response, score"),
        ('{"prompt_id": "a", "prompt": "hello", "response": "x", "score": 1}', "line 2, prompt: must be a list"),
        ('{"prompt_id": "a", "prompt": [{"role": "user", "content": "?"}], "response": 3, "score": 1}', "line 2, resp"),
        ('{"prompt_id": "a", "prompt": [{"role": "user", "content": "?"}], "response": "x", "score": "7"}', "2, score"),
        ('{"prompt_id": "a", "prompt": [{"role": "user", "content": "?"}], "response": "x", "score": NaN}', "2, score"),
    ],
)
def test_a_malformed_sample_is_an_error_with_its_place(tmp_path: Path, row: str, told: str) -> None:
    path = write_graded(tmp_path / "graded.jsonl", [("a", "x", 1)])
    path.write_text(path.read_text() + row + "\n")
    with pytest.raises(DataError, match=told):
        pair(path, "best-random", 0)


def test_questions_are_checked_with_their_place(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    for row, told in (
        ("{", "line 2: not JSON"),
        ('{"question_id": "b"}', "line 2, turns"),
        ('{"turns": ["x"]}', "line 2, question_id"),
        ('{"question_id": "a", "turns": ["x"]}', "line 2, question_id: 'a' was used before"),
        ('{"question_id": "b", "turns": ["x"], "constraints": []}', "line 2, constraints"),
    ):
        path.write_text('{"question_id": "a", "turns": ["x"]}\n' + row + "\n")
        with pytest.raises(DataError, match=told):
            load_questions(path)
