"""AlpacaEval 2: answers of a model and of a baseline come in, alpaca-eval's annotations and win rates go out.

Annotations are in alpaca-eval 0.6.6's own format, and its own code computes the figures: `preference` is 1 where the
baseline wins, 2 where the model wins, 1.5 (or 0) where neither does.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from radpo.errors import DataError
from radpo.harness.base import Answers, check_answers, read_rows
from radpo.judges.base import Grade, GradeRequest, Judge, Progress, no_progress
from radpo.results import Example, Result, Scores

if TYPE_CHECKING:
    import pandas as pd

    from radpo.data.questions import Question

BENCHMARK = "alpaca-eval"

# The length-controlled GLM knows how hard each of AlpacaEval's 805 instructions is, and knows them by their place
# alone: other instructions would silently get the difficulty of strangers. Of the texts in order, joined by NUL.
INSTRUCTIONS = 805
INSTRUCTIONS_SHA256 = "bfe8c45991f635de0b1f94abeeb1335ef665d58eddd87ddf6fa71b7b0c2ce7a5"
OFFICIAL_GAMED_SHA256 = "97aeec3f1c7de6dee6fd31fe66f1702623f4614c3efe1c6fc5f4927cd5fd674d"


@dataclass(frozen=True)
class LengthControlled:
    """The length-controlled win rate in percent and its standard error, None where `note` says why there is none."""

    winrate: float | None
    standard_error: float | None
    note: str | None


@dataclass(frozen=True)
class WinRate:
    """AlpacaEval's figures under its own names: rates in percent, lengths in characters, None where not to be had."""

    win_rate: float
    standard_error: float | None
    discrete_win_rate: float
    length_controlled_winrate: float | None
    lc_standard_error: float | None
    n_total: int
    avg_length: int | None
    notes: tuple[str, ...]


def annotate(
    questions: Sequence[Question],
    outputs: Answers,
    baseline_outputs: Answers,
    judge: Judge,
    *,
    generator: str,
    baseline: str,
    progress: Progress = no_progress,
) -> pd.DataFrame:
    """Have both answers to every question graded; the higher score wins, equal scores are a draw.

    Args:
        questions: of one turn each.
        outputs, baseline_outputs: the answers of the model and of the baseline, by question_id.
        generator, baseline: their names.

    Returns:
        A row a question: alpaca-eval's columns index, instruction, dataset (the category), output_1 and generator_1
        (baseline), output_2 and generator_2 (model), annotator, preference (NaN where a grade could not be had), and
        question_id, score_1, score_2, reason_1, reason_2.

    Raises:
        DataError: a question has more than one turn or no answer.
        ServiceError: the judge could not be reached.
    """
    import pandas as pd

    check_answers(questions, outputs, f"answers of {generator}")
    check_answers(questions, baseline_outputs, f"answers of {baseline}")
    for question in questions:
        if len(question.turns) != 1:
            raise DataError(
                f"question {question.question_id!r}: {len(question.turns)} turns; AlpacaEval's questions have one"
            )
    requests = [_request(question, answers) for answers in (baseline_outputs, outputs) for question in questions]
    grades = judge.grade(requests, progress)
    rows = [
        {
            "index": index,
            "dataset": question.category,
            "instruction": question.turns[0],
            "output_1": baseline_outputs[question.question_id][0],
            "generator_1": baseline,
            "output_2": outputs[question.question_id][0],
            "generator_2": generator,
            "annotator": judge.name,
            "preference": _preference(first, second),
            "question_id": question.question_id,
            "score_1": first.score,
            "score_2": second.score,
            "reason_1": first.reason,
            "reason_2": second.reason,
        }
        for index, (question, first, second) in enumerate(
            zip(questions, grades[: len(questions)], grades[len(questions) :], strict=True)
        )
    ]
    return pd.DataFrame(rows)


def load_annotations(path: Path) -> pd.DataFrame:
    """Read annotations as alpaca-eval writes them (`.json`) or line by line (`.jsonl`), gzipped or not.

    Files that give the lengths of outputs (len_1, len_2) in place of the outputs are read too.

    Raises:
        DataError: the file is malformed, a preference is none of 0 and 1 to 2, or models are mixed in one file; the
            message names line and field.
    """
    import pandas as pd

    rows = []
    for place, row in read_rows(path):
        _check_annotation(row, place)
        rows.append(row)
    if not rows:
        raise DataError(f"{path}: no annotations in it")
    frame = pd.DataFrame(rows)
    if "index" not in frame.columns:
        frame.insert(0, "index", range(len(frame)))
    for name in ("generator_1", "generator_2"):
        if name in frame.columns and frame[name].nunique() > 1:
            raise DataError(
                f"{path}: {name} holds {frame[name].nunique()} models; give one model and one baseline a file"
            )
    return frame.astype({"preference": "float64"})


def win_rate(annotations: pd.DataFrame, reference_dir: Path | None = None) -> WinRate:
    """AlpacaEval's figures, computed by alpaca-eval itself.

    Args:
        annotations: as `annotate` or `load_annotations` gives.
        reference_dir: a folder with df_gamed.csv, for the length-controlled win rate.

    Raises:
        DataError: no annotation holds a preference.
    """
    with _quiet():
        from alpaca_eval.metrics.winrate import get_winrate

    n_missing = int(annotations["preference"].isna().sum())
    if n_missing == len(annotations):
        raise DataError("no annotation holds a preference, so there is no win rate; see the judge's reasons")
    metrics = get_winrate(annotations)
    controlled = length_controlled(annotations, reference_dir)
    notes = [controlled.note] if controlled.note else []
    if n_missing:
        notes.append(f"alpaca-eval: {n_missing} of {len(annotations)} comparisons have no verdict and are left out.")
    lengths = _lengths(annotations, 2)
    total = int(metrics["n_total"])
    return WinRate(
        win_rate=float(metrics["win_rate"]),
        standard_error=float(metrics["standard_error"]) if total > 1 else None,
        discrete_win_rate=float(metrics["discrete_win_rate"]),
        length_controlled_winrate=controlled.winrate,
        lc_standard_error=controlled.standard_error,
        n_total=total,
        avg_length=None if lengths is None else int(lengths.mean()),  # cut to whole characters, as alpaca-eval does
        notes=tuple(notes),
    )


def length_controlled(annotations: pd.DataFrame, reference_dir: Path | None) -> LengthControlled:
    """The length-controlled win rate (Dubois et al. 2024, arXiv 2404.04475), computed by alpaca-eval itself.

    Args:
        reference_dir: a folder with df_gamed.csv (tatsu-lab/alpaca_eval on the Hub), or an estimate of it named
            df_gamed_reconstructed.csv. The package would fetch the file itself; here nothing is downloaded.

    Raises:
        DataError: the folder has no such file.
    """
    reason = _why_not_length_controlled(annotations, reference_dir)
    if reason is not None:
        return LengthControlled(None, None, f"alpaca-eval: the length-controlled win rate was not computed, {reason}.")
    import sklearn

    with _quiet():
        from alpaca_eval.metrics import glm_winrate

    assert reference_dir is not None
    reference = _gamed_file(reference_dir)
    first, second = _lengths(annotations, 1), _lengths(annotations, 2)
    assert first is not None
    assert second is not None
    # The package reads only the outputs' lengths, so texts of the right length stand in where lengths are all there is.
    frame = annotations[["index", "instruction", "preference", "generator_1", "generator_2"]].assign(
        output_1=["x" * length for length in first], output_2=["x" * length for length in second], annotator=BENCHMARK
    )
    frame = frame.sort_values("index", ignore_index=True)
    with _quiet(), sklearn.config_context(), _local_lookup(glm_winrate, reference):
        metrics = glm_winrate.get_length_controlled_winrate(frame, save_weights_dir=None, is_warn_extreme_changes=False)
    rate, plain = float(metrics["length_controlled_winrate"]), float(metrics["win_rate"])
    notes = []
    if hashlib.sha256(reference.read_bytes()).hexdigest() != OFFICIAL_GAMED_SHA256:
        notes.append(
            f"alpaca-eval: the length-controlled win rate is an estimate, because {reference.name} is not the official "
            "df_gamed.csv."
        )
    if glm_winrate.get_is_extreme_changes(plain, rate):
        notes.append(
            f"alpaca-eval: the length-controlled win rate ({rate:.1f}%) is far from the plain one ({plain:.1f}%), "
            "which may mean that its regression failed."
        )
    return LengthControlled(rate, float(metrics["lc_standard_error"]), " ".join(notes) or None)


def scores(annotations: pd.DataFrame, *, goal: float | None = None, reference_dir: Path | None = None) -> Scores:
    """Annotations -> results (whole and by category) and a row a comparison.

    Args:
        goal: the score that the model was asked for, for the examples' detail.
        reference_dir: as for `win_rate`.
    """
    whole = win_rate(annotations, reference_dir)
    results = [
        Result(BENCHMARK, "all", "win_rate", whole.win_rate, whole.standard_error, whole.n_total, primary=True),
        Result(BENCHMARK, "all", "discrete_win_rate", whole.discrete_win_rate, None, whole.n_total),
    ]
    if whole.length_controlled_winrate is not None:
        rate, error = whole.length_controlled_winrate, whole.lc_standard_error
        results.append(Result(BENCHMARK, "all", "length_controlled_winrate", rate, error, whole.n_total))
    if whole.avg_length is not None:
        results.append(Result(BENCHMARK, "all", "avg_length", whole.avg_length, None, len(annotations), None))
    judged = annotations[annotations["preference"].notna()]
    if "dataset" in judged.columns and judged["dataset"].nunique() > 1:
        for category, part in judged.groupby("dataset"):
            rate_of = win_rate(part)
            results.append(
                Result(BENCHMARK, str(category), "win_rate", rate_of.win_rate, rate_of.standard_error, rate_of.n_total)
            )
    return Scores(tuple(results), tuple(_example(row, goal) for row in judged.to_dict("records")), whole.notes)


_TEXTS = ("instruction", "dataset", "output_1", "output_2", "generator_1", "generator_2", "annotator")
_WHOLE = ("index", "len_1", "len_2")


def _check_annotation(row: Mapping[str, Any], place: str) -> None:
    if "instruction" not in row or "preference" not in row:
        raise DataError(f"{place}: an annotation needs instruction and preference")
    for names, kind, wanted in ((_TEXTS, str, "a text"), (_WHOLE, int, "a whole number")):
        for name in names:
            if name in row and (not isinstance(row[name], kind) or isinstance(row[name], bool)):
                raise DataError(f"{place}, {name}: {str(row[name])[:80]!r} is not {wanted}")
    preference = row["preference"]
    if isinstance(preference, bool) or not isinstance(preference, int | float | None):
        raise DataError(f"{place}: preference {str(preference)[:80]!r} is no number")
    if preference is not None and preference != 0 and not 1 <= preference <= 2:
        raise DataError(f"{place}: preference {preference} is neither 0 (a draw) nor from 1 (baseline) to 2 (model)")


def _request(question: Question, answers: Answers) -> GradeRequest:
    prompt = [{"role": "user", "content": question.turns[0]}]
    return GradeRequest(prompt, answers[question.question_id][0], {"constraints": list(question.constraints[0])})


def _preference(baseline: Grade, model: Grade) -> float:
    if baseline.score is None or model.score is None:
        return float("nan")
    if baseline.score == model.score:
        return 1.5
    return 2.0 if model.score > baseline.score else 1.0


def _example(row: Mapping[Any, Any], goal: float | None) -> Example:
    detail: dict[str, Any] = {} if goal is None else {"goal": goal}
    names = ("score_1", "score_2", "reason_1", "reason_2", "generator_1")
    # What a row lacks, the frame holds as NaN, which is no JSON.
    detail |= {name: row[name] for name in names if name in row and row[name] == row[name] and row[name] is not None}
    return Example(
        benchmark=BENCHMARK,
        subset=_text(row.get("dataset")) or "all",
        example_id=str(row.get("question_id", row["index"])),
        prompt=str(row["instruction"]),
        output=_text(row.get("output_2")),
        baseline_output=_text(row.get("output_1")),
        metric="preference",
        value=1.5 if row["preference"] == 0 else float(row["preference"]),
        detail=json.dumps(detail, ensure_ascii=False),
    )


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _lengths(annotations: pd.DataFrame, side: int) -> pd.Series[int] | None:
    """The outputs' lengths in characters, None where the annotations have neither outputs nor lengths."""
    if f"output_{side}" in annotations.columns:
        return annotations[f"output_{side}"].str.len()
    if f"len_{side}" in annotations.columns:
        return annotations[f"len_{side}"]
    return None


def _why_not_length_controlled(annotations: pd.DataFrame, reference_dir: Path | None) -> str | None:
    texts = annotations.sort_values("index")["instruction"].astype(str)
    same = hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass")).hexdigest() == INSTRUCTIONS_SHA256
    if not same or sorted(annotations["index"]) != list(range(INSTRUCTIONS)):
        return f"because it is defined for AlpacaEval's own {INSTRUCTIONS} instructions, and these are others or fewer"
    if _lengths(annotations, 1) is None or _lengths(annotations, 2) is None:
        return "because the annotations have neither both outputs nor their lengths"
    if not {"generator_1", "generator_2"} <= set(annotations.columns):
        return "because the annotations do not name generator_1 and generator_2"
    if reference_dir is None:
        return "because no folder with df_gamed.csv (from tatsu-lab/alpaca_eval on the Hub) was given"
    return None


def _gamed_file(folder: Path) -> Path:
    for name in ("df_gamed.csv", "df_gamed_reconstructed.csv"):
        if (folder / name).is_file():
            return folder / name
    raise DataError(f"{folder}: no df_gamed.csv there; fetch it from the data set tatsu-lab/alpaca_eval on the Hub")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep back the package's own deprecation warnings (pkg_resources, scikit-learn), which no user can mend."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="pkg_resources is deprecated")
        warnings.simplefilter("ignore", FutureWarning)
        yield


@contextmanager
def _local_lookup(module: Any, reference: Path) -> Iterator[None]:
    """Have the package's look-up of df_gamed.csv on the Hub find the local file, for as long as the block runs."""
    original = module.hf_hub_download
    module.hf_hub_download = lambda **_: str(reference)
    try:
        yield
    finally:
        module.hf_hub_download = original
