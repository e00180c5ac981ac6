"""Sixteen bugs of preference alignment, each as it gets into such code, for `bugs.py` to plant one at a time.

Most go in through a seam that users have: a variant's own training pairs (this module is installed as a package's
variants are), or a line of the matrix file. The others replace what one kind of stage computes.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from radpo import Executor, Variant
from radpo.core.plugins import NoSettings
from radpo.engine.execute import execute
from radpo.engine.graph import Stage, Task
from radpo.engine.schedule import Event
from radpo.engine.store import Store
from radpo.preferences.goals import Placement, goal_text
from radpo.preferences.relabel import Kind, relabel

if TYPE_CHECKING:
    import pyarrow as pa

Row = dict[str, Any]
Around = Callable[[Callable[[Task], None], Task], None]
"""What a stage computes instead, given what it computes by right and its task."""


@dataclass(frozen=True)
class Bug:
    """One bug.

    Args:
        says: what is wrong, in words.
        variant: the variant of the gate's matrix whose figures it is to show in.
        how: what it goes in through: a variant's pairs, the matrix file, or a kind of stage.
        settings: of the variant, over the matrix's.
        matrix: of the matrix file, over what is there.
        stage: the kind of stage that it changes, with `around`.
    """

    says: str
    variant: str
    how: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    matrix: Mapping[str, Any] = field(default_factory=dict)
    stage: str = ""
    around: Around | None = None


# --- variants whose training pairs are wrong


def _with_pairs(kind: Kind, change: Callable[[Row], Row]) -> Callable[[pa.Table, Placement], pa.Table]:
    """A variant's function for training pairs: those of a kind, each changed."""

    def make(scored: pa.Table, placement: Placement) -> pa.Table:
        import pyarrow as pa

        table = relabel(scored, kind, placement=placement).table
        return pa.Table.from_pylist([change(row) for row in table.to_pylist()], schema=table.schema)

    return make


def _exchanged(row: Row) -> Row:
    return {**row, "chosen": row["rejected"], "rejected": row["chosen"]}


def _not_swapped(row: Row) -> Row:
    return _exchanged(row) if row["side"] == "rejected" else row


def _without_goal(row: Row) -> Row:
    return {**row, "prompt": [message for message in row["prompt"] if message["role"] != "system"]}


def _goal_turned(row: Row) -> Row:
    return {**row, "prompt": [{"role": "system", "content": goal_text(11 - row["goal"])}, *row["prompt"][1:]]}


def _halved(row: Row) -> Row:
    halves = {side: row[side].split() for side in ("chosen", "rejected")}
    return {**row, **{side: " ".join(words[: (len(words) + 1) // 2]) for side, words in halves.items()}}


NOT_SWAPPED = Variant(data=_with_pairs("ra", _not_swapped), conditioned=True)
WITHOUT_GOAL = Variant(data=_with_pairs("ra", _without_goal), conditioned=True)
GOAL_TURNED = Variant(data=_with_pairs("ra", _goal_turned), conditioned=True)
EXCHANGED = Variant(data=_with_pairs("plain", _exchanged))
HALVED = Variant(data=_with_pairs("plain", _halved))


# --- stages that compute something else


def _changed_logps(change: Callable[[list[float], random.Random], list[float]]) -> Around:
    """Reference log-likelihoods, changed after they were computed; both responses' in the same way."""

    def around(right: Callable[[Task], None], task: Task) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        right(task)
        path = task.out / "reference.parquet"
        table = pq.read_table(path)
        for name in ("ref_chosen_logps", "ref_rejected_logps"):
            values = change(table[name].to_pylist(), random.Random("references"))
            table = table.set_column(table.column_names.index(name), name, pa.array(values))
        pq.write_table(table, path)

    return around


def _zero(values: list[float], chance: random.Random) -> list[float]:
    return [0.0] * len(values)


def _shuffled(values: list[float], chance: random.Random) -> list[float]:
    return chance.sample(values, len(values))


def _of_another_model(right: Callable[[Task], None], task: Task) -> None:
    """The reference's weights with a tenth of their spread of noise, as if it were another checkpoint."""
    import torch

    from radpo.training import reference

    def another(*asked: Any) -> Any:
        model, noise = load(*asked), torch.Generator().manual_seed(0)
        with torch.no_grad():
            for weight in model.parameters():
                spread = weight.std() if weight.numel() > 1 else 0.0
                weight += 0.1 * spread * torch.randn(weight.shape, generator=noise)
        return model

    load = reference.load_model
    with patch.object(reference, "load_model", another):
        right(task)


def _without_turn_end(right: Callable[[Task], None], task: Task) -> None:
    from radpo.training import reference

    def cut(*asked: Any, **named: Any) -> Any:
        pair = tokenize(*asked, **named)
        return replace(pair, chosen_ids=pair.chosen_ids[:-1], rejected_ids=pair.rejected_ids[:-1])

    tokenize = reference.tokenize_pair
    with patch.object(reference, "tokenize_pair", cut):
        right(task)


def _positions_exchanged(right: Callable[[Task], None], task: Task) -> None:
    from radpo.benchmarks import alpaca_eval

    def exchanged(*asked: Any, **named: Any) -> Any:
        found = compare(*asked, **named)
        return [one if one.preference is None else replace(one, preference=3 - one.preference) for one in found]

    compare = alpaca_eval.compare
    with patch.object(alpaca_eval, "compare", exchanged):
        right(task)


# --- the bugs


def _trained(**training: Any) -> dict[str, Any]:
    return {"training": training}


BUGS: dict[str, Bug] = {
    "not-swapped": Bug(
        "responses not swapped in the second pair", "ra-dpo", "training pairs", {"method": "not-swapped"}
    ),
    "without-goal": Bug("goal left out in training", "ra-dpo", "training pairs", {"method": "without-goal"}),
    "goal-turned": Bug("goal turned round (11 - g)", "ra-dpo", "training pairs", {"method": "goal-turned"}),
    "worst-template": Bug("template that asks for the worst", "ra-dpo", "matrix file", {"goal": 1}),
    "exchanged": Bug("chosen and rejected exchanged", "dpo", "training pairs", {"method": "exchanged"}),
    "other-reference": Bug(
        "reference log-likelihoods of another model", "dpo", "stage", stage="reference", around=_of_another_model
    ),
    "zero-reference": Bug(
        "references all zero", "dpo", "stage", stage="reference", around=_changed_logps(_zero)
    ),
    "learning-rate": Bug("learning rate times 10", "dpo", "matrix file", _trained(learning_rate=2e-2)),
    "beta": Bug("beta times 10", "dpo", "matrix file", _trained(beta=5.0)),
    "label-smoothing": Bug("label smoothing 0.45", "dpo", "matrix file", _trained(label_smoothing=0.45)),
    "no-turn-end": Bug(
        "end-of-turn token missing from responses", "dpo", "stage", stage="reference", around=_without_turn_end
    ),
    "halved": Bug("responses cut to half", "dpo", "training pairs", {"method": "halved"}),
    "shuffled-reference": Bug(
        "training data shuffled against its references", "dpo", "stage", stage="reference",
        around=_changed_logps(_shuffled),
    ),
    "contaminated": Bug(
        "held-out prompts in training", "dpo", "matrix file",
        matrix={"data": {"train": {"path": "train-and-heldout.jsonl"}}},
    ),
    "positions": Bug(
        "a judge with its positions exchanged", "dpo", "stage", stage="alpaca-eval", around=_positions_exchanged
    ),
    "greedy": Bug(
        "greedy instead of sampled answers", "dpo", "matrix file",
        matrix={"benchmarks": {name: {"sampling": {"temperature": 0}} for name in ("mt-bench", "alpaca-eval")}},
    ),
}  # fmt: skip


@contextmanager
def planted(bug: Bug) -> Iterator[None]:
    """The bug's kind of stage computes what it should not, under keys of its own, while this lasts."""
    if bug.around is None:
        yield
        return
    from radpo.matrix import expand, training_stages

    stages = expand.stage_functions
    right, around = {**training_stages.FUNCTIONS, **stages()}[bug.stage], bug.around
    wrong = replace(right, run=lambda task: around(right.run, task), version=1000 + list(BUGS.values()).index(bug))
    with patch.object(expand, "stage_functions", lambda: {**stages(), bug.stage: wrong}):
        yield


# --- an executor that computes where the bugs were planted


class Here:
    """Computes each stage in this process at once."""

    slots = 1

    def __init__(self, store: Store) -> None:
        self._store = store
        self._events: list[Event] = []

    def start(self, stage: Stage, notes: Mapping[str, Any]) -> None:
        outcome = execute(stage, self._store, notes, lambda done, total: None)
        self._events.append(Event(stage, outcome=outcome))

    def events(self, seconds: float) -> list[Event]:
        events, self._events = self._events, []
        return events

    def close(self) -> None: ...


HERE = Executor("here", NoSettings, lambda store, jobs, options: Here(store))

ENTRY_POINTS = """\
[radpo.executors]
here = planted:HERE
[radpo.variants]
not-swapped = planted:NOT_SWAPPED
without-goal = planted:WITHOUT_GOAL
goal-turned = planted:GOAL_TURNED
exchanged = planted:EXCHANGED
halved = planted:HALVED
"""
