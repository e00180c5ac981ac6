"""Make the bundled prompts: everyday subjects x checkable constraints, seeded, training and held-out subjects disjoint.

Run from the repository's root: python benchmarks/data/make_prompts.py
Writes train_prompts.jsonl and heldout_prompts.jsonl beside this file.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

SEED = 20410
TRAIN_PROMPTS, HELDOUT_PROMPTS = 340, 96

TASKS = {
    "description": "Describe {x}.",
    "benefit": "Name one benefit of {x}.",
    "tip": "Give a beginner a tip about {x}.",
    "story": "Tell a very short story about {x}.",
    "slogan": "Write a slogan for {x}.",
    "explanation": "Explain why people like {x}.",
    "memory": "Make up a childhood memory of {x}.",
    "advice": "Persuade a friend to try {x}.",
}
TRAIN_SUBJECTS = (
    "walking|green tea|a rainy day|bicycles|public libraries|sourdough bread|a lighthouse|gardening|chess|night trains|"
    "old maps|swimming|a small harbour|honey|board games|wool socks|thunderstorms|bird watching|street markets|violins|"
    "a tidy desk|mountain huts|pancakes|bus journeys|jigsaw puzzles|campfires|sunflowers|origami|running|lemonade|"
    "cooking for friends|winter mornings|an orchard|cats|pocket notebooks|rowing|baking cakes|stargazing|flea markets|"
    "wooden toys|choirs|a quiet beach|hand-written letters|mushroom soup|tree houses|museums|juggling|kites|"
    "oat porridge|candles|knitting|sailing boats|ice skating|tomatoes|waterfalls|fresh snow|picnics|photography|"
    "hammocks|a village fair|crossword puzzles|yoga|apple pie|ferries|folk dancing"
)
HELDOUT_SUBJECTS = (
    "a windmill|strawberries|table tennis|fountain pens|camping|old bridges|hot chocolate|drums|forest paths|dogs|"
    "early mornings|pottery|river cruises|garden gnomes|popcorn|fireworks|cycling to work|radio plays|hedgehogs|ramen"
)
KEYWORDS = ("always", "today", "simple", "together", "because", "never", "small", "favourite")
FORBIDDEN = ("good", "very", "great", "is")
FIRST_WORDS = ("Imagine", "Honestly", "Once", "Sometimes", "People")
ENDINGS = ("Try it.", "That is all.", "The end.", "Why not?")
NUMBERS = {1: "one", 2: "two", 3: "three", 4: "four"}

# Kinds of one group exclude one another; so do the pairs in CLASHES, which no answer could meet at once. A small model
# meets some kinds often and some hardly ever: with the frequent ones drawn more often, scores fill the whole scale.
GROUPS: dict[str, tuple[str, ...]] = {
    "length": ("max_words", "max_words", "min_words"),
    "casing": ("lowercase", "uppercase"),
    "shape": ("sentences", "sentences", "sentences", "sentences", "bullets", "json_keys", "quoted", "title"),
    "start": ("first_word",),
    "end": ("ends_with",),
    "words": ("keyword", "forbidden", "forbidden"),
    "signs": ("no_commas", "no_commas", "number"),
}
WEIGHTS = {"length": 8, "casing": 1, "shape": 4, "start": 1, "end": 1, "words": 8, "signs": 8}
CLASHES = [{"json_keys", kind} for kind in ("first_word", "ends_with", "lowercase", "uppercase")] + [
    {"forbidden", "ends_with"},
    {"bullets", "ends_with"},
    {"bullets", "first_word"},
    {"quoted", "ends_with"},
    {"title", "first_word"},
]


def constraint(kind: str, rng: random.Random) -> tuple[dict[str, Any], str]:
    """A constraint of a kind, and the sentence that asks for it."""
    if kind == "max_words":
        n = rng.choice((25, 35, 45))
        return {"kind": kind, "n": n}, rng.choice((f"Use at most {n} words.", f"Keep it under {n + 1} words."))
    if kind == "min_words":
        n = rng.choice((10, 15, 20))
        return {"kind": kind, "n": n}, rng.choice((f"Use at least {n} words.", f"Write {n} words or more."))
    if kind == "sentences":
        n = rng.choice((1, 2, 3))
        plural = "sentence" if n == 1 else "sentences"
        return {"kind": kind, "n": n}, f"Answer in exactly {NUMBERS[n]} {plural}."
    if kind == "bullets":
        n = rng.choice((2, 3, 4))
        return {"kind": kind, "n": n}, f'Answer as a list of exactly {NUMBERS[n]} lines, each starting with "- ".'
    if kind == "json_keys":
        return {"kind": kind, "keys": ["answer"]}, 'Answer with a JSON object with the single key "answer".'
    if kind in ("keyword", "forbidden"):
        word = rng.choice(KEYWORDS if kind == "keyword" else FORBIDDEN)
        asked = f'Include the word "{word}".' if kind == "keyword" else f'Do not use the word "{word}".'
        return {"kind": kind, "word": word}, asked
    if kind == "first_word":
        word = rng.choice(FIRST_WORDS)
        return {"kind": kind, "word": word}, rng.choice((f'Start with the word "{word}".', f'Begin with "{word}".'))
    if kind == "ends_with":
        text = rng.choice(ENDINGS)
        return {"kind": kind, "text": text}, f'End with the words "{text}"'
    fixed = {
        "lowercase": ("Use only small letters.", "Write everything in lowercase."),
        "uppercase": ("Use only capital letters.", "Write everything in uppercase."),
        "quoted": ("Put your whole answer in double quotes.",),
        "title": ("Begin with a title in double angle brackets like <<this>>.",),
        "no_commas": ("Do not use commas.", "Use no commas."),
        "number": ("Include a number in digits.",),
    }
    return {"kind": kind}, rng.choice(fixed[kind])


def kinds(rng: random.Random) -> list[str]:
    """Three to five kinds of constraint that an answer can meet together."""
    wanted = rng.choice((3, 4, 4, 5))
    while True:
        groups = set(rng.choices(sorted(GROUPS), [WEIGHTS[group] for group in sorted(GROUPS)], k=wanted))
        drawn = [rng.choice(GROUPS[group]) for group in sorted(groups)]
        if len(groups) == wanted and not any(clash <= set(drawn) for clash in CLASHES):
            rng.shuffle(drawn)
            return drawn


def prompts(subjects: list[str], count: int, prefix: str, rng: random.Random) -> list[dict[str, Any]]:
    """`count` different prompts on the subjects, as rows of a questions file."""
    rows: list[dict[str, Any]] = []
    combinations = rng.sample([(task, subject) for task in TASKS for subject in subjects], count)
    for number, (task, subject) in enumerate(combinations):
        drawn = [constraint(kind, rng) for kind in kinds(rng)]
        text = " ".join([TASKS[task].format(x=subject), *(asked for _, asked in drawn)])
        rows.append(
            {
                "question_id": f"{prefix}-{number:03d}",
                "category": task,
                "turns": [text],
                "constraints": [[checked for checked, _ in drawn]],
            }
        )
    return rows


def main() -> None:
    """Write both files."""
    rng = random.Random(SEED)
    folder = Path(__file__).parent
    for name, subjects, count in (
        ("train", TRAIN_SUBJECTS, TRAIN_PROMPTS),
        ("heldout", HELDOUT_SUBJECTS, HELDOUT_PROMPTS),
    ):
        rows = prompts(subjects.split("|"), count, name, rng)
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{name}_prompts.jsonl").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
