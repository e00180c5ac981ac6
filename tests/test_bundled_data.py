"""What the project ships in benchmarks/: prompts that can be answered, rightly graded pairs, true answer keys."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from radpo.judges.base import GradeRequest
from radpo.judges.verifier import Verifier, met
from radpo.preferences.preferences import Reading, load_preferences
from radpo.preferences.questions import Question, load_questions

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
BUNDLED, TASKS = BENCHMARKS / "data", BENCHMARKS / "tasks"
SPLITS = ("train", "heldout")
DETAIL = ("train", "tuning", "heldout")

# An answer to both turns of every question that a careful person could give.
MODEL_ANSWERS = {
    "mt-00": ("The sea is blue. It is wide.", "the sea is blue. it is wide."),
    "mt-01": ("Fresh bread and warm smiles every day!", '"FRESH BREAD AND WARM SMILES EVERY DAY!"'),
    "mt-02": ("The wind tears at the trees.", "- wind\n- thunder\n- dark clouds"),
    "mt-03": ("Ahoy, welcome aboard my ship!", "Arr, I be 52 years old!"),
    "mt-04": ("Welcome, may I bring you our soup?", "Then take some warm bread. Enjoy your meal."),
    "mt-05": ("I want fish and I want it now.", "I WANT FISH AND I WANT IT NOW."),
    "mt-06": ("Ben has cats.", "5"),
    "mt-07": ("Oslo", "7"),
    "mt-08": ("She is a nurse.", "LISBON"),
    "mt-09": ("Tom", "Joe."),
    "mt-10": ("Wednesday", "it was monday."),
    "mt-11": ("Yes, it does.", "No, it does not."),
    "mt-12": ("7 plus 5 is 12.", "22"),
    "mt-13": ("There are 18", "10"),
    "mt-14": ("Half of 50 is 25.", "100"),
    "mt-15": ("def add(a, b):\n    return a + b", "def double(a):\n    return 2 * a"),
    "mt-16": ('{"name": "Ada"}', '{"name": "Ada", "age": 36}'),
    "mt-17": ("for", "while"),
    "mt-18": ("They take in carbon dioxide.", "Oxygen"),
    "mt-19": ("It boils at 100.", "It freezes at 0."),
    "mt-20": ("Mercury", "It is hot because it is close to the Sun."),
    "mt-21": ("Paris", "The Seine"),
    "mt-22": ("William Shakespeare", '"Hamlet"'),
    "mt-23": ("Africa", "It is famous for its pyramids. Many people visit them."),
}


def grade(constraints: Sequence[Mapping[str, Any]], response: str) -> tuple[float | None, str]:
    request = GradeRequest([{"role": "user", "content": "?"}], response, {"constraints": list(constraints)})
    [graded] = Verifier().grade([request])
    return graded.score, graded.reason


def questions(split: str) -> list[Question]:
    return load_questions(BUNDLED / f"{split}_prompts.jsonl")


def kinds(asked: Sequence[Question]) -> Counter[str]:
    return Counter(constraint["kind"] for question in asked for constraint in question.constraints[0])


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def loaded(name: str) -> ModuleType:
    """A script of the data folder as a module."""
    spec = importlib.util.spec_from_file_location(name, BUNDLED / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return loaded("make_prompts")


def dutiful(constraints: Sequence[Mapping[str, Any]]) -> str:
    """An answer, void of sense, that does all that is asked of it."""
    asked = {constraint["kind"]: constraint for constraint in constraints}
    count = asked.get("sentences", asked.get("bullets", {"n": 1}))["n"]
    words = [asked["first_word"]["word"]] if "first_word" in asked else []
    words += [asked["keyword"]["word"]] if "keyword" in asked else []
    words += ["7"] if "number" in asked else []
    words += ["ducks"] * max(2 * count, asked.get("min_words", {"n": 0})["n"] - len(words))
    share = len(words) // count
    parts = [words[n * share : (n + 1) * share if n < count - 1 else None] for n in range(count)]
    if "bullets" in asked:
        text = "\n".join("- " + " ".join(part) for part in parts)
    else:
        text = ". ".join(" ".join(part) for part in parts) + ("." if "ends_with" not in asked else "")
    if "ends_with" in asked:
        text += " " + asked["ends_with"]["text"]
    if "json_keys" in asked:
        text = json.dumps(dict.fromkeys(asked["json_keys"]["keys"], text))
    text = f'"{text}"' if "quoted" in asked else text
    text = f"<<Ducks>> {text}" if "title" in asked else text
    text = text.lower() if "lowercase" in asked else text
    return text.upper() if "uppercase" in asked else text


@pytest.mark.parametrize("split", SPLITS)
def test_every_prompt_has_an_answer_that_meets_all_its_constraints(split: str) -> None:
    for question in questions(split):
        answer = dutiful(question.constraints[0])
        score, reason = grade(question.constraints[0], answer)
        assert score == 10, (question.turns[0], answer, reason)


@pytest.mark.parametrize("split", SPLITS)
def test_prompts_are_short_and_ask_for_each_constraint_in_words(split: str) -> None:
    for question in questions(split):
        [prompt] = question.turns
        assert len(prompt) <= 240
        # The task, and a sentence of its own for each constraint; an ending brings its own full stop.
        assert len(re.findall(r"[.?]\"?(?=\s|$)", prompt)) == 1 + len(question.constraints[0]), prompt
        for constraint in question.constraints[0]:
            for name in ("word", "text"):
                assert f'"{constraint[name]}"' in prompt if name in constraint else True


def test_held_out_prompts_and_subjects_are_not_the_training_ones(script: ModuleType) -> None:
    train, held_out = map(questions, SPLITS)
    assert not {q.turns[0] for q in train} & {q.turns[0] for q in held_out}
    subjects = [set(text.split("|")) for text in (script.TRAIN_SUBJECTS, script.HELDOUT_SUBJECTS)]
    assert not subjects[0] & subjects[1]
    for split, own, others in ((train, *subjects), (held_out, *reversed(subjects))):
        tasks = {question.turns[0].split(".")[0] + "." for question in split}
        possible = {text.format(x=subject) for text in script.TASKS.values() for subject in own}
        assert tasks <= possible
        assert not tasks & {text.format(x=subject) for text in script.TASKS.values() for subject in others}


def test_both_splits_use_the_same_twelve_kinds_or_more() -> None:
    train, held_out = (set(kinds(questions(split))) for split in SPLITS)
    assert train == held_out
    assert len(train) >= 12


def test_the_prompts_are_what_their_script_makes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: ModuleType
) -> None:
    monkeypatch.setattr(script, "__file__", str(tmp_path / "make_prompts.py"))
    script.main()
    for split in SPLITS:
        name = f"{split}_prompts.jsonl"
        assert (tmp_path / name).read_text(encoding="utf-8") == (BUNDLED / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("split", SPLITS)
def test_the_pairs_bear_the_scores_that_the_verifier_gives(split: str) -> None:
    asked = {question.question_id: question for question in questions(split)}
    pairs = load_preferences(BUNDLED / f"{split}_pairs.jsonl").table.to_pylist()
    for row in pairs:
        question = asked[row["id"]]
        assert row["prompt"] == [{"role": "user", "content": question.turns[0]}]
        assert row["chosen"] != row["rejected"]
        for side in ("chosen", "rejected"):
            assert grade(question.constraints[0], row[side])[0] == row[f"score_{side}"], (row["id"], side)
        assert row["score_chosen"] > row["score_rejected"]


@pytest.fixture(scope="module")
def detail(script: ModuleType) -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "make_prompts", script)
        return loaded("make_detail")


def test_pairs_on_detail_score_their_words_as_the_verifier_counts_them(detail: ModuleType) -> None:
    asked = {row["question_id"]: row["turns"][0] for split in SPLITS for row in detail.prompts(split)}
    for part in DETAIL:
        pairs = load_preferences(BUNDLED / f"detail_{part}_pairs.jsonl", Reading(scale=(1, 40))).table.to_pylist()
        for row in pairs:
            assert row["prompt"] == [{"role": "user", "content": asked[row["id"]]}]
            for side in ("chosen", "rejected"):
                words = [{"kind": "min_words", "n": n} for n in range(1, 41)]
                assert row[f"score_{side}"] == sum(met(row[side], word) for word in words)
            assert row["score_chosen"] - row["score_rejected"] >= 8
        assert sum(row["score_rejected"] >= 15 for row in pairs) >= 20, "enough good rejected ones to measure"


def test_questions_on_detail_are_what_their_script_makes_and_longer_answers_score_more(detail: ModuleType) -> None:
    tuning, held_out = (rows(BUNDLED / f"detail_{part}_prompts.jsonl") for part in DETAIL[1:])
    assert tuning + held_out == detail.prompts("heldout")
    for part, own in (("tuning", tuning), ("heldout", held_out)):
        pairs = rows(BUNDLED / f"detail_{part}_pairs.jsonl")
        assert {row["id"] for row in pairs} <= {row["question_id"] for row in own}
    constraints = detail.prompts("heldout")[0]["constraints"][0]
    scores = [grade(constraints, " ".join(["duck"] * words))[0] for words in range(1, 60)]
    assert scores == sorted(scores)  # type: ignore[type-var]
    assert (scores[0], scores[38], scores[39], len(set(scores))) == (1, 8.875, 10, 9)
    train, others = ({row["turns"][0] for row in detail.prompts(split)} for split in SPLITS)
    assert not train & others
    assert "quiet beach" in " ".join(train), "subjects are the disjoint ones of the other set"


def test_answers_on_detail_are_trimmed_to_whole_sentences(detail: ModuleType) -> None:
    long = "It is one. " + " ".join(["word"] * 12)
    assert [detail.whole(text) for text in ("Two words", "One.\nTwo.", long, long + ".", " ".join(["word"] * 12))] == [
        "Two words", "One.", "It is one.", long + ".", "",
    ]  # fmt: skip


def test_there_are_hundreds_of_pairs_and_high_scored_rejected_ones() -> None:
    train, held_out = (load_preferences(BUNDLED / f"{split}_pairs.jsonl").table for split in SPLITS)
    assert train.num_rows >= 200
    assert 60 <= held_out.num_rows <= 90
    assert sum(value >= 5 for value in train["score_rejected"].to_pylist()) >= 50
    assert sum(value >= 5 for value in held_out["score_rejected"].to_pylist()) >= 10


def test_the_card_gives_the_counts_of_the_files() -> None:
    card = (BUNDLED / "README.md").read_text(encoding="utf-8")
    for path in BUNDLED.glob("*.jsonl"):
        assert f"| `{path.name}` | {len(rows(path))} |" in card
    tables = [load_preferences(BUNDLED / f"{split}_pairs.jsonl").table for split in SPLITS]
    columns = [table[f"score_{side}"].to_pylist() for table in tables for side in ("chosen", "rejected")]
    for low in range(1, 11):
        counts = [sum(int(value) == low for value in column) for column in columns]
        name = "10" if low == 10 else f"{low} to <{low + 1}"
        assert f"| {name} | {' | '.join(map(str, counts))} |" in card
    tables = [
        load_preferences(BUNDLED / f"detail_{split}_pairs.jsonl", Reading(scale=(1, 40))).table for split in DETAIL
    ]
    columns = [table[f"score_{side}"].to_pylist() for table in tables for side in ("chosen", "rejected")]
    for low in range(0, 40, 10):
        counts = [sum(low < value <= low + 10 for value in column) for column in columns]
        assert f"| {low + 1} to {low + 10} | {' | '.join(map(str, counts))} |" in card
    train, held_out = (kinds(questions(split)) for split in SPLITS)
    for kind in train:
        assert f"| {kind} | {train[kind]} | {held_out[kind]} |" in card


def test_two_turn_questions_cover_eight_categories_and_can_be_answered_in_full() -> None:
    asked = load_questions(BUNDLED / "mt_questions.jsonl")
    per_category = Counter(question.category for question in asked)
    assert len(per_category) == 8
    assert set(per_category.values()) == {3}
    assert {question.question_id for question in asked} == set(MODEL_ANSWERS)
    for question in asked:
        for turn, constraints, answer in zip(
            question.turns, question.constraints, MODEL_ANSWERS[question.question_id], strict=True
        ):
            score, reason = grade(constraints, answer)
            assert score == 10, (turn, answer, reason)


def test_arithmetic_keys_are_right() -> None:
    sums = {"plus": int.__add__, "minus": int.__sub__, "times": int.__mul__}
    for row in rows(TASKS / "arithmetic.jsonl"):
        first, sign, second = re.fullmatch(r"What is (\d+) (plus|minus|times) (\d+)\?", row["question"]).groups()  # type: ignore[union-attr]
        assert row["choices"][row["answer"]] == str(sums[sign](int(first), int(second)))


@pytest.mark.parametrize("name", ["facts", "arithmetic"])
def test_choices_are_four_different_ones_with_the_right_one_at_every_place(name: str) -> None:
    asked = rows(TASKS / f"{name}.jsonl")
    assert len({row["question"] for row in asked}) == len(asked) == 60
    assert all(len(row["choices"]) == len(set(row["choices"])) == 4 for row in asked)
    assert min(Counter(row["answer"] for row in asked)[place] for place in range(4)) >= 10


def test_one_word_answers_are_one_word_and_echoes_are_in_their_question() -> None:
    asked = rows(TASKS / "one_word.jsonl")
    assert len({row["question"] for row in asked}) == len(asked) == 40
    for row in asked:
        assert re.fullmatch(r"\w+", row["answer"])
        if row["question"].startswith("Repeat"):
            assert row["question"].endswith(f": {row['answer']}")


@pytest.mark.parametrize("path", sorted(TASKS.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_task_names_itself_and_a_file_beside_it(path: Path) -> None:
    import yaml

    task = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert task["task"] == path.stem
    assert task["dataset_path"] == "json", "nothing comes from a hub"
    assert (path.parent / task["dataset_kwargs"]["data_files"]).is_file()
