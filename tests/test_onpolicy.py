"""On-policy data: sampling that resumes, grading, and pairing by rule; and the set that the project itself ships."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from radpo.data.onpolicy import pair, sample, score
from radpo.data.preferences import load_preferences
from radpo.data.questions import Question, load_questions
from radpo.errors import DataError
from radpo.judges.verifier import Verifier

BUNDLED = Path(__file__).parents[1] / "benchmarks" / "data"
QUESTIONS = [Question(f"q{n}", "test", (f"Ask {n}",), (({"kind": "no_commas"}, {"kind": "number"}),)) for n in range(5)]


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
    partial = tmp_path / ".torn.jsonl.partial"
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


def test_grading_adds_score_reason_and_judge(tmp_path: Path) -> None:
    sample(QUESTIONS, answer, tmp_path / "s.jsonl", per_prompt=1, seed=0)
    score(tmp_path / "s.jsonl", Verifier(), tmp_path / "g.jsonl")
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


def test_the_bundled_pairs_are_sound_and_many() -> None:
    train, held_out = (load_preferences(BUNDLED / f"{split}_pairs.jsonl") for split in ("train", "heldout"))
    assert train.table.num_rows >= 200
    assert held_out.table.num_rows >= 60
    assert sum(value >= 5 for value in held_out.table["score_rejected"].to_pylist()) >= 10


def test_the_bundled_held_out_prompts_are_disjoint_and_use_ten_kinds() -> None:
    train, held_out = (load_questions(BUNDLED / f"{split}_prompts.jsonl") for split in ("train", "heldout"))
    assert not {q.turns[0] for q in train} & {q.turns[0] for q in held_out}
    first = [{q.turns[0].split(".")[0] for q in split} for split in (train, held_out)]
    assert not first[0] & first[1], "the subjects are disjoint too"
    for split in (train, held_out):
        assert len({c["kind"] for q in split for c in q.constraints[0]}) >= 10


def test_the_bundled_prompts_are_what_their_script_makes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    spec = importlib.util.spec_from_file_location("make_prompts", BUNDLED / "make_prompts.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.setattr(script, "__file__", str(tmp_path / "make_prompts.py"))
    script.main()
    for name in ("train_prompts.jsonl", "heldout_prompts.jsonl"):
        assert (tmp_path / name).read_text() == (BUNDLED / name).read_text()


def test_every_bundled_constraint_can_be_checked() -> None:
    for name in ("train_prompts", "heldout_prompts", "mt_questions"):
        for question in load_questions(BUNDLED / f"{name}.jsonl"):
            assert all(question.constraints), "every turn has something to check"
            for turn in question.constraints:
                for constraint in turn:
                    Verifier().grade([_request(question.turns[0], constraint)])


def _request(prompt: str, constraint: Mapping[str, Any]) -> Any:
    from radpo.judges.base import GradeRequest

    return GradeRequest([{"role": "user", "content": prompt}], "text", {"constraints": [constraint]})
