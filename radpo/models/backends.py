"""Ways to answer conversations: transformers and vLLM on a checkpoint's folder, and any OpenAI-compatible endpoint."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from radpo.clients.chat import Chat, ChatRequest
from radpo.core.errors import ConfigError
from radpo.core.progress import Progress
from radpo.core.texts import storable
from radpo.models.chat_template import date_notes
from radpo.models.context import Room, context_of, saved_context
from radpo.models.decoding import (
    Sampling,
    model_settings_note,
    saved_generation_config,
    turn_end_notes,
    vllm_parameters,
)
from radpo.models.generation import Conversation, Goal, Keep, answer, render
from radpo.models.loading import load_model, load_tokenizer
from radpo.models.precision import Precision, settle

CHUNK = 256
"""How many conversations go to vLLM at once, so that an interrupted run keeps what was finished."""


class Backend(Protocol):
    """Answers conversations, in order. `done` are an interrupted call's answers, by place; `keep` gets the others."""

    def __call__(
        self,
        conversations: Sequence[Conversation],
        sampling: Sampling,
        done: Mapping[int, str],
        keep: Keep,
        progress: Progress,
    ) -> list[str]:
        """An answer for each conversation."""
        ...


@dataclass
class _Own:
    """A model's own generation config, and whether answers were drawn by it."""

    config: Any
    asked: bool = False

    def notes(self) -> list[str]:
        return [model_settings_note(self.config)] if self.asked else []


@dataclass(frozen=True)
class _Noted:
    """A backend that has something to say of its answers, once they are there."""

    call: Backend
    notes: Callable[[], list[str]]
    unanswered: Mapping[int, str] = field(default_factory=dict)
    check_unanswered: Callable[[Sequence[str], int], None] | None = None

    def __call__(
        self,
        conversations: Sequence[Conversation],
        sampling: Sampling,
        done: Mapping[int, str],
        keep: Keep,
        progress: Progress,
    ) -> list[str]:
        return self.call(conversations, sampling, done, keep, progress)


def notes_of(backend: Backend) -> list[str]:
    """Sentences on the answers that a backend has given; none from one that keeps no notes."""
    notes: Callable[[], list[str]] | None = getattr(backend, "notes", None)
    return [] if notes is None else notes()


def unanswered_of(backend: Backend) -> Mapping[int, str]:
    """Which conversations of the last call have no answer, by place, and why; their answers are empty texts."""
    found: Mapping[int, str] = getattr(backend, "unanswered", {})
    return found


def check_unanswered(backend: Backend, reasons: Sequence[str], total: int) -> None:
    """Bear some questions without an answer, and no more of them than the backend's settings say.

    Raises:
        ServiceError: there are more.
    """
    check: Callable[[Sequence[str], int], None] | None = getattr(backend, "check_unanswered", None)
    if check is not None:
        check(reasons, total)


def with_transformers(
    folder: Path, *, goal: Goal = "default", batch_size: int = 32, precision: Precision = "auto"
) -> Backend:
    """Answers by a Hugging Face folder in this process, on the GPU where there is one."""
    model, tokenizer = load_model(folder, precision), load_tokenizer(folder)
    room, own = Room(context_of(model, tokenizer)), _Own(model.generation_config)

    def backend(
        conversations: Sequence[Conversation],
        sampling: Sampling,
        done: Mapping[int, str],
        keep: Keep,
        progress: Progress,
    ) -> list[str]:
        own.asked |= sampling.use_model_config
        return answer(
            model, tokenizer, conversations, sampling,
            goal=goal, batch_size=batch_size, done=done, keep=keep, room=room, progress=progress,
        )  # fmt: skip

    return _Noted(
        backend, lambda: [*date_notes(folder), *turn_end_notes(own.config, tokenizer), *own.notes(), *room.notes()]
    )


def with_vllm(folder: Path, *, goal: Goal = "default", precision: Precision = "auto") -> Backend:
    """Answers by a Hugging Face folder through vLLM.

    Prompts are rendered here, by the checkpoint's own template, so that a goal reaches it whatever vLLM's version.

    Raises:
        ConfigError: vLLM is not installed.
    """
    try:
        from vllm import LLM, SamplingParams  # type: ignore[import-not-found]
    except ImportError as error:
        raise ConfigError(
            f"backend vllm: it cannot be loaded ({error}); install radpo[vllm], or use another"
        ) from error
    model = LLM(model=str(folder), dtype=settle(precision), trust_remote_code=False)
    tokenizer, own = load_tokenizer(folder), _Own(saved_generation_config(folder))
    room = Room(saved_context(folder, tokenizer))

    def backend(
        conversations: Sequence[Conversation],
        sampling: Sampling,
        done: Mapping[int, str],
        keep: Keep,
        progress: Progress,
    ) -> list[str]:
        own.asked |= sampling.use_model_config
        prompts, answers = render(tokenizer, conversations, goal), dict(done)
        rooms = room.for_answers([len(prompt) for prompt in prompts], sampling.max_new_tokens)
        answers |= {place: "" for place, most in enumerate(rooms) if most == 0}
        missing = [place for place in range(len(prompts)) if place not in answers]
        for start in range(0, len(missing), CHUNK):
            part = missing[start : start + CHUNK]
            outputs = model.generate(
                [{"prompt_token_ids": prompts[place]} for place in part],
                [SamplingParams(**vllm_parameters(own.config, tokenizer, sampling, rooms[place])) for place in part],
                use_tqdm=False,
            )
            fresh = {place: output.outputs[0].text.strip() for place, output in zip(part, outputs, strict=True)}
            answers |= fresh
            keep(fresh)
            progress(len(answers), len(prompts))
        return [answers[place] for place in range(len(prompts))]

    return _Noted(
        backend, lambda: [*date_notes(folder), *turn_end_notes(own.config, tokenizer), *own.notes(), *room.notes()]
    )


def with_endpoint(chat: Chat, *, goal: Goal = "default") -> Backend:
    """Answers by an OpenAI-compatible endpoint, which renders the conversations itself.

    What it does where its model's context ends, and what of the model's own generation config it applies, is its own.

    A goal other than the checkpoint's own goes as `chat_template_kwargs`, which vLLM's and transformers' servers take.
    What is answered is in the chat's cache, from which an interrupted call resumes. A conversation that the endpoint
    refuses or answers without a text is unanswered (`unanswered_of`).
    """

    def backend(
        conversations: Sequence[Conversation],
        sampling: Sampling,
        done: Mapping[int, str],
        keep: Keep,
        progress: Progress,
    ) -> list[str]:
        options: dict[str, Any] = {"max_tokens": sampling.max_new_tokens}
        if not sampling.use_model_config:  # a server fills what it is not given from its model's generation config
            options["temperature"] = sampling.temperature
        if sampling.use_model_config or sampling.temperature > 0:
            options["seed"] = sampling.seed
        if not sampling.use_model_config and sampling.temperature > 0:
            options["top_p"] = sampling.top_p
        if sampling.stop:
            options["stop"] = list(sampling.stop)
        if goal != "default":
            options["chat_template_kwargs"] = {"goal": goal}
        missing = [place for place in range(len(conversations)) if place not in done]
        chat.useful |= bool(done)  # else an interrupted call would fail that has only unanswered ones left
        asked = [ChatRequest(conversations[place], options) for place in missing]
        answers = dict(done)
        unanswered.clear()
        for place, reply in zip(missing, chat.replies(asked, progress), strict=True):
            omitted.update(reply.omitted)
            answers[place] = storable(reply.text or "").strip()
            if reply.text is None:
                unanswered[place] = storable(reply.error or "no answer")
        keep({place: answers[place] for place in missing if place not in unanswered})
        return [answers[place] for place in range(len(conversations))]

    unanswered: dict[int, str] = {}
    omitted: Counter[str] = Counter()

    def notes() -> list[str]:
        found = [
            f"the endpoint takes no {name} from its users; {count} answers were drawn at its own."
            for name, count in sorted(omitted.items())
        ]
        # Without a version the cache is this call's own, and holds what an interrupted try had answered.
        if (kept := chat.usage.from_cache) and chat.endpoint.version is not None:
            total = kept + chat.usage.answered
            found.append(
                f"{kept} of {total} answers came from the cache of replies, of version {chat.endpoint.version}."
            )
        return [*found, *chat.notes]

    return _Noted(backend, notes, unanswered, chat.check_unanswered)
