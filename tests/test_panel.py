"""Panels of judges: how verdicts become one, how they are kept, how the judges agree, and what each costs."""

from __future__ import annotations

import itertools
import json
import random
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from fault_server import FaultServer

from radpo import api
from radpo.benchmarks.work import judges_of
from radpo.core.errors import ConfigError
from radpo.core.run import PANEL, load_run
from radpo.gate.comparable import _without_hints
from radpo.judges.base import CompareRequest, GradeRequest
from radpo.judges.lookup import check_settings, find_judge
from radpo.judges.panel import Panel, PanelSettings, majority
from radpo.judges.quality import krippendorff_alpha, panel_agreement, verdict
from radpo.matrix.expand import expand
from radpo.matrix.loading import load_matrix
from radpo.matrix.spending import check_prices, endpoint_of, paid

# Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", section C: four observers, twelve units.
OBSERVERS = (
    (1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None),
    (1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3),
    (None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None),
    (1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None),
)


def test_alpha_is_the_published_one_and_goes_with_fleiss_kappa() -> None:
    from statsmodels.stats.inter_rater import aggregate_raters, fleiss_kappa

    units = list(zip(*OBSERVERS, strict=True))
    assert krippendorff_alpha(units, "nominal") == pytest.approx(0.743, abs=5e-4)
    assert krippendorff_alpha(units, "interval") == pytest.approx(0.849, abs=5e-4)
    draw = random.Random(0)
    for judges in (2, 3, 5):
        rows = [[draw.choice((0, 1, 2, draw.choice((1, 2)))) for _ in range(judges)] for _ in range(40)]
        kappa = fleiss_kappa(aggregate_raters(rows, n_cat=3)[0], method="fleiss")
        values = 40 * judges
        # Of complete verdicts the two differ only in how they count what is expected by chance.
        assert 1 - krippendorff_alpha(rows, "nominal") == pytest.approx((1 - kappa) * (values - 1) / values)  # type: ignore[operator]
    assert krippendorff_alpha([(1, 1), (1, 1)], "nominal") is None
    assert krippendorff_alpha([(1, None), (2, None)], "interval") is None


def test_the_majority_is_the_answer_that_most_prefer() -> None:
    for given in itertools.product((1.0, 1.25, 1.5, 1.75, 2.0), repeat=3):
        sides = [verdict(preference) for preference in given]
        decided = majority(given)
        leading = statistics.multimode(sides)
        assert verdict(decided) == (leading[0] if len(leading) == 1 else 0), given
        assert decided in given or decided == 1.5
        assert majority([3 - preference for preference in given]) == 3 - decided, "the order of answers has no say"
    assert majority([1.0, 1.25]) == 1.25, "as strong as the weaker of two in the middle"


class Fixed:
    """A judge of fixed grades."""

    def __init__(self, name: str, *scores: float | None) -> None:
        self.name, self._scores = name, scores

    def grade(self, requests: Any, progress: Any = None) -> list[Any]:
        from radpo.judges.base import Grade

        return [Grade(score, f"{self.name} says {score}") for score in self._scores[: len(requests)]]


def panel_of(decide: str, *members: Fixed) -> Panel:
    panel = Panel(PanelSettings(judges=["verifier", "verifier"], decide=decide))  # type: ignore[arg-type]
    assert list(panel.members) == ["verifier", "verifier (2)"]
    panel.members = {member.name: member for member in members}  # type: ignore[misc]
    return panel


def test_grades_become_their_median_or_mean_and_every_verdict_is_kept() -> None:
    asked = [{"role": "user", "content": "?"}]
    grades = (Fixed("a", 1, 9, None), Fixed("b", 4, None, None), Fixed("c", 10, 5, None))
    requests = [GradeRequest(asked, f"answer {n}") for n in range(3)]
    assert [one.score for one in panel_of("majority", *grades).grade(requests)] == [4, 7, None]
    panel = panel_of("mean", *grades)
    assert [one.score for one in panel.grade(requests)] == [5, 7, None]
    # a prefers the first, b gives equal grades, c prefers the second.
    two = (Fixed("a", 8, 2), Fixed("b", 5, 5), Fixed("c", 3, 4))
    pair = [CompareRequest(asked, "one", "two")]
    assert panel_of("majority", *two).compare(pair)[0].preference == 1.5
    (found,) = panel_of("mean", *two[:2]).compare(pair)
    assert found.preference == 1.25
    assert "a: 1\nfirst: a says 8\nsecond: a says 2" in found.reason
    frame = panel.verdicts_frame()
    assert set(frame.columns) <= set(PANEL)
    assert frame[frame["request"] == 0]["verdict"].tolist() == [1, 4, 10]
    assert frame["decided"].isna().sum() == 3
    agreed = panel_agreement([((1.0, 1.2, 2.0), True), ((2.0, 1.9, None), True)], ["a", "b", "c"])
    assert agreed.agreement == pytest.approx(2 / 4)
    assert agreed.by_judge == {"a": pytest.approx(2 / 3), "b": pytest.approx(2 / 3), "c": 0}
    assert (agreed.n, agreed.n_incomplete) == (2, 1)
    lacking = "x: 1 requests lack the verdict of one or more of the panel's judges; the others decided."
    assert agreed.notes("x") == [lacking]


def test_what_is_no_panel_is_refused() -> None:
    one: dict[str, Any] = {"kind": "openai", "model": "m"}
    for settings, message in (
        ({"judges": ["verifier"]}, "judges: .* at least 2"),
        ({"judges": ["verifier", "oracle"]}, "no such judge"),
        ({"judges": ["verifier", {"kind": "panel", "judges": ["verifier", "verifier"]}]}, "no panels"),
        ({"judges": ["verifier", {**one, "modl": 1}]}, "no setting 'modl'"),
        ({"judges": [3, "verifier"]}, r"judges\.0: must be a judge's kind"),
        ({"judges": ["verifier", {**one, "max_requests": 3}]}, r"judges\.1\.max_requests: holds for the whole panel"),
        ({"judges": ["verifier", one], "max_cost": 1}, "max_cost needs price_in"),
        ({"judges": ["verifier", one], "decide": "dictator"}, "decide"),
    ):
        with pytest.raises(ConfigError, match=message):
            check_settings("panel", settings)
    assert isinstance(find_judge("panel", {"judges": ["verifier", one]}), Panel)


def judged(body: Any) -> str:
    """One model likes long answers, the other short ones, and the third always the first."""
    text = body["messages"][-1]["content"]
    first, second = _answers(text)
    longer = "[[A>>B]]" if len(first) > len(second) else "[[B>A]]"
    shorter = "[[B>>A]]" if len(first) > len(second) else "[[A>B]]"
    return {"long": longer, "short": shorter, "first": "[[A>B]]"}[body["model"]]


def _answers(text: str) -> tuple[str, str]:
    parts = text.split("\n<")
    return parts[1].partition(">\n")[2], parts[2].partition(">\n")[2]


CONFIG = {
    "regex_pattern": r"\[\[([AB<>=]+)\]\]", "system_prompt": "Judge.",
    "prompt_template": ["{question_1}\n<A>\n{answer_1}\n<B>\n{answer_2}\n<End>"],
}  # fmt: skip


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultServer]:
    monkeypatch.setenv("RADPO_CACHE", str(tmp_path / "cache"))
    with FaultServer(judged) as server:
        yield server


def matrix(folder: Path, server: FaultServer, **more: Any) -> Path:
    """Two files of answers to three questions, compared in both orders by a panel of three."""
    for name, of in (("base", "a bit longer"), ("other", "short")):
        rows = [{"question_id": n, "turns": [of]} for n in range(3)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    rows = [{"uid": f"{n}", "prompt": f"Say {n}"} for n in range(3)]
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG), encoding="utf-8")
    asked = {"kind": "openai", "base_url": server.url, "arena_config": "config.yaml", "price_in": 1, "price_out": 100}
    judges = [{**asked, "model": "long"}, {**asked, "model": "short", "price_in": 2}, {**asked, "model": "first"}]
    document = {
        "name": "panel", "variants": {name: {"answers": f"{name}.jsonl"} for name in ("base", "other")},
        "benchmarks": {
            "arena-hard": {
                "questions": "questions.jsonl", "resamples": 20, "judge": {"kind": "panel", "judges": judges, **more},
            }
        },
    }  # fmt: skip
    (folder / "m.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    return folder / "m.yaml"


def test_a_matrix_with_a_panel_keeps_verdicts_agreement_and_costs(tmp_path: Path, server: FaultServer) -> None:
    path = matrix(tmp_path, server, max_requests=100)
    api.run(path, tmp_path / "run", store=str(tmp_path / "store"))
    assert len(server.asked) == 3 * 6
    run = load_run(tmp_path / "run")
    assert run.verdicts is not None
    verdicts = run.verdicts
    assert list(verdicts["judge"].unique()) == ["long", "short", "first"]
    assert set(verdicts.columns) == set(PANEL)
    assert (verdicts["variant"].unique(), verdicts["benchmark"].unique()) == (["other"], ["arena-hard"])
    wide = verdicts.pivot(index="request", columns="judge", values="verdict")
    # The baseline's answer is the longer one and first in the first three requests, second in the others.
    assert wide["long"].tolist() == [1.0] * 3 + [1.75] * 3
    assert wide["short"].tolist() == [2.0] * 3 + [1.25] * 3
    assert wide["first"].tolist() == [1.25] * 6
    assert verdicts.groupby("request")["decided"].first().tolist() == [1.25] * 6
    results = run.results.set_index("metric")["value"]
    assert results["judge_panel_agreement"] == pytest.approx(1 / 3)
    sides = wide.map(verdict).to_numpy().tolist()
    assert results["judge_panel_alpha"] == pytest.approx(krippendorff_alpha(sides, "nominal"))
    (stage,) = [stage["judge"] for stage in run.manifest["stages"] if "judge" in stage]
    costs = {name: one["cost"] for name, one in stage["judges"].items()}
    assert costs == pytest.approx({"long": 6 * 1.1e-3, "short": 6 * 1.2e-3, "first": 6 * 1.1e-3})
    assert stage["cost"] == pytest.approx(sum(costs.values()))
    assert stage["panel"]["by_judge"] == pytest.approx({"long": 0.25, "short": 0.25, "first": 0.5})
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "Panels of judges" in page
    assert "arena-hard/other/seed-0: short" in page
    api.run(path, tmp_path / "run", store=str(tmp_path / "store"))
    assert len(server.asked) == 3 * 6, "nothing is asked twice"


def test_keys_prices_and_limits_of_a_panel(tmp_path: Path, server: FaultServer) -> None:
    def stage(**more: Any) -> Any:
        plan = expand(load_matrix(matrix(tmp_path, server, **more)))
        return next(one for one in plan.stages if one.function_name == "arena-hard")

    plain = stage()
    assert stage(max_cost=5, max_requests=9).key == plain.key, "a limit changes no verdict"
    assert stage(decide="mean").key != plain.key
    config = yaml.safe_dump({**CONFIG, "system_prompt": "Judge well."})
    loaded = load_matrix(matrix(tmp_path, server, max_cost=5))
    assert [place.rpartition(".judge.")[2] for place in paid(loaded)] == ["judges.0", "judges.1", "judges.2"]
    check_prices(loaded.model_copy(update={"max_cost": 1.0}))
    limited = stage(max_cost=5)
    assert [said["price_in"] for _, said in judges_of(limited)] == [1, 2, 1]
    endpoint = endpoint_of(limited)
    assert endpoint is not None
    assert endpoint.max_cost == 5
    (tmp_path / "config.yaml").write_text(config, encoding="utf-8")
    assert next(one for one in expand(loaded).stages if one.function_name == "arena-hard").key != plain.key
    judge = {"kind": "panel", "max_cost": 5, "judges": [{"kind": "openai", "model": "a", "price_in": 3}, "verifier"]}
    kept = {"kind": "panel", "judges": [{"kind": "openai", "model": "a"}, {"kind": "verifier"}]}
    assert _without_hints(judge) == kept, "runs with other prices are compared"
