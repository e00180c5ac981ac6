"""TRL's own batch, with its pairs laid out so that a prompt is read once.

`StepGroupedSampler` decides which pairs share a batch.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.data_loader import SeedableRandomSampler
from torch.utils.data import Sampler
from trl.trainer.dpo_trainer import DataCollatorForPreference

from radpo.models.shared_prefix import SharedRows, shared_rows

PAIR_IDS, PAIR_GAPS = "pair_ids", "pair_gaps"
_ROWS = "rows_"


@dataclass
class SharedPrefixCollator(DataCollatorForPreference):  # type: ignore[misc]
    """TRL's collator, whose batch also has every pair as one row [prompt | chosen | rejected].

    Adds `rows_input_ids`, `rows_position_ids`, `rows_branch` and `rows_labels`, each (pairs, width), see
    `radpo.models.shared_prefix.SharedRows`; `pair_ids` where the examples have an `id`; and `pair_gaps`, (pairs,),
    where each has a `gap`.

    Examples:
    ```python
    >>> collator = SharedPrefixCollator(pad_token_id=0)
    >>> batch = collator([{"prompt_ids": [1, 2, 3], "chosen_ids": [4, 5], "rejected_ids": [6]}])
    >>> batch["rows_input_ids"]
    tensor([[1, 2, 3, 4, 3]])
    >>> batch["rows_labels"]
    tensor([[-100, -100,    4,    5,    6]])
    >>> batch["rows_branch"]
    tensor([[0, 0, 1, 1, 2]])

    ```
    """

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """Collate examples of `prompt_ids`, `chosen_ids`, `rejected_ids` and maybe reference log-likelihoods and id.

        Raises:
            DataError: a prompt has no token.
        """
        batch: dict[str, Any] = super().torch_call(examples)
        rows = shared_rows(
            [example["prompt_ids"] for example in examples],
            [[self._kept(example, side) for side in ("chosen_ids", "rejected_ids")] for example in examples],
            self.pad_token_id,
        )
        batch |= {f"{_ROWS}{name}": value for name, value in vars(rows).items()}
        if "id" in examples[0]:
            batch[PAIR_IDS] = [example["id"] for example in examples]
        if all(example.get("gap") is not None for example in examples):
            batch[PAIR_GAPS] = torch.tensor([example["gap"] for example in examples])
        return batch

    def _kept(self, example: dict[str, Any], side: str) -> list[int]:
        response: list[int] = example[side]
        return response if self.max_length is None else response[: max(self.max_length - len(example["prompt_ids"]), 0)]


def take_rows(batch: dict[str, Any]) -> tuple[SharedRows | None, list[str], dict[str, Any]]:
    """A batch's rows (None if it has none), its pairs' ids, and what is left: the batch as TRL knows it."""
    rest = {name: value for name, value in batch.items() if not name.startswith(_ROWS) and name != PAIR_IDS}
    if f"{_ROWS}input_ids" not in batch:
        return None, batch.get(PAIR_IDS, []), rest
    rows = SharedRows(*(batch[f"{_ROWS}{name}"] for name in SharedRows.__dataclass_fields__))
    return rows, batch.get(PAIR_IDS, []), rest


class StepGroupedSampler(Sampler[int]):  # type: ignore[misc]
    """TRL's order of the pairs, with those of one optimiser step put in order of length.

    The pairs of a step are those that TRL's own sampler would give it, so the gradient is the same sum; only which of
    them share a micro-batch, and with that how much is padding, is chosen by length. Longest first: what does not fit
    into memory shows at once.

    Args:
        lengths: of every pair, in tokens.
        step_size: pairs that an optimiser step sees, over all processes.
        seed: of the order, as TRL's `data_seed`.
        groups: what each pair belongs to; pairs of one group follow each other in the order. Each is by itself unless
            given.
    """

    def __init__(
        self, lengths: Sequence[int], step_size: int, seed: int, groups: Sequence[Hashable] | None = None
    ) -> None:
        self._lengths, self._step_size = lengths, step_size
        members: dict[Hashable, list[int]] = {}
        for place, group in enumerate(range(len(lengths)) if groups is None else groups):
            members.setdefault(group, []).append(place)
        self._groups = list(members.values())
        self._order = SeedableRandomSampler(range(len(self._groups)), generator=torch.Generator(), data_seed=seed)

    def set_epoch(self, epoch: int) -> None:
        """Which epoch's order comes next."""
        self._order.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        order = [place for group in self._order for place in self._groups[group]]
        for start in range(0, len(order), self._step_size):
            yield from sorted(order[start : start + self._step_size], key=lambda index: -self._lengths[index])
