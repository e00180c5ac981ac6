"""A judge's scores of a model's samples, for on-policy preferences and for analyses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from radpo.core.progress import Progress, no_progress
from radpo.core.reasoning import split_reasoning
from radpo.judges.base import GradeRequest, Judge
from radpo.preferences.onpolicy import read_samples, write_in_chunks

if TYPE_CHECKING:
    import pandas as pd

    from radpo.preferences.questions import Question


def score_samples(
    samples: Path,
    judge: Judge,
    out: Path,
    *,
    chunk: int = 64,
    made_by: str = "",
    progress: Progress = no_progress,
) -> None:
    """Have a judge grade every sample; `out` gets the samples' lines with `score`, `reason` and `judge` added.

    What a model thought before it answered is not judged. Works chunk by chunk and resumes after an interruption, as
    `radpo.preferences.onpolicy.sample` does.

    Args:
        made_by: what the scores depend on besides the samples and the judge's name, such as its settings.

    Raises:
        DataError: the samples file is malformed, or a sample lacks what the judge needs.
        ServiceError: the judge could not be reached; what it has graded by then is kept for the next call.
    """
    rows = list(read_samples(samples, ("prompt_id", "prompt", "response")))
    requests = [
        GradeRequest(
            row["prompt"], split_reasoning(row["response"]).answer, {"constraints": row.get("constraints", [])}
        )
        for row in rows
    ]

    expect = getattr(judge, "expect", None)

    def graded(start: int) -> list[dict[str, Any]]:
        if expect is not None:
            expect(len(rows), begun=start > 0)
        batch = slice(start, start + chunk)
        grades = judge.grade(requests[batch], lambda done, _: progress(start + done, len(rows)))
        return [
            {**row, "score": grade.score, "reason": grade.reason, "judge": judge.name}
            for row, grade in zip(rows[batch], grades, strict=True)
        ]

    keys = [(row["prompt_id"], row.get("sample")) for row in rows]
    run = json.dumps([rows, judge.name, chunk, made_by], sort_keys=True)
    write_in_chunks(out, run, keys, chunk, graded, progress)


def with_scores(samples: pd.DataFrame, questions: Sequence[Question], judge: Judge, progress: Progress) -> pd.DataFrame:
    """The samples of `radpo.models.samples` with `prompt`, and the judge's `score` (NaN where it gave none).

    What a model thought before it answered is not judged; `reasoned` says where there was any.
    """
    known = {question.question_id: question for question in questions}
    asked = [known[prompt_id] for prompt_id in samples["prompt_id"]]
    replies = [split_reasoning(text) for text in samples["text"]]
    grades = judge.grade(
        [
            GradeRequest(
                [{"role": "user", "content": question.turns[0]}],
                reply.answer,
                {"constraints": list(question.constraints[0])},
            )
            for question, reply in zip(asked, replies, strict=True)
        ],
        progress,
    )
    return samples.assign(
        prompt=[question.turns[0] for question in asked],
        score=[float("nan") if grade.score is None else grade.score for grade in grades],
        reasoned=[reply.reasoning is not None for reply in replies],
    )


def samples_notes(samples: pd.DataFrame, benchmark: str) -> list[str]:
    """What a record says of samples as `with_scores` gives them: how many have no score, and how many reasoned."""
    found, number = [], len(samples)
    if unscored := int(samples["score"].isna().sum()):
        found.append(f"{benchmark}: {unscored} of {number} samples have no score.")
    if reasoned := int(samples["reasoned"].sum()) if "reasoned" in samples else 0:
        found.append(
            f"{benchmark}: {reasoned} of {number} samples began with reasoning, which was cut off before they were "
            "judged."
        )
    return found
