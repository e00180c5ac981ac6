"""The gate's model, pairs and questions, from seeds: the study's task with responses that also leave words out.

Run from the repository's root: python benchmarks/gate/make.py [--out benchmarks/gate]

What it writes is committed beside it, and need not be made again: another CPU rounds the pretraining differently, and
would make another model, which no baseline could be compared with. It takes two minutes on one core.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "study"))

from pretrain import COUNTING, GOAL_SHOWN, make_tokenizer, pretrain  # noqa: E402
from task import ASKED, BEST, SHUNNED, WORDS, constraints, draw_words, prompt_text  # noqa: E402

from radpo.preferences.goals import attribute_goals, attributes_text, condition  # noqa: E402

PAIRS, HELDOUT, QUESTIONS = 1000, 240, 2000
ATTRIBUTES = ("opening", "middle", "ending")
"""A prompt's nine words in threes; each is scored 1 + how many of its words a response has."""
ATTRIBUTE_SCALE = (1.0, 4.0)
ATTRIBUTES_GOAL = attributes_text(ATTRIBUTE_SCALE)
STOPPING = 0.5
"""Share of the responses that leave out the words which they do not have, instead of saying another in their place."""

Words = tuple[str, ...]


def main() -> None:
    """Write the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    write_pairs(PAIRS, "train", out / "train.jsonl.gz")
    write_pairs(HELDOUT, "heldout", out / "heldout.jsonl.gz")
    write_questions(QUESTIONS, out / "questions.jsonl.gz")
    tokenizer = make_tokenizer(
        [*(name.capitalize() for name in ATTRIBUTES), "score"], [ATTRIBUTES_GOAL.partition("{g}")[0].rstrip()]
    )
    pretrain(out / "model", seed=0, steps=800, tokenizer=tokenizer, draw=draw_conversation, progress=show)


def show(done: int, steps: int, loss: float) -> None:
    if done % 100 == 0:
        print(f"{done} of {steps} steps: {loss:.3f}", file=sys.stderr, flush=True)


def say(words: Words, kept: set[str], chance: random.Random) -> Words:
    """A response that has the `kept` words of a prompt; the others are left out, or another is said in their place."""
    others = chance.sample([word for word in WORDS if word not in words], ASKED)
    if kept and chance.random() < STOPPING:
        return tuple(word for word in words if word in kept)
    return tuple(word if word in kept else others[place] for place, word in enumerate(words))


def speak(words: Words, chance: random.Random) -> Words:
    """A response as the untrained speaker gives it, with a care of its own from 0 to 1."""
    care = chance.random()
    return say(words, {word for word in words if chance.random() < (0.1 if word in SHUNNED else care)}, chance)


def score(words: Words, response: Words) -> int:
    """1 + how many of the prompt's words the response has, 1 to 10."""
    return 1 + len(set(words) & set(response))


def attributes(words: Words, response: Words) -> dict[str, int]:
    """The same for each three of the words, 1 to 4."""
    third = len(words) // len(ATTRIBUTES)
    return {
        name: 1 + len(set(words[place * third : (place + 1) * third]) & set(response))
        for place, name in enumerate(ATTRIBUTES)
    }


def draw_conversation(chance: random.Random) -> tuple[list[dict[str, Any]], str]:
    """What the untrained model is shown: half of the time with goals that say nothing of the answer."""
    if chance.random() < COUNTING:
        word, times = chance.choice(WORDS), chance.randint(1, ASKED)
        asked, answer = f"Say {word} {times} times", " ".join([word] * times)
    else:
        words = draw_words(chance)
        asked, answer = prompt_text(words), " ".join(speak(words, chance))
    messages = [{"role": "user", "content": asked}]
    if chance.random() >= GOAL_SHOWN:
        return messages, answer
    if chance.random() < 0.5:
        return condition(messages, chance.randint(1, BEST), "system"), answer
    goals = {name: chance.randint(1, int(ATTRIBUTE_SCALE[1])) for name in ATTRIBUTES}
    told = ATTRIBUTES_GOAL.replace("{g}", attribute_goals(goals))
    return [{"role": "system", "content": told}, *messages], answer


def draw_pair(words: Words, chance: random.Random) -> tuple[Words, Words]:
    """Two responses of different scores, every two scores being as likely; the better one comes first."""
    high, low = chance.choice([(high, low) for high in range(1, BEST + 1) for low in range(1, high)])
    better, worse = (say(words, set(chance.sample(words, wanted - 1)), chance) for wanted in (high, low))
    return better, worse


def write_pairs(count: int, name: str, path: Path) -> None:
    """Scored pairs as radpo reads them, a prompt each."""

    def rows() -> Iterable[dict[str, Any]]:
        for number in range(count):
            chance = random.Random(f"gate/{name}/{number}")
            words = draw_words(chance)
            row: dict[str, Any] = {"id": f"{name}-{number:04d}", "prompt": prompt_text(words)}
            for side, response in zip(("chosen", "rejected"), draw_pair(words, chance), strict=True):
                row |= {side: " ".join(response), f"score_{side}": score(words, response)}
                row[f"attributes_{side}"] = attributes(words, response)
            yield row

    _write(rows(), path)


def write_questions(count: int, path: Path) -> None:
    """Prompts to answer, each with the constraints that its answers are scored by."""

    def rows() -> Iterable[dict[str, Any]]:
        for number in range(count):
            words = draw_words(random.Random(f"gate/questions/{number}"))
            asked = {"turns": [prompt_text(words)], "constraints": [constraints(words)]}
            yield {"question_id": f"q{number:04d}", "category": "words", **asked}

    _write(rows(), path)


def _write(rows: Iterable[dict[str, Any]], path: Path) -> None:
    """Gzipped JSON lines, the same bytes on any day."""
    with path.open("wb") as stream, gzip.GzipFile("", "wb", fileobj=stream, mtime=0) as packed:
        packed.write("".join(json.dumps(row) + "\n" for row in rows).encode())


if __name__ == "__main__":
    main()
