"""alpaca-eval's annotators: pairs come in, preferences go out, the package's own code building prompts and parsing.

Only the sending is replaced: the package's client neither caches what was paid for nor knows a limit. Which of the two
outputs is shown first is the package's own seeded draw for each instruction.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from radpo.clients.chat import Chat, ChatRequest
from radpo.core.errors import ConfigError, DataError
from radpo.core.progress import Progress, no_progress
from radpo.judges.base import CompareRequest, Comparison

# What an annotator may ask of its client that goes into a chat request's body; the rest is for the package's client.
_BODY = frozenset(
    {"max_tokens", "temperature", "top_p", "logprobs", "top_logprobs", "stop", "seed", "tools", "tool_choice"}
    | {"functions", "function_call", "response_format", "logit_bias", "presence_penalty", "frequency_penalty"}
)
_DEFAULTS = {"max_tokens": 2048, "temperature": 0.7, "top_p": 1.0}
"""The package's client's own."""


def annotate_pairs(
    chat: Chat, annotator: str, requests: Sequence[CompareRequest], progress: Progress = no_progress
) -> list[Comparison]:
    """Compare every pair, in order, as the annotator would.

    Args:
        annotator: a name in the package's evaluators_configs.

    Raises:
        ConfigError: there is no such annotator, or it is not one for chat models.
        DataError: a prompt has more than one turn.
        ServiceError: as `Chat.complete`.
    """
    if not requests:
        return []
    import pandas as pd

    rows = [
        {"instruction": _instruction(request), "output_1": request.first, "output_2": request.second}
        for request in requests
    ]
    with _quiet():
        package = _load(annotator)
        for single in package.annotators.values():
            single.fn_completions = lambda prompts, **options: _complete(chat, prompts, options, progress)
        done = package(pd.DataFrame(rows), chunksize=None)
    by_pair = {(row["instruction"], row["output_1"], row["output_2"]): row for row in done}
    return [_comparison(by_pair[row["instruction"], row["output_1"], row["output_2"]]) for row in rows]


def _load(annotator: str) -> Any:
    from alpaca_eval.annotators import PairwiseAnnotator
    from alpaca_eval.constants import EVALUATORS_CONFIG_DIR

    folder = Path(EVALUATORS_CONFIG_DIR) / annotator
    if not (folder / "configs.yaml").is_file():
        known = sorted(path.parent.name for path in Path(EVALUATORS_CONFIG_DIR).glob("*/configs.yaml"))
        raise ConfigError(f"annotator {annotator!r}: no such annotator of alpaca-eval; there are {', '.join(known)}")
    # caching_path: the package would otherwise write its answers into its own installed folder.
    return PairwiseAnnotator(annotators_config=folder.resolve(), caching_path=None)


def _complete(chat: Chat, prompts: Sequence[str], options: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """What the package's own client gives for prompts, by way of ours."""
    from alpaca_eval.utils import prompt_to_chatml

    body = {**_DEFAULTS, **{name: value for name, value in options.items() if name in _BODY}}
    if options.get("is_strip", True):
        prompts = [prompt.strip() for prompt in prompts]
    try:
        asked = [ChatRequest(prompt_to_chatml(prompt), body) for prompt in prompts]
    except (AssertionError, ValueError) as error:
        raise ConfigError("the annotator's prompt is not for chat models (it is not in ChatML)") from error
    replies = chat.complete(asked, progress)
    texts = [reply.text or "" for reply in replies]
    return {
        "completions": texts,
        # The parsers take "" for an answer that could not be had, which leaves the pair without a preference.
        "completions_all": [
            {**reply.choice, "text": text} if reply.text is not None else ""
            for reply, text in zip(replies, texts, strict=True)
        ],
        "price_per_example": [0.0] * len(replies),
        "time_per_example": [0.0] * len(replies),
    }


def _comparison(row: Mapping[str, Any]) -> Comparison:
    preference = row.get("preference")
    raw = row.get("preference_raw_completion")
    text = raw.get("text") if isinstance(raw, dict) else raw
    reason = row.get("concise_explanation") or (text if isinstance(text, str) else "")
    known = isinstance(preference, int | float) and preference == preference
    return Comparison(float(preference) if known else None, str(reason))  # type: ignore[arg-type]


def _instruction(request: CompareRequest) -> str:
    users = [message["content"] for message in request.prompt if message["role"] == "user"]
    if len(users) != 1:
        raise DataError(f"alpaca-eval's annotators compare answers to one message, and a prompt here has {len(users)}")
    return users[0]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep back what the package says through the root logger and as warnings; what matters is in the verdicts."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
