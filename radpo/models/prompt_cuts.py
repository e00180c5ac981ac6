"""What lm-eval cut off prompts that do not fit a model's context."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Asked = tuple[str, str | None]
"""A request: its prompt, and the continuation whose log-likelihood is asked; None where text is generated."""


@dataclass(frozen=True)
class Cut:
    """What a prompt lost from its beginning, where the system message and the first examples are.

    Args:
        tokens: how many it lost.
        of: how many it had.
        read: what was left of it, as text.
    """

    tokens: int
    of: int
    read: str


def cut_of(cuts: Mapping[Asked, Cut], sample: Mapping[str, Any]) -> Cut | None:
    """The largest cut among a document's requests; None where nothing was cut.

    Args:
        sample: as lm-eval logs it.
    """
    found = [
        cut
        for prompt, second, *_ in sample["arguments"]
        if (cut := cuts.get((prompt, second if isinstance(second, str) else None))) is not None
    ]
    return max(found, key=lambda cut: cut.tokens, default=None)


def cut_note(task: str, cuts: Mapping[Asked, Cut], samples: Sequence[Mapping[str, Any]]) -> list[str]:
    """One sentence on a task's prompts that were cut; none where none were."""
    documents = {sample["doc_id"]: cut_of(cuts, sample) for sample in samples}
    lost = [(cut.tokens, cut.of) for cut in documents.values() if cut is not None]
    if not lost:
        return []
    most, of = max(lost)
    return [
        f"academic, {task}: {len(lost)} of {len(documents)} prompts did not fit the model's context and lost tokens "
        f"from their beginning (up to {most} of {of}), which is where a goal and the first few-shot examples are: the "
        "few-shot count does not hold for them. Ask for fewer examples, as in `task:2`."
    ]
