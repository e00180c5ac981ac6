"""The testbed's task: prompts, responses of every quality and their exact scores, from a seed.

A prompt lists nine words, and a response says nine words. Its score is 1 + how many of the prompt's words are in it, a
whole number from 1 to 10: what `radpo.judges.verifier` gives for nine `keyword` constraints. Two thirds of the words
the untrained speaker says with more or less care, which is a habit that alignment can strengthen; the others it hardly
ever says, so that the best scores take learning what it could not do.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WORDS = (  # noqa: SIM905
    "apple barn bell bird boat book bowl brick broom cabin cake camp candle card chair clay cliff cloud coat coin "
    "comb corn deer desk dish door drum duck farm fish flag flute fox frog gate glove goat hat hill horn jar kite "
    "lamp leaf moon nest oak pear pond road rose ship sock spoon star tent wolf wool"
).split()
SHUNNED = frozenset(WORDS[::3])
ASKED = 9
BEST = ASKED + 1


@dataclass(frozen=True)
class Pair:
    """A prompt's words, two responses to it and their scores, of which the first is the higher one."""

    words: tuple[str, ...]
    responses: tuple[tuple[str, ...], tuple[str, ...]]
    scores: tuple[int, int]


def prompt_text(words: Iterable[str]) -> str:
    """What the user says."""
    return f"Say these words: {' '.join(words)}"


def constraints(words: Iterable[str]) -> list[dict[str, str]]:
    """What the verifier checks a response to these words by."""
    return [{"kind": "keyword", "word": word} for word in words]


def score(words: Iterable[str], response: Iterable[str]) -> int:
    """1 + how many of the prompt's words the response has."""
    return 1 + len(set(words) & set(response))


def draw_words(chance: random.Random) -> tuple[str, ...]:
    """The words of a prompt, all different."""
    return tuple(chance.sample(WORDS, ASKED))


def draw_response(words: tuple[str, ...], wanted: int, chance: random.Random) -> tuple[str, ...]:
    """A response of a given score: the prompt's words in their order, at random places another word instead."""
    return _said(words, set(chance.sample(words, wanted - 1)), chance)


def speak(words: tuple[str, ...], chance: random.Random) -> tuple[str, ...]:
    """A response as the untrained speaker gives it, with a care of its own from 0 to 1."""
    care = chance.random()
    return _said(words, {w for w in words if chance.random() < (0.1 if w in SHUNNED else care)}, chance)


def _said(words: tuple[str, ...], kept: set[str], chance: random.Random) -> tuple[str, ...]:
    others = chance.sample([word for word in WORDS if word not in words], ASKED)
    return tuple(word if word in kept else others[place] for place, word in enumerate(words))


def draw_pair(words: tuple[str, ...], chance: random.Random, *, best: int = BEST) -> Pair:
    """Two responses of different scores up to `best`, every two scores being as likely."""
    scores = chance.choice([(high, low) for high in range(1, best + 1) for low in range(1, high)])
    first, second = (draw_response(words, wanted, chance) for wanted in scores)
    return Pair(words, (first, second), scores)


def rated(pair: Pair, sd: float, chance: random.Random) -> Pair | None:
    """The pair as a noisy rater has it: each score plus normal noise, rounded, within 1 to 10; None where they tie.

    The response that the rater scores higher comes first, so noise turns preferences round as well as moving goals.
    """
    if sd == 0:
        return pair
    noisy = [min(max(round(value + chance.gauss(0, sd)), 1), BEST) for value in pair.scores]
    if noisy[0] == noisy[1]:
        return None
    order = (0, 1) if noisy[0] > noisy[1] else (1, 0)
    first, second = (pair.responses[place] for place in order)
    return Pair(pair.words, (first, second), (noisy[order[0]], noisy[order[1]]))


def draw_pairs(count: int, seed: str, *, best: int = BEST, noise: float = 0.0) -> list[Pair]:
    """So many pairs, a prompt each. Pairs of one seed differ between noises only in what the rater says of them."""
    pairs: list[Pair] = []
    number = 0
    while len(pairs) < count:
        chance = random.Random(f"{seed}/{number}")
        pair = rated(draw_pair(draw_words(chance), chance, best=best), noise, chance)
        number += 1
        if pair is not None:
            pairs.append(pair)
    return pairs


def write_pairs(pairs: Iterable[Pair], path: Path) -> None:
    """Scored pairs as radpo reads them."""
    _write(
        path,
        (
            {
                "id": f"{path.stem}-{number:05d}",
                "prompt": [{"role": "user", "content": prompt_text(pair.words)}],
                "chosen": " ".join(pair.responses[0]),
                "rejected": " ".join(pair.responses[1]),
                "score_chosen": pair.scores[0],
                "score_rejected": pair.scores[1],
            }
            for number, pair in enumerate(pairs)
        ),
    )


def write_questions(count: int, seed: str, path: Path) -> None:
    """Prompts to answer, each with the constraints that its answers are scored by."""

    def rows() -> Iterable[dict[str, Any]]:
        for number in range(count):
            words = draw_words(random.Random(f"{seed}/{number}"))
            yield {
                "question_id": f"{path.stem}-{number:04d}",
                "category": "words",
                "turns": [prompt_text(words)],
                "constraints": [constraints(words)],
            }

    _write(path, rows())


def _write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
