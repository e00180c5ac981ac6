"""Make the bundled set on detail: short answers of the bundled model in several lengths, scored by their words.

What earns the score is one thing, easily seen and exactly checked, so that 135M parameters learn it in minutes, and
what goals ask for is in words that the model knows. A prompt is asked in several styles for answers of different
lengths; the pairs ask it in one.

Run from the repository's root: python benchmarks/data/make_detail.py [train|heldout]
Beside this file it writes detail_PART_pairs.jsonl for the parts train, tuning and heldout, and prompts of the last two.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from make_prompts import HELDOUT_SUBJECTS, TASKS, TRAIN_SUBJECTS

from radpo.judges.verifier import met
from radpo.preferences.pairing import ScoredResponse, pair_up

FOLDER = Path(__file__).parent
SEED = 20411
SPLITS = {"train": (TRAIN_SUBJECTS, 320), "heldout": (HELDOUT_SUBJECTS, 160)}
TUNING = 96
"""So many of the held-out prompts, the first, are for trying settings; what is reported is measured on the others."""
ASKED = "Answer in a sentence or two."
STYLES = (
    "Answer in at most six words.",
    "Answer in three words.",
    "Answer in one short sentence.",
    "Answer in two sentences.",
    "",
)
"""Instead of `ASKED`, when answers are sampled; pairs do not show it."""
MOST = 40
"""The score is the number of words, and no more than this."""
GAP = 8
"""Points that a pair's scores differ by at least."""
RUNGS = range(5, MOST + 1, 5)
CONSTRAINTS = [{"kind": "min_words", "n": n} for n in RUNGS]
"""What the verifier counts in answers to the prompts as questions: 1 + 9 x the share of these that an answer meets."""
MAX_NEW_TOKENS, TEMPERATURE, TOP_P = 48, 0.7, 0.95


def prompts(split: str) -> list[dict[str, Any]]:
    """The prompts of a split, as rows of a questions file."""
    subjects, number = SPLITS[split]
    every = [(task, subject) for task in TASKS for subject in subjects.split("|")]
    drawn = random.Random(f"{SEED} {split}").sample(every, number)
    return [
        {
            "question_id": f"detail-{split}-{place:03d}",
            "category": task,
            "turns": [f"{TASKS[task].format(x=subject)} {ASKED}"],
            "constraints": [CONSTRAINTS],
        }
        for place, (task, subject) in enumerate(drawn)
    ]


def parts(split: str) -> dict[str, slice]:
    """Which prompts of a split are whose, by part."""
    return {"train": slice(None)} if split == "train" else {"tuning": slice(TUNING), "heldout": slice(TUNING, None)}


def whole(response: str) -> str:
    """An answer's first paragraph, up to the last sentence that is whole where it was cut; empty where none is."""
    text = response.strip().split("\n")[0].strip()
    if len(text.split()) <= 10 or re.search(r"[.!?][\"”')]*$", text):
        return text
    return "".join(re.findall(r"^.*[.!?][\"”')]*(?=\s)", text)).strip()


def sample(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    """An answer of the bundled model in every style to every prompt, all by one seed."""
    from radpo.models.decoding import Sampling
    from radpo.models.generation import answer
    from radpo.models.loading import load_model, load_tokenizer, resolve_model

    folder = resolve_model("smollm2-135m-instruct")
    model, tokenizer = load_model(folder, "float32"), load_tokenizer(folder)
    answers: list[list[str]] = [[] for _ in rows]
    for place, style in enumerate(STYLES):
        asked = [[{"role": "user", "content": f"{row['turns'][0].removesuffix(ASKED)}{style}".strip()}] for row in rows]
        sampling = Sampling(MAX_NEW_TOKENS, TEMPERATURE, TOP_P, SEED + place)
        for found, text in zip(answers, answer(model, tokenizer, asked, sampling, batch_size=64), strict=True):
            found.append(whole(text))
    return answers


def score(text: str) -> float:
    """The words of an answer as the verifier counts them, at most `MOST`."""
    return float(sum(met(text, {"kind": "min_words", "n": n}) for n in range(1, MOST + 1)))


def pair(row: dict[str, Any], answers: Sequence[str]) -> dict[str, Any] | None:
    """The best answer against a random one that is worse by `GAP` or more, as a row of a preference file, if any."""
    responses = [ScoredResponse(text, score(text)) for text in dict.fromkeys(answers) if score(text)]
    best = max((response.score for response in responses), default=0.0)
    apart = [response for response in responses if response.score == best or response.score <= best - GAP]
    places = pair_up(apart, "best-random", random.Random(f"{SEED} {row['question_id']}"))
    if not places:
        return None
    chosen, rejected = (apart[place] for place in places[0])
    return {
        "id": row["question_id"], "prompt": [{"role": "user", "content": row["turns"][0]}], "chosen": chosen.text,
        "rejected": rejected.text, "score_chosen": chosen.score, "score_rejected": rejected.score,
    }  # fmt: skip


def write(name: str, rows: Sequence[dict[str, Any]]) -> None:
    """Rows as JSON Lines."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (FOLDER / name).write_text(text, encoding="utf-8")


def main() -> None:
    """Make the splits that are asked for, both unless one is named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("split", nargs="*", choices=[*SPLITS, []], default=[])
    for split in parser.parse_args().split or SPLITS:
        rows = prompts(split)
        made = [pair(row, answers) for row, answers in zip(rows, sample(rows), strict=True)]
        for part, places in parts(split).items():
            if part != "train":
                write(f"detail_{part}_prompts.jsonl", rows[places])
            write(f"detail_{part}_pairs.jsonl", [row for row in made[places] if row is not None])


if __name__ == "__main__":
    main()
