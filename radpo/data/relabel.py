"""Relabeling, the heart of the method: scored pairs come in, training pairs with their goals in the prompts go out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from radpo.data.goals import DEFAULT_GOAL_TEXT, Placement, goal_text, join_goal_text

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

Kind = Literal["plain", "ra"]
"""`plain`: every pair as it is, without a goal. `ra`: every pair twice, once for each response's score as the goal."""


@dataclass(frozen=True)
class Relabeled:
    """Training pairs, and how many tied pairs were left out.

    The table's columns: id, source_id (the scored pair it comes from), side (plain, or whose score is the goal: chosen
    or rejected), goal (null where plain), prompt (messages, goal included), chosen, rejected, score_chosen,
    score_rejected. Scores stay with their responses, so the `rejected` side's score_chosen is the source's lower one.
    """

    table: pa.Table
    ties_dropped: int


def relabel(
    pairs: pa.Table, kind: Kind, *, placement: Placement = "system", template: str = DEFAULT_GOAL_TEXT
) -> Relabeled:
    """Turn scored pairs into training pairs.

    `ra` is the reward augmentation of arXiv 2410.08067, section 4: with the goal-conditioned reward
    R(x, y, g) = -(g - r(x, y))^2, asking for g = r_w makes y_w the preferred response, and asking for g = r_l makes y_l
    the preferred one. N pairs with distinct scores give 2N. In the second pair the responses change places; only then
    is the response that fits the goal the chosen one.

    A pair whose scores are equal says nothing about which response is better, for either kind; it is left out of both,
    and counted, so that variants are compared on the same pairs.

    Args:
        pairs: scored preferences (`radpo.data.preferences`).
        placement: where the goal goes in the prompt.
        template: the goal's wording, `{g}` standing for the score.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    informative = pairs.filter(pc.not_equal(pairs["score_chosen"], pairs["score_rejected"])).combine_chunks()
    ties = pairs.num_rows - informative.num_rows
    if kind == "plain":
        rows = informative.num_rows
        goals = pa.nulls(rows, pa.float64())
        table = _table(informative, "plain", goals, informative["prompt"], swap=False)
        return Relabeled(table, ties)
    prompts = informative["prompt"].to_pylist()
    sides = []
    for side in ("chosen", "rejected"):
        goals = informative[f"score_{side}"]
        asked = _condition_all(prompts, goals.to_pylist(), placement, template)
        prompt = pa.array(asked, type=pairs.schema.field("prompt").type)
        sides.append(_table(informative, side, goals, prompt, swap=side == "rejected"))
    return Relabeled(_interleave(sides), ties)


def to_trl(table: pa.Table) -> Dataset:
    """Training pairs as the conversational preference data set that TRL's trainers take, with every column kept."""
    from datasets import Dataset

    columns = {name: table[name].to_pylist() for name in table.column_names}
    for side in ("chosen", "rejected"):
        columns[side] = [[{"role": "assistant", "content": text}] for text in columns[side]]
    return Dataset.from_dict(columns)


def _condition_all(
    prompts: list[list[dict[str, Any]]], goals: list[float], placement: Placement, template: str
) -> list[list[dict[str, Any]]]:
    texts = {goal: goal_text(goal, template) for goal in set(goals)}
    return [join_goal_text(prompt, texts[goal], placement) for prompt, goal in zip(prompts, goals, strict=True)]


def _table(pairs: pa.Table, side: str, goals: Any, prompt: Any, *, swap: bool) -> pa.Table:
    import pyarrow as pa
    import pyarrow.compute as pc

    chosen, rejected = ("rejected", "chosen") if swap else ("chosen", "rejected")
    return pa.table(
        {
            "id": pc.binary_join_element_wise(pairs["id"], side, "#"),
            "source_id": pairs["id"],
            "side": pa.repeat(side, pairs.num_rows),
            "goal": goals,
            "prompt": prompt,
            "chosen": pairs[chosen],
            "rejected": pairs[rejected],
            "score_chosen": pairs[f"score_{chosen}"],
            "score_rejected": pairs[f"score_{rejected}"],
        }
    )


def _interleave(sides: list[pa.Table]) -> pa.Table:
    """The two sides of one source pair next to each other, so that the first rows of a table are whole pairs."""
    import numpy as np
    import pyarrow as pa

    rows = sides[0].num_rows
    order = np.arange(2 * rows).reshape(2, rows).T.ravel()
    return pa.concat_tables(sides).take(pa.array(order))
