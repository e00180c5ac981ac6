"""Arena-Hard's judge: its configuration file, its prompts and its five-way verdicts.

The configuration is arena-hard-auto's judge_config.yaml (v0.1) or its like of v2.0, whose system prompts are in that
release's code and are to be added as `system_prompt`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from radpo.clients.chat import Chat, ChatRequest, LazyRequests
from radpo.core.errors import ConfigError, DataError
from radpo.core.progress import Progress, no_progress
from radpo.core.texts import excerpt
from radpo.core.yaml_text import read_yaml
from radpo.judges.base import CompareRequest, Comparison
from radpo.judges.record import JudgeRecord, Said, read_reply, says_nothing, texts_of
from radpo.judges.structure import acting_marks, frame_of

# Verdicts on the scale of preferences; judges also write the labels the other way round.
PREFERENCES: Mapping[str, float] = {
    "A>>B": 1.0, "A>B": 1.25, "A=B": 1.5, "B>A": 1.75, "B>>A": 2.0,
    "B<<A": 1.0, "B<A": 1.25, "B=A": 1.5, "A<B": 1.75, "A<<B": 2.0,
}  # fmt: skip
GO_ON = "continue your judgment and finish by outputting a final verdict label"
"""What v0.1 says to a judge that gave no label."""


@dataclass(frozen=True)
class ArenaConfig:
    """How the judge is asked and read.

    Args:
        template: takes question_1, answer_1, answer_2 (v0.1) or QUESTION, ANSWER_A, ANSWER_B (v2.0).
        patterns: regular expressions for the label, tried in turn.
        attempts: how often a judge without a label is asked to go on; 1 asks once.
        last: v2.0 takes the last of several labels; v0.1 takes none where they differ.
    """

    system: str
    template: str
    patterns: tuple[str, ...]
    temperature: float
    max_tokens: int
    attempts: int
    last: bool


def load_arena_config(path: Path) -> ArenaConfig:
    """Read a judge configuration.

    Raises:
        ConfigError: it cannot be read, or lacks what it needs; the message names the key.
    """
    document = read_yaml(path)
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: Arena-Hard's judge configuration is a mapping")
    template, v2 = document.get("prompt_template"), "regex_patterns" in document
    patterns = document["regex_patterns"] if v2 else [document.get("regex_pattern")]
    texts = {
        "prompt_template": template[0] if isinstance(template, list) and template else template,
        "system_prompt": document.get("system_prompt"),
        **{"regex_patterns" if v2 else "regex_pattern": pattern for pattern in patterns or [None]},
    }
    for key, value in texts.items():
        if not isinstance(value, str):
            raise ConfigError(f"{path}, {key}: missing, or no text; copy it from arena-hard-auto")
    try:
        for pattern in patterns:
            re.compile(str(pattern))
        return ArenaConfig(
            system=str(texts["system_prompt"]),
            template=str(texts["prompt_template"]),
            patterns=tuple(map(str, patterns)),
            temperature=float(document.get("temperature", 0)),
            max_tokens=int(document.get("max_tokens", 4096)),
            attempts=int(document.get("number_of_judgment_attempts", 1)),
            last=v2,
        )
    except (re.error, TypeError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from error


def label(judgment: str, config: ArenaConfig) -> tuple[str | None, bool]:
    """A judgment's label, None where there is none that counts, and whether asking on may bring one."""
    text = judgment.upper() if config.last else judgment
    for pattern in config.patterns:
        found = [match for match in re.findall(pattern, text) if match]
        if found and config.last:
            return found[-1].strip("\n"), False
        if found:
            return (found[0].strip("\n"), False) if len(set(found)) == 1 else (None, False)
    return None, True


def arena_compare(
    chat: Chat,
    config: ArenaConfig,
    requests: Sequence[CompareRequest],
    progress: Progress = no_progress,
    record: JudgeRecord | None = None,
) -> list[Comparison]:
    """Ask for a label on every pair, in the order it is shown, again where none was given.

    Args:
        record: what is to be said of the replies is counted there.

    Raises:
        DataError: a prompt has more than one turn.
        ServiceError: as `Chat.complete`.
    """
    options = {"temperature": config.temperature, "max_tokens": config.max_tokens}
    judgments = [""] * len(requests)
    labels: list[str | None] = [None] * len(requests)
    said: list[Said | None] = [None] * len(requests)
    asking, more = list(range(len(requests))), dict[int, list[dict[str, str]]]()

    def talk(number: int) -> ChatRequest:
        place = asking[number]
        return ChatRequest([*_talk(config, requests[place]), *more.get(place, ())], options)

    for attempt in range(config.attempts):
        replies = chat.replies(LazyRequests(len(asking), talk), progress, unusable=says_nothing)
        open_ones, asked_on = [], dict[int, list[dict[str, str]]]()
        for place, reply in zip(asking, replies, strict=True):
            found = said[place] = read_reply(reply)
            judgments[place] += f"\n{found.reason}"
            if found.answer is None:
                continue
            labels[place], again = label(judgments[place], config)
            if again:
                go_on = [{"role": "assistant", "content": found.answer}, {"role": "user", "content": GO_ON}]
                asked_on[place] = more.get(place, []) + go_on
                open_ones.append(place)
        asking, more = open_ones, asked_on
        if not asking or attempt + 1 == config.attempts:
            break
    frame, record = frame_of(config.template), record or JudgeRecord()
    for request, of in zip(requests, said, strict=True):
        if of is not None:
            record.add(of, request.prompt[-1]["content"], acting_marks(texts_of(request), frame))
    return [
        Comparison(PREFERENCES.get(found or ""), judgment) for found, judgment in zip(labels, judgments, strict=True)
    ]


def _talk(config: ArenaConfig, request: CompareRequest) -> list[dict[str, str]]:
    users = [message["content"] for message in request.prompt if message["role"] == "user"]
    if len(users) != 1:
        asked = excerpt(users[0] if users else "")
        raise DataError(f"Arena-Hard's questions have one turn, and a prompt here has {len(users)}: {asked!r}")
    texts = {"question_1": users[0], "answer_1": request.first, "answer_2": request.second}
    texts |= {"QUESTION": users[0], "ANSWER_A": request.first, "ANSWER_B": request.second}
    try:
        shown = config.template.format(**texts)
    except (KeyError, IndexError, ValueError) as error:
        raise ConfigError(f"Arena-Hard's prompt_template cannot be filled: {error!r}") from error
    return [{"role": "system", "content": config.system}, {"role": "user", "content": shown}]
