"""Notes on a judge's replies beside their verdicts, counted as the replies are read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from radpo.clients.budget import Usage
from radpo.clients.replies import ChatReply
from radpo.core.reasoning import split_reasoning
from radpo.core.texts import excerpt, storable, with_reasons
from radpo.judges.base import CompareRequest, GradeRequest

_SHOWN = 5
LONGEST_REPLY = 1 << 20
"""Characters of a reply that is read for a verdict. All parsers, also those of packages, get no more than that."""


@dataclass(frozen=True)
class Said:
    """What a judge said.

    Args:
        answer: its reply without its reasoning; None where there is none.
        reasoned: whether it reasoned first, in its reply, in a field of its own, or unseen.
        reason: for a record: the answer, or why there is none.
        omitted: options that the endpoint takes no values of.
    """

    answer: str | None
    reasoned: bool
    reason: str
    omitted: tuple[str, ...] = ()


def read_reply(reply: ChatReply) -> Said:
    """A reply without the reasoning before it; one that ends before its reasoning does says nothing."""
    if reply.text is None:
        return Said(None, reply.reasoned, storable(reply.error or "no answer"), reply.omitted)
    if len(reply.text) > LONGEST_REPLY:
        why = f"a reply of {len(reply.text)} characters, of which none is read as a verdict"
        return Said(None, reply.reasoned, why, reply.omitted)
    parts = split_reasoning(storable(reply.text))
    reasoned = reply.reasoned or parts.reasoning is not None
    if parts.reasoning is not None and not parts.answer.strip():
        why = f"the reply ends in its reasoning (finish_reason {reply.finish_reason})"
        return Said(None, reasoned, why, reply.omitted)
    return Said(parts.answer, reasoned, parts.answer, reply.omitted)


def says_nothing(reply: ChatReply) -> str | None:
    """Why a reply has no answer, None where it has one: where the first few have none, a chat sends no more."""
    said = read_reply(reply)
    return said.reason if said.answer is None else None


@dataclass
class JudgeRecord:
    """Counts over all replies of one judge.

    Args:
        replies: replies read.
        reasoned: those that came with reasoning, which was cut off.
        contradictory: those in which FastChat's rule and the last verdict differ.
        last_taken: those of them in which the last verdict counts.
        unanswered: the excerpts of the prompts without an answer, each with the reason.
        omitted: in how many an option was left out that the endpoint takes no values of.
        unreferenced: requests of a category that is judged beside a reference answer, without one.
        structured: prompts with a text that could act as a part of them.
        marks: in how many prompts each such mark was found.
    """

    replies: int = 0
    reasoned: int = 0
    contradictory: int = 0
    last_taken: int = 0
    unanswered: list[tuple[str, str]] = field(default_factory=list)
    omitted: Counter[str] = field(default_factory=Counter)
    unreferenced: int = 0
    structured: int = 0
    marks: Counter[str] = field(default_factory=Counter)

    def add(self, said: Said, asked: str, marks: frozenset[str]) -> None:
        """Count a reply.

        Args:
            asked: the question that was judged.
            marks: as `radpo.judges.structure.acting_marks` gives.
        """
        self.replies += 1
        self.reasoned += said.reasoned
        self.omitted.update(said.omitted)
        self.structured += bool(marks)
        self.marks.update(marks)
        if said.answer is None:
            self.unanswered.append((excerpt(asked), said.reason))

    def add_verdicts(self, published: object, last: object, *, take_last: bool) -> None:
        """Count a reply's verdicts by FastChat's rule and by the last one, and which of them counts."""
        differ = published != last
        self.contradictory += differ
        self.last_taken += differ and take_last

    def notes(self) -> list[str]:
        """Sentences for the record; none where there is nothing to say."""
        found = []
        if self.reasoned:
            found.append(
                f"the judge reasoned before {self.reasoned} of {self.replies} replies; verdicts in its reasoning do "
                "not count."
            )
        if self.contradictory:
            taken = (
                "FastChat's rule counts"
                if not self.last_taken
                else "the last one counts"
                if self.last_taken == self.contradictory
                else f"the last one counts in {self.last_taken} of them, FastChat's rule in the others"
            )
            found.append(
                f"the first and the last verdict differ in {self.contradictory} of {self.replies} replies; {taken}."
            )
        for name, count in sorted(self.omitted.items()):
            found.append(
                f"the endpoint takes no {name} from its users; {count} of {self.replies} replies were drawn at its own."
            )
        if self.unreferenced:
            found.append(
                f"{self.unreferenced} of {self.replies} requests are about math, reasoning or coding and have no "
                "reference answer: they were judged by the prompt without one, which is less reliable there; published "
                "scores are judged beside FastChat's reference answers (`references`)."
            )
        if self.structured:
            shown = ", ".join(f"{mark!r} in {count}" for mark, count in self.marks.most_common(_SHOWN))
            more = ", ..." if len(self.marks) > _SHOWN else ""
            found.append(
                f"{self.structured} of {self.replies} prompts hold a text with marks that a judge could take for its "
                f"prompt's own, for control tokens or for a verdict ({shown}{more}); they were sent as plain text."
            )
        if self.unanswered:
            shown = with_reasons([(repr(asked), reason) for asked, reason in self.unanswered])
            found.append(f"{len(self.unanswered)} of {self.replies} requests have no answer: {shown}.")
        return found


def judge_notes(judge: object, benchmark: str) -> tuple[str, ...]:
    """What a judge has to say of the verdicts that it gave; nothing from one that keeps no record.

    Of a panel, what each of its judges has.
    """
    members: Mapping[str, object] = getattr(judge, "members", {})
    of_members = [note for name, member in members.items() for note in judge_notes(member, f"{benchmark}: {name}")]
    record, chat = getattr(judge, "record", None), getattr(judge, "chat", None)
    found = [*(record.notes() if isinstance(record, JudgeRecord) else ()), *getattr(chat, "notes", ())]
    return (*(f"{benchmark}: {note}" for note in found), *of_members)


def usage_of(judge: object) -> dict[str, Any] | None:
    """What a judge asked an endpoint for and what it cost (`radpo.clients.budget.Usage`); None of one that asks none.

    Of a panel the sums, and under `judges` what each of its judges did.
    """
    members: Mapping[str, object] = getattr(judge, "members", {})
    if members:
        of = {name: usage_of(member) or asdict(Usage()) for name, member in members.items()}
        return {**{name: sum(one[name] for one in of.values()) for name in asdict(Usage())}, "judges": of}
    chat = getattr(judge, "chat", None)
    return None if chat is None else asdict(chat.usage)


def texts_of(request: GradeRequest | CompareRequest) -> Iterator[str]:
    """Every text of a request that goes into a judge's prompt."""
    yield from (message["content"] for message in request.prompt)
    yield from [request.response] if isinstance(request, GradeRequest) else [request.first, request.second]
    for name in ("reference_answers", "first_answers"):
        yield from map(str, request.reference.get(name) or ())
