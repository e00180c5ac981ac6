"""MT-Bench's pairwise mode counts as FastChat's own show_result does."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from radpo.benchmarks.mt_bench import is_pairwise
from radpo.benchmarks.mt_bench_pairs import PairJudgment, load_pair_judgments, score_pairs
from radpo.core.errors import DataError


def pair(first, second, names=("a", "b"), turn=1):
    return PairJudgment("81", turn, *names, first, second)


def test_a_win_is_a_win_in_both_orders():
    judgments = [
        pair("model_1", "model_1"), pair("model_2", "model_2"), pair("model_1", "model_2"), pair("tie", "tie"),
        pair("tie", "model_1"), pair("error", "model_1"),
    ]  # fmt: skip
    found = score_pairs(judgments)
    a, b = found.models["a"], found.models["b"]
    assert (a.win, a.loss, a.tie, a.win_rate, a.win_rate_adjusted) == (1, 1, 3, 0.2, 0.5)
    assert (b.win, b.loss, b.tie) == (1, 1, 3)
    assert (found.n, found.n_unparsed, found.swap_agreement) == (5, 1, 0.6)


def test_a_baseline_has_no_row_and_pairs_without_it_do_not_count():
    judgments = [pair("model_1", "model_1"), pair("model_2", "model_2", ("a", "c")), pair("tie", "tie", ("b", "c"))]
    found = score_pairs(judgments, "b")
    assert set(found.models) == {"a", "c"}
    assert (found.models["a"].win_rate, found.models["c"].tie) == (1.0, 1)
    with pytest.raises(DataError, match="has the baseline gpt-9"):
        score_pairs(judgments, "gpt-9")


@given(st.lists(st.tuples(*[st.sampled_from(["model_1", "model_2", "tie", "error"])] * 2), min_size=1))
def test_wins_of_one_are_losses_of_the_other(outcomes):
    judgments = [pair(*outcome) for outcome in outcomes]
    if all("error" in outcome for outcome in outcomes):
        with pytest.raises(DataError, match="was parsed"):
            score_pairs(judgments)
        return
    found = score_pairs(judgments)
    a, b = found.models["a"], found.models["b"]
    assert (a.win, a.loss, a.tie) == (b.loss, b.win, b.tie)
    assert a.win_rate_adjusted + b.win_rate_adjusted == pytest.approx(1)
    assert found.n + found.n_unparsed == len(outcomes)


def test_files_are_read_and_bad_rows_named(tmp_path):
    path = tmp_path / "pairs.jsonl"
    row = {
        "question_id": 81, "model_1": "a", "model_2": "b", "g1_winner": "model_1", "g2_winner": "tie", "turn": 2,
        "judge": ["gpt-4", "pair-v2"], "g1_judgment": "x", "g2_judgment": "y",
    }  # fmt: skip
    path.write_text(json.dumps(row) + "\n")
    assert is_pairwise(path)
    assert load_pair_judgments(path) == [PairJudgment("81", 2, "a", "b", "model_1", "tie", ("x", "y"))]
    for change, message in (({"g1_winner": "A"}, "are none of"), ({"model_1": None}, "needs"), ({"turn": 3}, "turn 3")):
        path.write_text(json.dumps({**row, **change}) + "\n")
        with pytest.raises(DataError, match=f"line 1: .*{message}"):
            load_pair_judgments(path)
