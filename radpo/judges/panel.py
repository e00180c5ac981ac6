"""A panel: several judges asked the same, whose verdicts become one, and each of which is kept.

After Verga et al. 2024 (arXiv 2404.18796), who let several smaller models vote in place of one large one.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from radpo.clients.endpoint import Positive
from radpo.core.progress import Progress, no_progress
from radpo.judges.base import CompareRequest, Comparison, Grade, GradeRequest, Judge, JudgeKind, compare
from radpo.judges.lookup import check_settings, find_judge, find_judge_kind
from radpo.judges.quality import verdict

if TYPE_CHECKING:
    import pandas as pd

LIMITS = ("max_cost", "max_requests")


class PanelSettings(BaseModel):
    """Who judges, and how their verdicts become one. Judges without a verdict on something have no say in it.

    Args:
        judges: two or more, each as a judge by itself is given; none of them a panel.
        decide: `majority` takes the answer that most prefer (neither where two verdicts lead alike), as strongly as the
            one in the middle of those who do; of grades it takes the median. `mean` takes means.
        max_cost, max_requests: dollars that one call (of a matrix, one stage with all its tries) may spend, and
            requests that it may send, over all judges.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    decide: Literal["majority", "mean"] = "majority"
    max_cost: Positive | None = None
    max_requests: Annotated[int, Field(ge=1)] | None = None
    judges: tuple[Any, ...] = Field(min_length=2)

    @field_validator("judges")
    @classmethod
    def _are_judges(cls, judges: tuple[Any, ...], info: ValidationInfo) -> tuple[dict[str, Any], ...]:
        limits = {name: info.data.get(name) for name in LIMITS}
        return tuple(_checked(number, judge, limits) for number, judge in enumerate(judges))


def _checked(number: int, judge: Any, limits: Mapping[str, Any]) -> dict[str, Any]:
    """A member as a mapping of its kind and its settings, the panel's limits among them."""
    if isinstance(judge, str):
        judge = {"kind": judge}
    if isinstance(judge, BaseModel):
        judge = judge.model_dump()
    if not isinstance(judge, Mapping) or not isinstance(judge.get("kind", "verifier"), str):
        raise ValueError(f"judges.{number}: must be a judge's kind, or a mapping of kind and settings")
    kind = judge.get("kind", "verifier")
    of = find_judge_kind(kind)
    if of.members:
        raise ValueError(f"judges.{number}: a panel's judges are no panels; give their judges in their place")
    given = {name: value for name, value in judge.items() if name != "kind"}
    for name in LIMITS:
        if name in given and given[name] not in (None, limits[name]):
            raise ValueError(f"judges.{number}.{name}: holds for the whole panel; give it beside `judges`")
    given |= {name: value for name, value in limits.items() if value is not None and name in of.settings.model_fields}
    check_settings(kind, given)
    return {"kind": kind, **given}


@dataclass(frozen=True)
class Verdicts:
    """What the judges of a panel, in its order, said of one request, and what it decided; None where none was given.

    Args:
        asked: the user's last message.
        first, second: the responses; `second` is None where one was graded by itself.
        values: on the scale of preferences where two were compared, else grades from 1 to 10.
    """

    asked: str
    first: str
    second: str | None
    values: tuple[float | None, ...]
    reasons: tuple[str, ...]
    decided: float | None


@dataclass
class Panel:
    """Asks its judges one after the other; `verdicts` has every verdict of each."""

    settings: PanelSettings
    members: dict[str, Judge] = field(init=False)
    """The judges by name; one that is called as another has its number behind the name."""
    verdicts: list[Verdicts] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.members = {}
        for given in self.settings.judges:
            judge = find_judge(given["kind"], {name: value for name, value in given.items() if name != "kind"})
            same = sum(other.name == judge.name for other in self.members.values())
            self.members[f"{judge.name} ({same + 1})" if same else judge.name] = judge

    @property
    def name(self) -> str:
        """The judges' names."""
        return f"panel of {', '.join(self.members)}"

    def expect(self, total: int, *, begun: bool) -> None:
        """Know that requests come in parts; as `radpo.judges.openai.OpenAIJudge.expect`."""
        for judge in self.members.values():
            if (expect := getattr(judge, "expect", None)) is not None:
                expect(total, begun=begun)

    def grade(self, requests: Sequence[GradeRequest], progress: Progress = no_progress) -> list[Grade]:
        """The judges' grades as one. Raises as they do."""
        of = [judge.grade(requests, self._part(n, progress)) for n, judge in enumerate(self.members.values())]
        found = []
        for request, grades in zip(requests, zip(*of, strict=True), strict=True):
            given = [grade.score for grade in grades if grade.score is not None]
            middle = statistics.median if self.settings.decide == "majority" else statistics.fmean
            decided = float(middle(given)) if given else None
            values, reasons = tuple(grade.score for grade in grades), tuple(grade.reason for grade in grades)
            asked = request.prompt[-1]["content"]
            self.verdicts.append(Verdicts(asked, request.response, None, values, reasons, decided))
            found.append(Grade(decided, self._told(values, reasons)))
        return found

    def compare(self, requests: Sequence[CompareRequest], progress: Progress = no_progress) -> list[Comparison]:
        """The judges' comparisons as one; those who only grade compare by their grades. Raises as they do."""
        of = [compare(judge, requests, self._part(n, progress)) for n, judge in enumerate(self.members.values())]
        found = []
        for request, compared in zip(requests, zip(*of, strict=True), strict=True):
            values = tuple(one.preference for one in compared)
            given = [value for value in values if value is not None]
            decided = None
            if given:
                decided = majority(given) if self.settings.decide == "majority" else statistics.fmean(given)
            reasons, asked = tuple(one.reason for one in compared), request.prompt[-1]["content"]
            self.verdicts.append(Verdicts(asked, request.first, request.second, values, reasons, decided))
            found.append(Comparison(decided, self._told(values, reasons)))
        return found

    def _part(self, number: int, progress: Progress) -> Progress:
        """The progress of one judge as a part of all."""
        return lambda done, total: progress(number * total + done, len(self.members) * total)

    def _told(self, values: Sequence[float | None], reasons: Sequence[str]) -> str:
        parts = zip(self.members, values, reasons, strict=True)
        return "\n\n".join(f"{name}: {'none' if value is None else f'{value:g}'}\n{why}" for name, value, why in parts)

    def verdicts_frame(self) -> pd.DataFrame:
        """A row a request and judge, with the columns of `radpo.core.run.VERDICTS` that a stage knows."""
        import pandas as pd

        rows = [
            {
                "request": number, "prompt": one.asked, "first": one.first, "second": one.second, "judge": name,
                "verdict": value, "reason": reason, "decided": one.decided,
            }
            for number, one in enumerate(self.verdicts)
            for name, value, reason in zip(self.members, one.values, one.reasons, strict=True)
        ]  # fmt: skip
        types = dict.fromkeys(("prompt", "first", "second", "judge", "reason"), "string")
        return pd.DataFrame(rows).astype({**types, "request": "Int64", "verdict": "float64", "decided": "float64"})


def majority(preferences: Sequence[float]) -> float:
    """The preference of most: 1.5 where two verdicts lead alike, else as strong as the middle one of the leading side.

    Where two stand in the middle, the weaker counts.

    >>> majority([1.0, 1.25, 2.0]), majority([1.0, 2.0]), majority([2.0, 2.0, 1.5])
    (1.25, 1.5, 2.0)
    """
    sides: dict[int, list[float]] = {}
    for preference in preferences:
        sides.setdefault(verdict(preference), []).append(preference)
    ranked = sorted(sides.values(), key=len, reverse=True)
    if len(ranked) > 1 and len(ranked[0]) == len(ranked[1]):
        return 1.5
    leading = sorted(ranked[0], key=lambda preference: abs(preference - 1.5))
    return leading[(len(leading) - 1) // 2]


KIND = JudgeKind(PanelSettings, Panel, hints=frozenset(LIMITS), members=frozenset({"judges"}), free=True)
