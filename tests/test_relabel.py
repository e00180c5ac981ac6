"""Relabeling: what the paper says, for any scored pairs."""

from __future__ import annotations

from typing import Any

import pytest
from factories import scored_pairs
from hypothesis import given, settings
from hypothesis import strategies as st

from radpo.preferences.goals import Placement, goal_text
from radpo.preferences.preferences import COLUMNS
from radpo.preferences.relabel import relabel, to_trl

score = st.floats(1, 10).map(lambda value: round(value, 1))
scores = st.lists(st.tuples(score, score).map(lambda pair: (max(pair), min(pair))), max_size=12)
distinct = scores.map(lambda rows: [row for row in rows if row[0] != row[1]])


@settings(deadline=None)
@given(distinct)
def test_n_distinct_pairs_give_2n_and_each_response_is_once_chosen_and_once_rejected(rows: list[Any]) -> None:
    source = scored_pairs(rows)
    relabeled = relabel(source, "ra")
    assert relabeled.table.num_rows == 2 * len(rows)
    assert relabeled.ties_dropped == 0
    by_source: dict[str, list[dict[str, Any]]] = {}
    for row in relabeled.table.to_pylist():
        by_source.setdefault(row["source_id"], []).append(row)
    for pair in source.to_pylist():
        both = {pair["chosen"], pair["rejected"]}
        assert {row["chosen"] for row in by_source[pair["id"]]} == both
        assert {row["rejected"] for row in by_source[pair["id"]]} == both


@settings(deadline=None)
@given(distinct)
def test_the_chosen_score_is_the_nearer_to_the_goal(rows: list[Any]) -> None:
    for row in relabel(scored_pairs(rows), "ra").table.to_pylist():
        reward_chosen = -((row["goal"] - row["score_chosen"]) ** 2)
        reward_rejected = -((row["goal"] - row["score_rejected"]) ** 2)
        assert reward_chosen > reward_rejected
        assert row["goal"] == row["score_chosen"]


@settings(deadline=None)
@given(distinct, st.sampled_from(["system", "user"]))
def test_undoing_it_gives_back_the_input(rows: list[Any], placement: Placement) -> None:
    source = scored_pairs(rows)
    back = []
    for row in relabel(source, "ra", placement=placement).table.to_pylist():
        if row["side"] == "chosen":
            asked = goal_text(row["goal"])
            if placement == "system":
                assert row["prompt"][0] == {"role": "system", "content": asked}
                prompt = row["prompt"][1:]
            else:
                text = row["prompt"][0]["content"].removeprefix(f"{asked}\n\n")
                prompt = [{"role": "user", "content": text}]
            back.append({**{name: row[name] for name in COLUMNS}, "id": row["source_id"], "prompt": prompt})
    assert back == source.to_pylist()


def test_in_the_second_pair_the_responses_swap() -> None:
    # The authors' release leaves them in place in its variant without a system message; the method needs them swapped.
    for placement in ("system", "user"):
        first, second = relabel(scored_pairs([(9, 4)]), "ra", placement=placement).table.to_pylist()  # type: ignore[arg-type]
        assert (first["goal"], second["goal"]) == (9, 4)
        assert (second["chosen"], second["rejected"]) == (first["rejected"], first["chosen"])
        assert (second["score_chosen"], second["score_rejected"]) == (4, 9)


@settings(deadline=None)
@given(scores)
def test_ties_are_left_out_of_both_kinds_and_counted(rows: list[Any]) -> None:
    source = scored_pairs(rows)
    ties = sum(chosen == rejected for chosen, rejected in rows)
    plain, ra = relabel(source, "plain"), relabel(source, "ra")
    assert plain.ties_dropped == ra.ties_dropped == ties
    assert plain.table.num_rows == len(rows) - ties
    assert set(plain.table["source_id"].to_pylist()) == set(ra.table["source_id"].to_pylist())


def test_a_plain_pair_is_the_source_pair_without_a_goal() -> None:
    source = scored_pairs([(9, 4), (7, 3)])
    table = relabel(source, "plain").table
    assert table["goal"].null_count == 2
    for name in COLUMNS[1:]:
        assert table[name].to_pylist() == source[name].to_pylist()


def test_every_training_pair_says_where_it_comes_from() -> None:
    table = relabel(scored_pairs([(9, 4), (7, 3)]), "ra").table
    assert table["id"].to_pylist() == ["p0#chosen", "p0#rejected", "p1#chosen", "p1#rejected"]


def test_trl_gets_conversations_and_every_column() -> None:
    from trl import is_conversational

    dataset = to_trl(relabel(scored_pairs([(9, 4)]), "ra").table)
    assert is_conversational(dataset[0])
    assert dataset[0]["chosen"][0]["role"] == "assistant"
    assert {"source_id", "side", "goal"} <= set(dataset.column_names)


@pytest.mark.parametrize("kind", ["plain", "ra"])
def test_no_pairs_give_no_pairs(kind: Any) -> None:
    assert relabel(scored_pairs([]), kind).table.num_rows == 0
