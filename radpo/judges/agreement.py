"""Measuring a judge: its agreement with reference verdicts, and its biases."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from radpo.core.errors import DataError
from radpo.core.json_rows import read_rows
from radpo.core.progress import Progress, no_progress
from radpo.judges.base import CompareRequest, Judge
from radpo.judges.quality import agreement, bias, both_orders, spearman, verdict
from radpo.judges.record import judge_notes, usage_of


@dataclass(frozen=True)
class JudgedPair:
    """Two responses and the reference verdict on them, on the scale of preferences from 1 to 2; `subset` may be ''."""

    request: CompareRequest
    preference: float
    subset: str


def load_verdicts(path: Path) -> list[JudgedPair]:
    """Read pairs with verdicts (`.jsonl` or `.json`, gzipped or not), several verdicts on one pair as their majority.

    alpaca-eval's rows have instruction, output_1, output_2 and preference (0 or 1.5 for neither); RewardBench's prompt,
    chosen and rejected (and subset). RewardBench's chosen stands first in every other row, so that a judge that always
    takes the first is not taken for a good one.

    Raises:
        DataError: a row is malformed.
    """
    verdicts: dict[tuple[str, str, str, str], list[float]] = {}
    for number, (place, row) in enumerate(read_rows(path)):
        if all(isinstance(row.get(name), str) for name in ("instruction", "output_1", "output_2")):
            preference = row.get("preference")
            if isinstance(preference, bool) or not isinstance(preference, int | float):
                raise DataError(f"{place}: preference {str(preference)[:40]!r} is no number")
            if preference != 0 and not 1 <= preference <= 2:
                raise DataError(f"{place}: preference {preference} is neither 0 nor from 1 to 2")
            key = (_prompt(row["instruction"]) or "", row["output_1"], row["output_2"], str(row.get("dataset") or ""))
            verdicts.setdefault(key, []).append(1.5 if preference == 0 else float(preference))
        elif (prompt := _prompt(row.get("prompt"))) is not None and all(
            isinstance(row.get(name), str) for name in ("chosen", "rejected")
        ):
            first, second = (row["chosen"], row["rejected"]) if number % 2 == 0 else (row["rejected"], row["chosen"])
            key = (prompt, first, second, str(row.get("subset") or ""))
            verdicts.setdefault(key, []).append(1.0 if number % 2 == 0 else 2.0)
        else:
            raise DataError(
                f"{place}: a judged pair needs instruction, output_1, output_2 and preference, "
                "or prompt, chosen and rejected, all texts (a prompt may be a list of messages)"
            )
    if not verdicts:
        raise DataError(f"{path}: no pairs in it")
    return [
        JudgedPair(CompareRequest(_messages(prompt), first, second), _majority(given), subset)
        for (prompt, first, second, subset), given in verdicts.items()
    ]


def _prompt(given: Any) -> str | None:
    """A prompt, a text or a list of messages, as JSON that pairs are told apart by; None for anything else."""
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    if not isinstance(given, list) or not given:
        return None
    for message in given:
        if not isinstance(message, dict) or not all(isinstance(message.get(key), str) for key in ("role", "content")):
            return None
    return json.dumps([{key: message[key] for key in ("role", "content")} for message in given])


def _messages(prompt: str) -> list[dict[str, str]]:
    found: list[dict[str, str]] = json.loads(prompt)
    return found


def measure(pairs: Sequence[JudgedPair], judge: Judge, progress: Progress = no_progress) -> dict[str, Any]:
    """A judge's agreement with the verdicts over both orders, by subset too, and its biases, beside the verdicts' own.

    Agreement and kappa are of the verdicts on the pairs as given; a preference that depends on the order shows in
    `swap_agreement`.

    Raises:
        DataError, ServiceError: as the judge.
    """
    requests = [pair.request for pair in pairs]
    given, swapped = both_orders(judge, requests, progress)
    reference = [pair.preference for pair in pairs]
    preferences = [comparison.preference for comparison in given]
    whole = agreement(preferences, reference)
    if whole is None:
        raise DataError(
            f"judge {judge.name}: not one of {len(pairs)} pairs has a verdict of it: {given[0].reason[:200]}"
        )
    subsets = sorted({pair.subset for pair in pairs} - {""})
    by_subset: Mapping[str, Any] = {
        name: asdict(found)
        for name in subsets
        if (found := agreement(*_of_subset(pairs, preferences, name))) is not None
    }
    longer = [len(request.second) - len(request.first) for request in requests]
    usage = usage_of(judge)
    return {
        "judge": judge.name,
        **asdict(whole),
        **{name: value for name, value in asdict(bias(requests, given, swapped)).items() if name != "n"},
        "reference_length_correlation": spearman(reference, longer),
        "by_subset": by_subset,
        **({} if usage is None else {"usage": usage}),
        "notes": list(judge_notes(judge, "judge")),
    }


def _of_subset(
    pairs: Sequence[JudgedPair], preferences: Sequence[float | None], name: str
) -> tuple[list[float | None], list[float | None]]:
    chosen = [place for place, pair in enumerate(pairs) if pair.subset == name]
    return [preferences[place] for place in chosen], [pairs[place].preference for place in chosen]


def _majority(preferences: Sequence[float]) -> float:
    """The one preference there is, or the verdict that most gave; neither where two lead alike."""
    if len(preferences) == 1:
        return preferences[0]
    ranked = Counter(map(verdict, preferences)).most_common(2)
    tied = len(ranked) == 2 and ranked[0][1] == ranked[1][1]
    return 1.5 if tied or ranked[0][0] == 0 else float(ranked[0][0])
