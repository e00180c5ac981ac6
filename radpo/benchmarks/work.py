"""How much there is to do in a stage: tokens, judge calls, bytes. No model is loaded to count it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from radpo.benchmarks.sizes import BYTES_A_TOKEN, Sizes
from radpo.clients.endpoint import BATCH_PRICE
from radpo.engine.graph import Stage
from radpo.engine.sources import Source
from radpo.judges.lookup import find_judge_kind

if TYPE_CHECKING:
    from radpo.preferences.questions import Question

PROGRAMS = ("verifier", "reward-model")
"""Judges that run here and cost nothing."""
JUDGE_TOKENS = 200
"""Tokens that a judge is taken to answer with: 177 in released judgments of two-turn answers by GPT-4."""
GOAL_TOKENS = 42
"""Of the goal's text, in any tokenizer about as many."""


@dataclass(frozen=True)
class Work:
    """What one stage has to do. Token counts are of the model whose `parameters` and `layers` are given.

    Args:
        prefill_tokens: tokens that go through the model once, forward.
        trained_tokens: tokens that go forward and backward.
        generated_tokens: tokens that are generated; in `decode_steps` steps, each for a batch.
        judge_calls: requests to a judge, or to the endpoint of a model under test; `judge_prompt_tokens` and
            `judge_generated_tokens` are theirs in all.
        judge_dollars: what they cost, None where no price is known.
        disk_bytes: what the stage leaves in the store.
        scratch_bytes: what it writes besides while it runs.
        memory_bytes: what weights, gradients and optimiser take in memory at least, where a model is trained.
        precision: of the arithmetic.
    """

    parameters: int = 0
    layers: int = 0
    prefill_tokens: float = 0
    trained_tokens: float = 0
    generated_tokens: float = 0
    decode_steps: float = 0
    judge_calls: int = 0
    judge_prompt_tokens: float = 0
    judge_generated_tokens: float = 0
    judge_dollars: float | None = 0.0
    disk_bytes: float = 0
    scratch_bytes: float = 0
    memory_bytes: float = 0
    precision: str = "bfloat16"

    @property
    def tokens(self) -> float:
        """All tokens that go through the model."""
        return self.prefill_tokens + self.trained_tokens + self.generated_tokens

    @property
    def flops(self) -> float:
        """Floating-point operations: 2N a token forward, 6N forward and backward, for N parameters.

        Source: Kaplan et al. 2020 (arXiv 2001.08361), section 2.1, without the term for attention, which is small
        where the context is shorter than the model is wide times its layers.
        """
        return self.parameters * (2 * (self.prefill_tokens + self.generated_tokens) + 6 * self.trained_tokens)


def of_model(sizes: Sizes, stage: Stage, **work: Any) -> Work:
    """Work of the stage's own model, at the stage's own precision unless another is given."""
    model = sizes.model(stage)
    precision = work.pop("precision", _precision_of(stage.settings))
    return Work(parameters=model.parameters, layers=model.layers, precision=precision, **work)


def _precision_of(settings: Mapping[str, Any]) -> str:
    """Of a stage's settings, or of those of its training or sampling; what names none computes in float32."""
    for part in (settings, settings.get("training"), settings.get("sampling")):
        if isinstance(part, Mapping) and isinstance(part.get("precision"), str):
            return str(part["precision"])
    return "float32"


def figures_only(sizes: Sizes, stage: Stage) -> Work:
    """Of a stage that works out figures from what other stages measured."""
    return Work(disk_bytes=2e4)


def judged(
    sizes: Sizes,
    stage: Stage,
    *,
    answers: str = "answers",
    pairwise: bool,
    swapped: int = 0,
    judge_tokens: float | Callable[[Mapping[str, Any]], float] = JUDGE_TOKENS,
) -> Work:
    """A judge's work on every turn of every question's answers.

    Programs judge every answer by itself; another judge sees each pair of answers that is compared at once. Of a panel
    all judges do.

    Args:
        pairwise: whether two answers are compared, the other one being the input `baseline_answers` or a file's.
        swapped: comparisons that are asked again in the other order.
        judge_tokens: what the judge answers with; or that by a judge's settings.
    """
    questions = sizes.questions(stage.settings)
    judged_answers = [stage.inputs[name] for name in (answers, "baseline_answers") if name in stage.inputs]
    turns = sum(len(question.turns) for question in questions)
    longest = sizes.longest(judged_answers[0].settings)
    asked = sum(sizes.count(judged_answers[0], [turn for question in questions for turn in question.turns]))
    found = Work()
    for kind, said in judges_of(stage):
        compared = pairwise and kind not in PROGRAMS
        calls = turns + min(turns, swapped) if compared else turns * len(judged_answers)
        prompts = asked * calls / max(1, turns) + calls * longest * (2 if compared else 1)
        answered = judge_tokens(said) if callable(judge_tokens) else judge_tokens
        found = _with_judge(found, kind, said, calls, prompts, float(calls * answered), 2000 + 5 * longest)
    return found


def asked_of_endpoint(stage: Stage, questions: Sequence[Question], longest: float) -> Work:
    """What it takes to have an endpoint answer every turn, the turns before it being part of each request.

    Args:
        longest: tokens of an answer to one turn.
    """
    turns = [(place, turn) for question in questions for place, turn in enumerate(question.turns)]
    texts = sum(len(turn.encode()) // BYTES_A_TOKEN for _, turn in turns)
    earlier = sum(
        (len(question.turns) - 1 - place) * (len(turn.encode()) // BYTES_A_TOKEN + longest)
        for question in questions
        for place, turn in enumerate(question.turns)
    )
    prompts, generated = float(texts + earlier), len(turns) * longest
    said = stage.hints["endpoint"]
    return Work(
        judge_calls=len(turns),
        judge_prompt_tokens=prompts,
        judge_generated_tokens=generated,
        judge_dollars=_dollars(said, prompts, generated),
        disk_bytes=5 * generated,
    )


def judged_samples(sizes: Sizes, stage: Stage, samples: int, longest: int) -> Work:
    """A judge's work on every sample, each graded by itself."""
    found = Work()
    for kind, said in judges_of(stage):
        prompts, generated = float(samples * longest), float(samples * JUDGE_TOKENS)
        found = _with_judge(found, kind, said, samples, prompts, generated, 1000 + 5 * longest)
    return found


def judges_of(stage: Stage) -> list[tuple[str, dict[str, Any]]]:
    """The judges that a stage asks, each by its kind with all its settings; those of a panel one by one."""
    if not isinstance(stage.settings.get("judge", "verifier"), str):
        return []
    kind, settings = whole_judge(stage.settings, stage.hints)
    members = [member for name in find_judge_kind(kind).members for member in settings[name]]
    return [(member["kind"], member) for member in members] if members else [(kind, settings)]


def whole_judge(settings: Mapping[str, Any], hints: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """A judge's kind and all its settings, from a stage's settings and hints (`radpo.benchmarks.pieces`)."""
    kind, extra = settings.get("judge", "verifier"), hints.get("judge_settings", {})
    counted = {
        name: value.read_from if isinstance(value, Source) else value
        for name, value in settings.get("judge_settings", {}).items()
    }
    whole = {**extra, **counted}
    for name in find_judge_kind(kind).members:
        parts = [whole_judge(*part) for part in zip(counted[name], extra[name], strict=True)]
        whole[name] = [{"kind": of, **said} for of, said in parts]
    return kind, whole


def _with_judge(
    work: Work, kind: str, said: Mapping[str, Any], calls: int, prompts: float, generated: float, bytes_each: float
) -> Work:
    """Work with that of one more judge."""
    free = find_judge_kind(kind).free
    price = 0.0 if free else _dollars(said, prompts, generated)
    return replace(
        work,
        judge_calls=work.judge_calls + calls,
        judge_prompt_tokens=work.judge_prompt_tokens + prompts,
        judge_generated_tokens=work.judge_generated_tokens + generated,
        judge_dollars=None if price is None or work.judge_dollars is None else work.judge_dollars + price,
        disk_bytes=work.disk_bytes + calls * bytes_each,
    )


def _dollars(said: Mapping[str, Any], prompts: float, generated: float) -> float | None:
    """At an endpoint's prices in dollars for a million tokens; None where one of them is not known."""
    price_in, price_out = said.get("price_in"), said.get("price_out")
    if price_in is None or price_out is None:
        return None
    share = BATCH_PRICE if said.get("batch") else 1.0
    return share * float(prompts * price_in + generated * price_out) / 1e6
