"""Decontamination: the evaluation prompts that training prompts repeat.

The criterion is that of Tülu 3 (arXiv 2411.15124, section 3.2). A word of an evaluation prompt counts as covered where
it is part of an 8-gram that the training prompt holds too; an evaluation prompt overlaps with a training prompt that
covers more than half of its words. Two things differ: words are runs of letters and digits instead of spaCy's tokens,
and system messages are searched beside the user's. Text written without spaces between words has few words, so for it
the criterion is coarse.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from radpo.core.errors import DataError
from radpo.core.lines import lines, whole
from radpo.core.yaml_text import read_yaml

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Numbers = npt.NDArray[np.uint64]
    Places = npt.NDArray[np.intp]

NGRAM = 8
"""Words in a row that count as a match."""
COVERED = 0.5
"""An evaluation prompt overlaps where more than this share of its words is covered."""
EXAMPLES = 5
"""So many examples of anything found are named."""
FIELDS = ("turns", "instruction", "question", "Question", "prompt", "input")
"""Where an evaluation prompt is looked for, the first that a row has; `context` (MuSR's story) goes before it."""
ENDINGS = (".jsonl", ".jsonl.gz", ".json", ".csv")

_WORD = re.compile(r"\w+")
# An odd number with well-mixed bits (2^64 over the golden ratio), so that different 8-grams seldom share a hash.
_MULTIPLIER = 0x9E3779B97F4A7C15


@dataclass(frozen=True)
class Overlap:
    """What a training set shares with one evaluation set.

    Args:
        name: the evaluation set's.
        prompts: how many prompts it has.
        pairs: training pairs whose prompt overlaps with at least one of them.
        prompts_hit: evaluation prompts that at least one training prompt overlaps with.
        examples: ids of the first such pairs, each with the place (from 0) of an evaluation prompt that it repeats.
    """

    name: str
    prompts: int
    pairs: int
    prompts_hit: int
    examples: tuple[tuple[str, int], ...]


def load_evaluation_prompts(path: Path) -> list[str]:
    """The distinct prompts of an evaluation set, in the order of its files and rows.

    Args:
        path: a .jsonl, .jsonl.gz, .json (a list, or an object with the list `examples`) or .csv file, or a folder of
            such files. A row's prompt is the first of FIELDS that it has: text, a list of turns (of which the first is
            taken), or ARC's object with its `stem`; a row without any is passed over.

    Raises:
        DataError: a file cannot be read, or none of its rows has a prompt; the message names the file.
    """
    files = [path]
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.is_file() and file.name.endswith(ENDINGS))
        if not files:
            raise DataError(f"{path}: the folder holds no {', '.join(ENDINGS)} file")
    return list(dict.fromkeys(text for file in files for text in _prompts(file)))


def load_evaluation_sets(given: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """The prompts of evaluation sets by name, and the names of sets whose files are not there.

    Args:
        given: NAME=PATH of one set, which has to be there, or a YAML file that maps names to paths (beginning at its
            own folder), of which some may be missing.

    Raises:
        DataError: an item is neither, or a file cannot be read.
    """
    sets, missing = {}, []
    for item in given:
        name, equals, place = item.partition("=")
        if equals and name and place:
            sets[name] = load_evaluation_prompts(Path(place))
            continue
        if not item.endswith((".yaml", ".yml")):
            raise DataError(f"--against {item}: write NAME=PATH, or a YAML file that maps names to paths")
        for name, path in _listed(Path(item)).items():
            if path.exists():
                sets[name] = load_evaluation_prompts(path)
            else:
                missing.append(name)
    return sets, missing


def _listed(path: Path) -> dict[str, Path]:
    """The sets that a YAML file lists."""
    document = read_yaml(path)
    if not isinstance(document, dict) or not all(isinstance(place, str) for place in document.values()):
        raise DataError(f"{path}: a list of evaluation sets maps names to paths")
    return {str(name): path.parent / place for name, place in document.items()}


def words(text: str) -> list[str]:
    """Runs of letters and digits, case folded: folding, unlike lower case, does not depend on neighbouring letters."""
    return _WORD.findall(text.casefold())


def searched_text(prompt: Iterable[Mapping[str, str]]) -> str:
    """The part of a training prompt that is searched: what the user and the system say, and not earlier answers."""
    return "\n".join(message["content"] for message in prompt if message["role"] in ("user", "system"))


class EvaluationPrompts:
    """An index of evaluation prompts by their 8-grams.

    Words become numbers and 8-grams 64-bit hashes in one sorted array, about 30 bytes for each word of the evaluation
    sets; every hit of a hash is compared word by word.

    Args:
        sets: the prompts of every evaluation set, by its name.
    """

    def __init__(self, sets: Mapping[str, Sequence[str]]) -> None:
        import numpy as np

        self.sizes = {name: len(texts) for name, texts in sets.items()}
        self._owners = [(name, place) for name, texts in sets.items() for place in range(len(texts))]
        self._vocabulary: dict[str, int] = {}
        self._short: dict[tuple[str, ...], list[int]] = {}
        long: list[list[int]] = []
        lengths = np.zeros(len(self._owners), np.intp)
        for prompt, text in enumerate(text for texts in sets.values() for text in texts):
            found = words(text)
            if len(found) >= NGRAM:
                lengths[prompt] = len(found)
                long.append([self._vocabulary.setdefault(word, len(self._vocabulary) + 1) for word in found])
            elif found:
                self._short.setdefault(tuple(found), []).append(prompt)
        self._lengths = lengths
        self._words = np.fromiter((word for found in long for word in found), np.uint64, int(lengths.sum()))
        self._prompt_at = np.repeat(np.arange(len(self._owners)), lengths)
        # An 8-gram begins wherever the word seven further on still belongs to the same prompt.
        starts = np.flatnonzero(self._prompt_at[: 1 - NGRAM] == self._prompt_at[NGRAM - 1 :])
        hashes = _hashes(self._words)[starts]
        order = np.argsort(hashes)
        self._hashes, self._starts = hashes[order], starts[order]

    def overlaps(self, text: str) -> dict[str, list[int]]:
        """The evaluation prompts that a training prompt overlaps with: their places from 0, by set.

        An evaluation prompt of fewer than 8 words overlaps only where it is, word for word, the whole text.

        Args:
            text: the training prompt's text, as `searched_text` gives it.
        """
        asked = words(text)
        hits = self._short.get(tuple(asked), []) if len(asked) < NGRAM else self._covered(asked)
        found: dict[str, list[int]] = {}
        for name, place in (self._owners[hit] for hit in hits):
            found.setdefault(name, []).append(place)
        return found

    def _covered(self, asked: Sequence[str]) -> list[int]:
        """The long evaluation prompts of which more than half is covered, in their order."""
        import numpy as np

        numbers = np.array([self._vocabulary.get(word, 0) for word in asked], np.uint64)
        hashes, at = np.unique(_hashes(numbers), return_index=True)
        first = np.searchsorted(self._hashes, hashes, "left")
        count = np.searchsorted(self._hashes, hashes, "right") - first
        if not count.any():
            return []
        # Row by row: where an evaluation prompt's 8-gram begins, and where the training prompt's of the same hash does.
        within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        theirs = self._starts[np.repeat(first, count) + within][:, None] + np.arange(NGRAM)
        ours = np.repeat(at, count)[:, None] + np.arange(NGRAM)
        same = (self._words[theirs] == numbers[ours]).all(axis=1)
        covered = np.bincount(self._prompt_at[np.unique(theirs[same])], minlength=len(self._lengths))
        hits: list[int] = np.flatnonzero(covered > COVERED * self._lengths).tolist()
        return hits


class OverlapTally:
    """Counts over a training set what an index finds in its prompts."""

    def __init__(self, index: EvaluationPrompts) -> None:
        self._index = index
        self._pairs = dict.fromkeys(index.sizes, 0)
        self._hit: dict[str, set[int]] = {name: set() for name in index.sizes}
        self._examples: dict[str, list[tuple[str, int]]] = {name: [] for name in index.sizes}

    def add(self, pair_id: str, prompt: Iterable[Mapping[str, str]]) -> None:
        """Look a training pair's prompt up."""
        for name, places in self._index.overlaps(searched_text(prompt)).items():
            self._pairs[name] += 1
            self._hit[name].update(places)
            if len(self._examples[name]) < EXAMPLES:
                self._examples[name].append((pair_id, places[0]))

    def overlaps(self) -> tuple[Overlap, ...]:
        """What was found so far, for every evaluation set of the index."""
        return tuple(
            Overlap(name, size, self._pairs[name], len(self._hit[name]), tuple(self._examples[name]))
            for name, size in self._index.sizes.items()
        )


def _hashes(numbers: Numbers) -> Numbers:
    """A hash of every 8 words in a row: a polynomial in the words' numbers, modulo 2^64. Shape (n,) to (n - 7,)."""
    import numpy as np

    windows = max(len(numbers) - NGRAM + 1, 0)
    hashes = np.zeros(windows, np.uint64)
    for place in range(NGRAM):
        hashes = hashes * np.uint64(_MULTIPLIER) + numbers[place : place + windows]
    return hashes


def _prompts(file: Path) -> list[str]:
    found = [text for row in _rows(file) if (text := _prompt(row))]
    if not found:
        raise DataError(f"{file}: no evaluation prompts; none of its rows has text in {', '.join(FIELDS)}")
    return found


def _prompt(row: Any) -> str:
    """A row's prompt, empty where it has none."""
    if not isinstance(row, dict):
        return ""
    text = next((text for field in FIELDS if (text := _text(row.get(field)))), "")
    context = _text(row.get("context"))
    return f"{context}\n{text}" if text and context else text


def _text(value: Any) -> str:
    """The text of a field: itself, a message's `content`, a question's `stem`, or the first turn's."""
    if isinstance(value, list):
        return _text(value[0]) if value and not isinstance(value[0], list) else ""
    if isinstance(value, dict):
        value = value.get("content", value.get("stem"))
    return value.strip() if isinstance(value, str) else ""


def _rows(file: Path) -> Iterator[Any]:
    try:
        if file.name.endswith((".jsonl", ".jsonl.gz")):
            yield from _json_lines(file)
        elif file.suffix == ".json":
            document = json.loads(_whole(file))
            rows = document.get("examples") if isinstance(document, dict) else document
            if not isinstance(rows, list):
                raise DataError(f"{file}: neither a list of objects nor an object with the list `examples`")
            yield from rows
        elif file.suffix == ".csv":
            with file.open(encoding="utf-8-sig", newline="") as stream:
                yield from csv.DictReader(lines(stream, str(file)))
        elif not file.exists():
            raise DataError(f"{file}: no such file")
        else:
            raise DataError(f"{file}: unknown format; give a {', '.join(ENDINGS)} file, or a folder of them")
    except FileNotFoundError:
        raise DataError(f"{file}: no such file") from None
    except (EOFError, OSError, zlib.error, csv.Error, ValueError, RecursionError) as error:
        raise DataError(f"{file}: cannot be read ({error}); it is damaged or not what its name says") from error


def _whole(file: Path) -> str:
    with file.open(encoding="utf-8-sig") as stream:
        return whole(stream, str(file))


def _json_lines(file: Path) -> Iterator[Any]:
    with gzip.open(file, "rb") if file.suffix == ".gz" else file.open("rb") as stream:
        for number, line in enumerate(lines(cast(BinaryIO, stream), str(file)), start=1):
            try:
                row = json.loads(line) if line.strip() else None
            except (ValueError, RecursionError):
                raise DataError(f"{file}, line {number}: not JSON; every line must be one object in UTF-8") from None
            if row is not None:
                yield row
