"""Relabeling, the heart of the method: training pairs with goals in their prompts, from scored pairs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from radpo.preferences.goals import (
    ATTRIBUTE_SCALE,
    GOAL_TEXT,
    Placement,
    Scale,
    attribute_goals,
    attributes_text,
    format_goal,
    goal_wording,
)
from radpo.preferences.implicit import Rescale
from radpo.preferences.plan import KINDS, SIDES, Counts, Kind, Relabeling, attribute_vectors, make_plan, measure

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa
    from datasets import Dataset

    Floats = npt.NDArray[np.float64]
    Mask = npt.NDArray[np.bool_]

__all__ = ["KINDS", "Counts", "Kind", "Relabeled", "relabel", "relabel_batch", "to_trl", "training_schema"]

PIECE_ROWS = 1_000
PIECE_BYTES = 256 << 20
"""Pairs relabeled at once: Arrow's text columns hold 2 GiB at most, and a piece's texts come up twice."""


@dataclass(frozen=True)
class Relabeled:
    """Training pairs (`training_schema`), and what became of the scored ones."""

    table: pa.Table
    counts: Counts

    @property
    def ties_dropped(self) -> int:
        """Pairs left out because their scores are equal."""
        return self.counts.ties_dropped


def relabel(
    pairs: pa.Table,
    kind: Kind,
    *,
    placement: Placement = "system",
    template: str | None = None,
    min_gap: float = 0.0,
    shuffle: bool = False,
    seed: int = 0,
    rescale: Rescale = "rank",
    beta: float = 0.01,
    scale: Scale = (1.0, 10.0),
    attribute_scale: Scale = ATTRIBUTE_SCALE,
) -> Relabeled:
    """Turn scored pairs into training pairs.

    `ra` is the reward augmentation of arXiv 2410.08067, section 4: with the goal-conditioned reward
    R(x, y, g) = -(g - r(x, y))^2, asking for g = r_w makes y_w the preferred response, and asking for g = r_l makes y_l
    the preferred one. N pairs with distinct scores give 2N. In the second pair the responses change places; only then
    is the response that fits the goal the chosen one.

    `half-ra` does so for a random half of the prompts, so that there are as many training pairs as plain DPO has: the
    number of pairs used is the nearest to half that whole prompts allow. `attributes` takes each response's vector of
    attribute scores for its goal, R being minus the squared distance of the vectors; a goal names the attributes that
    are rated for both responses. `ira` takes implicit rewards (`radpo.preferences.implicit`) of all responses, rescaled
    together, for the scores; which response is preferred then depends on the goal alone, so that a chosen response with
    the lower implicit reward is no error.

    A pair whose scores are equal says nothing about which response is better, for any kind; it is left out and counted,
    so that variants are compared on the same pairs.

    Args:
        pairs: scored preferences (`radpo.preferences.preferences`); `attributes` needs its attribute columns, `ira` its
            log-likelihoods.
        placement: where the goal goes in the prompt.
        template: the goal's wording, `{g}` standing for the score and `{low}` and `{high}` for the ends of the scale;
            by default the paper's, and for `attributes` `radpo.preferences.goals.DEFAULT_ATTRIBUTES_TEXT`.
        min_gap: leave out pairs whose overall scores are nearer to each other than this (`ira`: the rescaled rewards).
        shuffle: put the training pairs in a random order. Without it they come in the order of the scored pairs, the
            two of one pair next to each other.
        seed: what the choice of the half and the order begin with.
        rescale: how `ira` moves implicit rewards onto the scale.
        beta: the DPO policy's, for `ira`'s columns of implicit rewards; no goal depends on it.
        scale: the lowest and the highest score that a goal can ask for, which the wording states and `ira` rescales to.
        attribute_scale: the lowest and the highest score of an attribute, which the default wording states.

    Raises:
        DataError: the pairs lack the columns that the kind needs, or an attribute's score is not on its scale.
    """
    import pyarrow as pa

    settings = Relabeling(kind, placement, template, min_gap, shuffle, seed, rescale, beta, scale, attribute_scale)
    pieces = list(_pieces(pairs))
    plan = make_plan([measure(piece, settings) for piece in pieces], settings)
    made, start, same_goal = [], 0, 0
    for piece in pieces:
        rows = slice(start, start + piece.num_rows)
        scores, implicit = plan.measured.scores[rows], plan.measured.implicit[rows]
        batch, same = relabel_batch(piece, plan.used[rows], scores, implicit, settings)
        made.append(batch)
        start, same_goal = rows.stop, same_goal + same
    table = pa.Table.from_batches(made, schema=training_schema(pairs.schema, settings))
    if plan.places is not None:
        table = table.take(pa.array(plan.places.argsort()))
    return Relabeled(table, replace(plan.counts, same_goal=same_goal))


def to_trl(table: pa.Table) -> Dataset:
    """Training pairs as the conversational preference data set that TRL's trainers take, with every column kept."""
    from datasets import Dataset

    columns = {name: table[name].to_pylist() for name in table.column_names}
    for side in SIDES:
        columns[side] = [[{"role": "assistant", "content": text}] for text in columns[side]]
    return Dataset.from_dict(columns)


def training_schema(pairs: pa.Schema, settings: Relabeling) -> pa.Schema:
    """The columns of training pairs.

    id, source_id (the scored pair it comes from), side (plain, or whose score is the goal: chosen or rejected), goal
    (null where there is none, or where there are several), prompt (messages, goal included), chosen, rejected,
    score_chosen, score_rejected. Scores stay with their responses, so the `rejected` side's score_chosen is the
    source's lower one. `attributes` adds goal_attributes (null where it names none), attributes_chosen and
    attributes_rejected; `ira`, whose scores are the rescaled implicit rewards, adds implicit_reward_chosen and
    implicit_reward_rejected, as they were before.

    Args:
        pairs: the scored pairs' schema.
    """
    import pyarrow as pa

    fields = [
        ("id", pa.string()),
        ("source_id", pa.string()),
        ("side", pa.string()),
        ("goal", pa.float64()),
        ("prompt", pairs.field("prompt").type),
        ("chosen", pa.string()),
        ("rejected", pa.string()),
        ("score_chosen", pa.float64()),
        ("score_rejected", pa.float64()),
    ]
    if settings.kind == "attributes":
        rated = pairs.field("attributes_chosen").type
        fields += [(name, rated) for name in ("goal_attributes", "attributes_chosen", "attributes_rejected")]
    if settings.kind == "ira":
        fields += [(f"implicit_reward_{side}", pa.float64()) for side in SIDES]
    return pa.schema(fields)


def relabel_batch(
    batch: pa.RecordBatch, used: Mask, scores: Floats, implicit: Floats, settings: Relabeling
) -> tuple[pa.RecordBatch, int]:
    """The training pairs of a batch, in the order of its pairs, and how many pairs' two goals read the same.

    Args:
        used: which pairs are used, (rows,).
        scores: of chosen and rejected, (rows, 2).
        implicit: implicit rewards of chosen and rejected for `ira`, (rows, 2).
    """
    import pyarrow as pa

    pairs = batch if used.all() else batch.filter(pa.array(used))
    scores, implicit = scores[used], implicit[used]
    columns = {name: pairs.column(name) for name in ("prompt", *SIDES)} | {"source_id": pairs.column("id")}
    columns |= {f"score_{side}": pa.array(scores[:, place]) for place, side in enumerate(SIDES)}
    if settings.kind == "ira":
        columns |= {f"implicit_reward_{side}": pa.array(implicit[:, place]) for place, side in enumerate(SIDES)}
    if settings.kind == "attributes":
        columns |= {name: pairs.column(name) for name in ("attributes_chosen", "attributes_rejected")}
    same_goal = 0
    if settings.kind == "plain":
        columns |= {"side": pa.repeat("plain", pairs.num_rows), "goal": pa.nulls(pairs.num_rows, pa.float64())}
    else:
        columns, same_goal = _conditioned(columns, scores, settings)
    columns["id"] = _ids(columns["source_id"], columns["side"])
    schema = training_schema(batch.schema, settings)
    return pa.RecordBatch.from_arrays([columns[name] for name in schema.names], schema=schema), same_goal


def _conditioned(columns: dict[str, Any], scores: Floats, settings: Relabeling) -> tuple[dict[str, Any], int]:
    """Every pair's two conditioned pairs next to each other, and how many pairs' two goals read the same."""
    import numpy as np
    import pyarrow as pa

    from radpo.preferences.arrow import concatenated, taken
    from radpo.preferences.conditioning import condition_prompts

    rows = len(scores)
    goals: dict[str, Any] = {"goal": pa.array(scores.ravel())}
    if settings.kind == "attributes":
        vectors = attribute_vectors(columns, settings.attribute_scale)
        vectors += 0 * vectors[:, ::-1]  # what is not rated for both responses is asked for of neither
        kind = columns["attributes_chosen"].type
        goals = {"goal": pa.nulls(2 * rows, pa.float64()), "goal_attributes": _structs(vectors, kind)}
        texts, which = _attribute_texts(vectors, [field.name for field in kind], settings)
    else:
        texts, which = _goal_texts(scores, goal_wording(settings.scale, settings.template or GOAL_TEXT))
    made = goals | {"side": pa.array(np.tile(np.array(SIDES, object), rows), pa.string())}
    made["source_id"] = taken(columns["source_id"], np.arange(rows).repeat(2))
    asked = [taken(texts, side) for side in which.T]
    made["prompt"] = condition_prompts(columns["prompt"], asked, settings.placement)
    # In the second pair the responses change places, and all that belongs to them.
    there = np.arange(2 * rows).reshape(2, rows).T
    for name in ("", "score_", "attributes_", "implicit_reward_"):
        if f"{name}chosen" in columns:
            both = concatenated([columns[f"{name}{side}"] for side in SIDES])
            made[f"{name}chosen"] = taken(both, there.ravel())
            made[f"{name}rejected"] = taken(both, there[:, ::-1].ravel())
    return made, int((which[:, 0] == which[:, 1]).sum())


def _goal_texts(scores: Floats, template: str) -> tuple[pa.Array, npt.NDArray[np.int64]]:
    """The different goal sentences, and which of them each response's score asks for, (rows, 2)."""
    import numpy as np
    import pyarrow as pa

    values, which = np.unique(scores.round(2), return_inverse=True)
    written = [template.replace("{g}", format_goal(value)) for value in values.tolist()]
    return pa.array(written, pa.string()), which.reshape(scores.shape)


def _attribute_texts(vectors: Floats, names: list[str], settings: Relabeling) -> tuple[pa.Array, npt.NDArray[np.int64]]:
    """The different goal sentences, and which of them each response's scores ask for, (rows, 2)."""
    import numpy as np
    import pyarrow as pa

    template = attributes_text(settings.attribute_scale, *([settings.template] if settings.template else []))
    values, which = np.unique(vectors.round(2).reshape(-1, len(names)), axis=0, return_inverse=True)
    written = [
        template.replace(
            "{g}", attribute_goals({name: goal for name, goal in zip(names, row, strict=True) if not np.isnan(goal)})
        )
        for row in values.tolist()
    ]
    return pa.array(written, pa.string()), which.reshape(len(vectors), 2)


def _structs(vectors: Floats, kind: Any) -> Any:
    """(rows, 2, attributes) as structs, (rows * 2,), null for nan."""
    import pyarrow as pa

    flat = vectors.reshape(-1, vectors.shape[-1])
    return pa.StructArray.from_arrays([pa.array(column, from_pandas=True) for column in flat.T], fields=list(kind))


def _ids(source_ids: Any, sides: Any) -> Any:
    import pyarrow.compute as pc

    return pc.binary_join_element_wise(source_ids, sides, "#")


def source_of(pair_id: str) -> str:
    """The scored pair that a training pair was made of, from the training pair's id."""
    return pair_id.rpartition("#")[0] or pair_id


def _pieces(pairs: pa.Table) -> Iterator[pa.RecordBatch]:
    """The pairs in batches that are small enough to be relabeled at once; at least one, which may be empty."""
    import pyarrow as pa

    yield pa.RecordBatch.from_pylist([], schema=pairs.schema)
    for batch in pairs.to_batches(max_chunksize=PIECE_ROWS):
        yield from _halved(batch)


def _halved(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    if batch.num_rows > 1 and batch.nbytes > PIECE_BYTES:
        middle = batch.num_rows // 2
        yield from _halved(batch.slice(0, middle))
        yield from _halved(batch.slice(middle))
    else:
        yield batch
