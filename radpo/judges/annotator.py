"""alpaca-eval's annotators, whose prompts and parsing are the package's own code.

Only the sending is replaced: the package's client neither caches what was paid for nor knows a limit. Which of the two
outputs is shown first is the package's own seeded draw for each instruction.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from radpo.clients.chat import Chat, ChatRequest, LazyRequests
from radpo.clients.replies import ChatReply
from radpo.core.errors import ConfigError, DataError
from radpo.core.progress import Progress, no_progress
from radpo.core.quiet import quiet_package
from radpo.core.texts import excerpt
from radpo.judges.base import CompareRequest, Comparison
from radpo.judges.record import JudgeRecord, read_reply, says_nothing
from radpo.judges.structure import acting_marks, frame_of

if TYPE_CHECKING:
    import pandas as pd

# What an annotator may ask of its client that goes into a chat request's body; the rest is for the package's client.
_BODY = frozenset(
    {"max_tokens", "temperature", "top_p", "logprobs", "top_logprobs", "stop", "seed", "tools", "tool_choice"}
    | {"functions", "function_call", "response_format", "logit_bias", "presence_penalty", "frequency_penalty"}
)
_DEFAULTS = {"max_tokens": 2048, "temperature": 0.7, "top_p": 1.0}
"""The package's client's own."""
_PLACEHOLDER = re.compile(r"{([^ \s]+?)}")
"""As the package's own."""


def annotate_pairs(
    chat: Chat,
    annotator: str,
    requests: Sequence[CompareRequest],
    progress: Progress = no_progress,
    record: JudgeRecord | None = None,
) -> list[Comparison]:
    """Compare every pair, in order, as the annotator would.

    Args:
        annotator: a name in the package's evaluators_configs.
        record: what is to be said of the replies is counted there.

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
    reasons: dict[frozenset[str], str] = {}
    record = record or JudgeRecord()
    with quiet_package():
        package = _load(annotator)
        for single in package.annotators.values():
            single._make_prompts = partial(_fill, single.prompt_template, single.batch_size)
            single.fn_completions = lambda prompts, **options: _complete(
                chat, prompts, options, record, reasons, progress
            )
        done = package(pd.DataFrame(rows), chunksize=None)
    by_pair = {(row["instruction"], row["output_1"], row["output_2"]): row for row in done}
    return [
        _comparison(by_pair[tuple(row.values())], reasons.get(frozenset(row.values()), ""))  # type: ignore[index]
        for row in rows
    ]


def _load(annotator: str) -> Any:
    from alpaca_eval.annotators import PairwiseAnnotator
    from alpaca_eval.constants import EVALUATORS_CONFIG_DIR

    folder = Path(EVALUATORS_CONFIG_DIR) / annotator
    if not (folder / "configs.yaml").is_file():
        known = sorted(path.parent.name for path in Path(EVALUATORS_CONFIG_DIR).glob("*/configs.yaml"))
        raise ConfigError(f"annotator {annotator!r}: no such annotator of alpaca-eval; there are {', '.join(known)}")
    # caching_path: the package would otherwise write its answers into its own installed folder.
    return PairwiseAnnotator(annotators_config=folder.resolve(), caching_path=None)


@dataclass(frozen=True)
class _Filled:
    """A prompt: its template's messages and marks, and the texts of its pairs, by placeholder.

    It is filled anew each time that its messages are asked for: they are as long as all of its texts.
    """

    parts: list[dict[str, str]]
    frame: frozenset[str]
    filled: dict[str, list[str]]
    asked: str

    @property
    def texts(self) -> list[str]:
        """The texts that are filled in."""
        return [text for texts in self.filled.values() for text in texts]

    def messages(self) -> list[dict[str, str]]:
        """The template with its texts, each in its place once."""
        fill = partial(_fill_place, {name: iter(texts) for name, texts in self.filled.items()})
        return [{**part, "content": _PLACEHOLDER.sub(fill, part["content"]).strip()} for part in self.parts]


def _fill(template: str, batch_size: int, rows: pd.DataFrame) -> tuple[list[_Filled], pd.DataFrame]:
    """What the package's `make_prompts` and `prompt_to_chatml` make of a template and pairs, text staying text.

    The package fills placeholder after placeholder and splits what results into messages, so that an answer with
    `<|im_end|>` cuts the prompt, and an instruction with `{output_1}` gets an answer put in. Here the template is split
    first, and every placeholder filled once.
    """
    from alpaca_eval.utils import prompt_to_chatml

    try:
        parts = prompt_to_chatml(template)
    except (AssertionError, ValueError, IndexError) as error:
        raise ConfigError("the annotator's prompt is not for chat models (it is not in ChatML)") from error
    frame, table = frame_of(template), rows.to_dict("records")
    names = Counter(name for part in parts for name in _PLACEHOLDER.findall(part["content"]) if name in rows.columns)
    if set(names.values()) != {batch_size}:
        raise ConfigError(f"the annotator's prompt does not hold every placeholder {batch_size} times: {dict(names)}")
    prompts = []
    for start in range(0, len(table), batch_size):
        batch = table[start : start + batch_size]
        filled = {name: [str(row[name]) for row in batch] for name in names}
        prompts.append(_Filled(parts, frame, filled, str(batch[0]["instruction"])))
    return prompts, rows.copy()


def _fill_place(waiting: Mapping[str, Iterator[str]], place: re.Match[str]) -> str:
    """The next text for a placeholder; what only looks like one stays."""
    return next(waiting[place[1]]) if place[1] in waiting else place[0]


def _complete(
    chat: Chat,
    prompts: Sequence[_Filled],
    options: Mapping[str, Any],
    record: JudgeRecord,
    reasons: dict[frozenset[str], str],
    progress: Progress,
) -> dict[str, Any]:
    """What the package's own client gives for prompts, by way of ours."""
    body = {**_DEFAULTS, **{name: value for name, value in options.items() if name in _BODY}}
    asked = LazyRequests(len(prompts), lambda place: ChatRequest(prompts[place].messages(), body))
    unusable = _without_logprobs if body.get("logprobs") else says_nothing
    texts: list[str] = []
    choices: list[dict[str, Any] | str] = []
    for prompt, reply in zip(prompts, chat.replies(asked, progress, unusable=unusable), strict=True):
        said = read_reply(reply)
        record.add(said, prompt.asked, acting_marks(prompt.texts, prompt.frame))
        reasons[frozenset(prompt.texts)] = said.reason
        texts.append(said.answer or "")
        # The parsers take "" for a missing answer, which leaves the pair without a preference.
        choices.append({**reply.choice, "text": texts[-1]} if said.answer is not None else "")
    return {
        "completions": texts,
        "completions_all": choices,
        "price_per_example": [0.0] * len(texts),
        "time_per_example": [0.0] * len(texts),
    }


def _without_logprobs(reply: ChatReply) -> str | None:
    """Why a reply cannot be read by an annotator that weighs tokens; None where it can."""
    logprobs = reply.choice.get("logprobs")
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    if isinstance(content, list) and content:
        return says_nothing(reply)
    return (
        "the endpoint's replies hold no logprobs, which this annotator of alpaca-eval reads its preference from; use "
        "an endpoint that gives them, or an annotator that reads the text, such as alpaca_eval_gpt4"
    )


def _comparison(row: Mapping[str, Any], said: str) -> Comparison:
    """A row of the package's as a comparison; `said` is the judge's reply, which rows without a verdict lack."""
    preference = row.get("preference")
    raw = row.get("preference_raw_completion")
    text = raw.get("text") if isinstance(raw, dict) else raw
    reason = row.get("concise_explanation") or (text if isinstance(text, str) and text else said)
    known = isinstance(preference, int | float) and preference == preference
    return Comparison(float(preference) if known else None, str(reason))  # type: ignore[arg-type]


def _instruction(request: CompareRequest) -> str:
    users = [message["content"] for message in request.prompt if message["role"] == "user"]
    if len(users) != 1:
        raise DataError(
            f"alpaca-eval's annotators compare answers to one message, and a prompt here has {len(users)}: "
            f"{excerpt(users[0] if users else '')!r}"
        )
    return users[0]
