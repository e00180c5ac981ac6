"""What is said of a preference set, against pandas, scipy, statsmodels and definitions taken word for word."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from factories import evaluation_sets
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from statsmodels.stats.proportion import proportion_confint

from radpo.core.errors import DataError
from radpo.preferences.overlap import (
    COVERED,
    NGRAM,
    EvaluationPrompts,
    OverlapTally,
    load_evaluation_prompts,
    load_evaluation_sets,
    words,
)
from radpo.preferences.preferences import Reading, load_preferences, schema
from radpo.preferences.profile import Share
from radpo.preferences.profiling import profile


def table_of(rows: list[dict[str, Any]]) -> pa.Table:
    """Pairs as a lenient reading gives them, with defaults for what a row does not say."""
    usual = {"chosen": "yes", "rejected": "no", "score_chosen": 8.0, "score_rejected": 4.0}
    full = [
        {"id": str(n), "prompt": [{"role": "user", "content": f"p{n}"}], **usual, **row} for n, row in enumerate(rows)
    ]
    return pa.Table.from_pylist(full, schema=schema())


rows = st.lists(
    st.fixed_dictionaries(
        {
            "score_chosen": st.integers(2, 20).map(lambda value: value / 2),
            "score_rejected": st.integers(2, 20).map(lambda value: value / 2),
            "chosen": st.text(max_size=30),
            "rejected": st.text(max_size=30),
        }
    ),
    min_size=1,
    max_size=40,
)


@settings(deadline=None)
@given(rows, st.integers(1, 7))
def test_the_numbers_are_pandas_scipys_and_statsmodels(given_rows: list[dict[str, Any]], cut: int) -> None:
    table = table_of(given_rows)
    found = profile(table.to_batches(max_chunksize=cut), high_score=5)
    frame = pd.DataFrame(given_rows)
    n = len(frame)
    gap = frame.score_chosen - frame.score_rejected
    assert found.pairs == n
    assert found.ties == (gap == 0).sum()
    assert found.chosen_below_rejected == (gap < 0).sum()
    assert found.identical == (frame.chosen == frame.rejected).sum()
    assert (found.gaps.mean, found.gaps.median) == (pytest.approx(gap.mean()), pytest.approx(gap.median()))
    counts = frame.score_chosen.value_counts().to_dict()
    shown = dict(zip(found.chosen_scores.points, found.chosen_scores.counts, strict=True))
    assert {value: count for value, count in shown.items() if count} == counts
    high = int((frame.score_rejected >= 5).sum())
    assert found.rejected_high == Share(
        high, n, high / n, *(pytest.approx(end, abs=1e-9) for end in proportion_confint(high, n, method="wilson"))
    )
    assert found.best_chosen.count == (frame.score_chosen == 10).sum()
    lengths = frame.chosen.str.len()
    np.testing.assert_allclose(
        list(found.characters.chosen.quantiles.values()), lengths.quantile([0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99])
    )
    assert found.characters.chosen.mean == pytest.approx(lengths.mean())
    assert sum(found.characters.chosen.counts) == (lengths > 0).sum()
    longer = lengths - frame.rejected.str.len()
    assert found.characters.chosen_longer.count == (longer > 0).sum()
    if n >= 3 and gap.nunique() > 1 and longer.nunique() > 1:
        assert found.characters.gap_correlation == pytest.approx(spearmanr(gap, longer).statistic, nan_ok=True)


def test_duplicates_and_leakage_do_not_see_case_and_white_space() -> None:
    asked = [["Hello  you"], ["hello\nYOU "], ["other"], ["Hello you", "other"], ["last"]]
    table = table_of([{"prompt": [{"role": "user", "content": text} for text in prompt]} for prompt in asked])
    heldout = table_of([{"prompt": [{"role": "user", "content": text}]} for text in ("HELLO YOU", "new", "Last")])
    found = profile([table], heldout=[heldout])
    assert (found.duplicates.distinct, found.duplicates.repeated, found.duplicates.pairs) == (4, 1, 2)
    assert found.duplicates.examples == (("0", "1"),)
    assert found.leakage is not None
    assert (found.leakage.heldout_prompts, found.leakage.prompts, found.leakage.pairs) == (3, 2, 3)
    assert found.leakage.examples == ("0", "1", "4")
    assert found.turns == {1: 4, 2: 1}


def test_what_was_not_done_is_said() -> None:
    told = "\n".join(profile([table_of([{}])]).left_out())
    for missing in ("tokens", "leakage", "overlap with evaluation prompts"):
        assert missing in told
    whole = profile([table_of([{}])], heldout=[table_of([{}])], count_tokens=lambda texts: [1] * len(texts))
    assert "tokens" not in "\n".join(whole.left_out())
    json.dumps(whole.to_json(), allow_nan=False)
    with pytest.raises(DataError, match="no pairs to describe"):
        profile([table_of([])])


def test_tokens_are_the_tokenizers(tmp_path: Path) -> None:
    from factories import write_model
    from transformers import AutoTokenizer

    from radpo.preferences.profiling import token_counter

    tokenizer = AutoTokenizer.from_pretrained(write_model(tmp_path))
    found = profile([table_of([{"chosen": "épée"}, {"chosen": "ab"}])], count_tokens=token_counter(tokenizer))
    assert found.tokens is not None
    assert (found.tokens.chosen.max, found.tokens.chosen.mean) == (6, 4), "a token a byte"
    assert found.characters.chosen.max == 4


def by_definition(evaluation: str, training: str) -> bool:
    """Tülu 3's criterion, as the paper says it: more than half of the words are in an 8-gram that both have."""
    theirs, ours = words(evaluation), words(training)
    if len(theirs) < NGRAM:
        return bool(theirs) and theirs == ours
    grams = {tuple(ours[place : place + NGRAM]) for place in range(len(ours) - NGRAM + 1)}
    covered = {
        place + step
        for place in range(len(theirs) - NGRAM + 1)
        if tuple(theirs[place : place + NGRAM]) in grams
        for step in range(NGRAM)
    }
    return len(covered) > COVERED * len(theirs)


sentence = st.lists(st.sampled_from(["a", "b", "c", "D"]), max_size=30).map(" ".join)


@settings(deadline=None, max_examples=300)
@given(st.lists(sentence, min_size=1, max_size=5), sentence, st.data())
def test_overlap_is_found_where_the_definition_finds_it(evaluation: list[str], training: str, data: Any) -> None:
    if data.draw(st.booleans()):  # else a repetition of eight words would be rare
        training = f"{training} {data.draw(st.sampled_from(evaluation)).upper()} {data.draw(sentence)}"
    found = EvaluationPrompts({"set": evaluation}).overlaps(training).get("set", [])
    assert found == [place for place, text in enumerate(evaluation) if by_definition(text, training)]


def test_a_contaminated_set_is_found_out_on_real_prompts(real_data: Path, tmp_path: Path) -> None:
    sets, missing = load_evaluation_sets([str(evaluation_sets(tmp_path, real_data))])
    assert missing == ["gpqa"]
    assert {"alpaca-eval", "mt-bench", "arena-hard", "gsm8k", "bbh", "musr", "truthfulqa", "arc-challenge"} == set(sets)
    assert {name: len(sets[name]) for name in ("alpaca-eval", "mt-bench", "arena-hard", "gsm8k", "truthfulqa")} == {
        "alpaca-eval": 805, "mt-bench": 80, "arena-hard": 500, "gsm8k": 1319, "truthfulqa": 817,
    }  # fmt: skip
    index = EvaluationPrompts(sets)
    pairs = load_preferences(
        real_data / "preferences" / "ultrafeedback_binarized_960.jsonl.gz", Reading(lenient=True)
    ).table
    clean = profile([pairs], evaluation=index)
    assert [overlap.pairs for overlap in clean.overlaps] == [0] * 8
    tally = OverlapTally(index)
    for number, text in enumerate(sets["arena-hard"]):
        tally.add(str(number), [{"role": "user", "content": f"Please: {text.upper()} Thank you!"}])
    found = {overlap.name: overlap for overlap in tally.overlaps()}
    long = sum(len(words(text)) >= NGRAM for text in sets["arena-hard"])
    assert found["arena-hard"].prompts_hit >= long
    assert found["gsm8k"].pairs == 0


def test_evaluation_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    for name, content, told in (
        ("a.jsonl", "{", "line 1: not JSON"),
        ("b.json", "{}", "neither a list of objects"),
        ("c.csv", "x\n1\n", "no evaluation prompts"),
        ("d.txt", "x", "unknown format"),
    ):
        (tmp_path / name).write_text(content)
        with pytest.raises(DataError, match=told) as error:
            load_evaluation_prompts(tmp_path / name)
        assert str(tmp_path / name) in str(error.value)
    with pytest.raises(DataError, match="no such file"):
        load_evaluation_prompts(tmp_path / "none.jsonl")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="write NAME=PATH"):
        load_evaluation_sets([str(tmp_path / "empty")])
    (tmp_path / "sets.yaml").write_text("- a.jsonl\n")
    with pytest.raises(DataError, match=r"sets.yaml: a list of evaluation sets maps names to paths"):
        load_evaluation_sets([str(tmp_path / "sets.yaml")])
