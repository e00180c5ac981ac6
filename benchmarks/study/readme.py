"""The study's front page: sentences from README.md.j2, every figure looked up in the folder's tables."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exact_map import FULL, OUTCOMES, UNLIMITED
from map_rows import AGAIN, BENCHMARK, FULL_MAP, MAP
from points import HIGH, METHODS, PAIRS, TUNED_MEASURES
from verdicts import Figure, values

from radpo.stats.estimates import mean

if TYPE_CHECKING:
    import pandas as pd

TEMPLATE = Path(__file__).with_name("README.md.j2")
VERDICTS = ("ahead", "alike", "behind", "unclear")
ANSWERED = {"score": 10, "unlearning": 10, "unlearning_own": 10}
"""The outcomes of the table of counts, and the goal that is asked for."""
EXACT_KL = math.log(24)
"""No exact policy, which chooses among so many responses, can be further from the reference than this."""
REAL_VARIANTS = ("base", "dpo", "ra-dpo")
REAL = {
    "win rate over dpo, %": ("alpaca-eval", "all", "win_rate"),
    "change of log p, high-scored rejected, asked without a goal, nats": ("unlearning", "none", HIGH),
    "the same, asked for the best score, nats": ("unlearning", "best", HIGH),
    "the same, asked for its own score, nats": ("unlearning", "own", HIGH),
    "accuracy of implicit rewards, no goal": ("unlearning", "none", "preference_accuracy"),
    "accuracy of implicit rewards, own goal": ("unlearning", "own", "preference_accuracy"),
    "goal inference, rank correlation": ("goal-inference", "all", "rank_correlation"),
    "goal inference, pairs in the right order": ("goal-inference", "all", "accuracy"),
}


def render(folder: Path) -> str:
    """The page for a folder that `study.conclude` has written the tables of; its folder `real` may have a run."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(_Tables(folder).context()) + "\n"


class _Tables:
    """The folder's tables, and what the page says of them."""

    def __init__(self, folder: Path) -> None:
        import pandas as pd

        self.folder = folder
        self.results = pd.read_parquet(folder / "results.parquet")
        self.claims = pd.read_csv(folder / "claims.csv")
        cells = pd.read_parquet(folder / "map-cells.parquet")
        self.reported = str(cells["run"].iloc[0])
        self.cells = cells[cells["pairs"] != UNLIMITED]
        self.predictions = pd.read_csv(folder / "map-predictions.csv")
        self.points = pd.read_csv(folder / "map-points.csv")

    def context(self) -> dict[str, Any]:
        cells, deciding = self.cells, self.claims[self.claims["decides"]]
        time = self.results[(self.results["run"] == self.reported) & (self.results["metric"] == "cpu_seconds")]
        return {
            "seeds": _word(int(deciding["seeds"].iloc[0])),
            "claim": lambda place: f"{_effect(deciding.iloc[place])} | {_short(deciding.iloc[place]['verdict'])}",
            "noises": ", ".join(f"{noise:g}" for noise in sorted(cells["noise"].unique())),
            "sizes": _listed([f"{size:,.0f}" for size in sorted(cells["pairs"].unique())]),
            "cells": f"{len(cells) // len(OUTCOMES):,}",
            "draws": _word(int(cells["draws"].max())),
            "milliseconds": f"{1000 * (time['value'] * time['n']).sum() / time['n'].sum():.1f}",
            "smallest": f"{OUTCOMES['score'][0]:g}",
            "high": ("all high", "spread"),
            "low": ("all low",),
            "n": lambda policy, location: len(self._part(policy, location, "score")),
            "counts": lambda policy, location: " | ".join(
                _counts(self._part(policy, location, outcome)) for outcome in ANSWERED
            ),
            "verdicts": self._verdicts,
            "decided": self._decided,
            "came": self._came,
            "point": self._point,
            "change": self._change,
            "repeat": self._repeat(),
            "full": self._full(),
            "again": self._again(),
            "tuned": self._tuned(),
            "real": _real(self.folder / "real"),
        }

    def _part(self, policy: str, locations: tuple[str, ...], outcome: str) -> pd.DataFrame:
        part = self.cells[(self.cells["policy"] == policy) & (self.cells["outcome"] == outcome)]
        return part[part["location"].isin(locations) & (part["asked"] == ANSWERED[outcome])]

    def _verdicts(self, outcome: str, policy: str | None = None) -> dict[str, int]:
        part = self.cells[self.cells["outcome"] == outcome]
        if policy is not None:
            part = part[part["policy"] == policy]
            part = part[part["asked"] == ANSWERED[outcome]]
        return {verdict: int((part["verdict"] == verdict).sum()) for verdict in VERDICTS} | {"all": len(part)}

    def _of_map(self, run: str) -> pd.DataFrame:
        return self.predictions[self.predictions["run"] == run].set_index("name")

    def _decided(self, who: str) -> dict[str, str]:
        mine = self._of_map(self.reported)
        came = mine[mine["who"] == who]["decision"]
        names = {"held": "held", "refuted": "refuted", "undecided": "undecided", "none": "no cell to decide it by"}
        return {key: _word(int((came == name).sum())) for key, name in names.items()} | {"all": _word(len(came))}

    def _came(self, name: str) -> str:
        return str(self._of_map(self.reported).loc[name, "decision"])

    def _point(self, run: str, measure: str, policy: str = "language model", penalty: float | None = None) -> str:
        rows = self.points[(self.points["run"] == run) & (self.points["measure"] == measure)]
        rows = rows[
            (rows["policy"] == policy) & (rows["penalty"].isna() if penalty is None else rows["penalty"] == penalty)
        ]
        (row,) = rows.to_dict("records")
        return f"{row['difference']:.2f}" if measure == "score" else f"{row['difference']:.1f}"

    def _change(self, metric: str) -> str:
        rows = self.results[(self.results["run"] == "main") & (self.results["variant"] == "dpo")]
        rows = rows[(rows["benchmark"] == "unlearning") & (rows["subset"] == "none") & (rows["metric"] == metric)]
        return f"{rows['value'].mean():.1f}"

    def _repeat(self) -> dict[str, Any]:
        import pandas as pd

        mine, other = self._of_map(MAP), self._of_map(AGAIN)
        differ = [name for name in mine.index if mine.loc[name, "decision"] != other.loc[name, "decision"]]
        named = [
            f"{name} ({mine.loc[name, 'decision']}, {other.loc[name, 'decision']}; of {mine.loc[name, 'cells']} cells)"
            for name in differ
        ]
        both = pd.read_csv(self.folder / "map-repeat.csv")
        ends = {("ahead", "behind"), ("behind", "ahead")}
        pairs = list(zip(both["verdict"], both["verdict_again"], strict=True))
        same = both[both["verdict"] == both["verdict_again"]]["cells"].sum()
        opposite = both[[pair in ends for pair in pairs]]["cells"].sum()
        return {
            "same": len(mine) - len(differ), "all": len(mine),
            "others": f", all but: {'; '.join(named)}" if named else "",
            "cells": f"{both['cells'].sum():,}", "share": f"{same / both['cells'].sum():.0%}",
            "opposite": opposite or "none",
        }  # fmt: skip

    def _full(self) -> dict[str, Any] | None:
        rows = self.results[(self.results["run"] == FULL_MAP) & (self.results["benchmark"] == BENCHMARK)]
        if rows.empty:
            return None
        mine, other = self._of_map(MAP), self._of_map(FULL_MAP)
        sizes = {float(size) for size in rows["subset"].str.extract(r"pairs=(\d+)")[0].dropna().unique()}
        return {
            "sizes": _listed([f"{size:,.0f}" for size in sorted(sizes)]), "draws": _word(rows["seed"].nunique()),
            "planned": FULL.draws,
            "same": int((mine["decision"] == other["decision"].reindex(mine.index)).sum()), "all": len(mine),
            "others": [
                f"- {name}: {mine.loc[name, 'decision']}, there {other.loc[name, 'decision']} "
                f"({_share(mine.loc[name])}; {_share(other.loc[name])})."
                for name in mine.index if mine.loc[name, "decision"] != other.loc[name, "decision"]
            ],
        }  # fmt: skip

    def _again(self) -> dict[str, Any] | None:
        import pandas as pd

        file = self.folder / "claims-again.csv"
        if not file.exists():
            return None
        both = pd.read_csv(file)
        rows = []
        for row in both[both["decides"]].to_dict("records"):
            earlier = {key: row[f"{key}_earlier"] for key in ("effect", "low", "high", "verdict")}
            now, before = (f"{_figure(one)}, {_short(one['verdict'])}" for one in (row, earlier))
            rows.append({"claim": row["claim"], "now": now, "earlier": before})
        return {"same": int(both["same"].sum()), "all": len(both), "deciding": rows}

    def _tuned(self) -> dict[str, Any] | None:
        import pandas as pd

        if not (self.folder / "tuned-points.csv").exists():
            return None
        points, curves = (pd.read_csv(self.folder / f"tuned-{name}.csv") for name in ("points", "curves"))
        rows, lines = [], []
        for run, part in points.groupby("run", sort=False):
            of = {(row["measure"], row["policy"]): row for row in part.to_dict("records")}
            tried = curves[curves["run"] == run]
            chosen = tried.drop_duplicates("variant").set_index("variant")["chosen"]
            model = of["score", "language model"]
            exact = {
                policy: f"{_figure(row, 'difference')}: {row['agrees']}"
                for policy in ("log-linear", "table") for row in [of["score", policy]]
            }  # fmt: skip
            rows.append(
                {
                    "noise": f"{part['noise'].iloc[0]:g}", "model": f"{_figure(model, 'difference')}, {model['sign']}",
                    "loglinear": exact["log-linear"], "table": exact["table"],
                    "scores": self._by_seed(str(run), "score", 2), "kls": self._by_seed(str(run), "kl", 1),
                    "chosen": "; ".join(chosen[variant] for variant in ("dpo", "ra-dpo")),
                }
            )  # fmt: skip
            for variant, line in tried.groupby("variant"):
                means = ", ".join(f"{value:.2f}" for value in line.sort_values("budget")["expected_best"])
                lines.append(f"{variant} {means} (noise {part['noise'].iloc[0]:g})")
        seeds = int(points[points["policy"] == "language model"]["n"].iloc[0])
        lowest = min(
            values(self.results, Figure(run, name, *TUNED_MEASURES["kl"][name])).min()
            for run in points["run"].unique() for name in METHODS
        )  # fmt: skip
        beyond = ", further than exact policies can be" if lowest > EXACT_KL else ""
        return {
            "lowest_kl": f"{lowest:.1f}", "beyond": beyond, "pairs": f"{PAIRS:,}", "seeds": _word(seeds), "rows": rows,
            "curves": "; ".join(lines),
        }  # fmt: skip

    def _by_seed(self, run: str, measure: str, digits: int) -> str:
        each = (values(self.results, Figure(run, name, *TUNED_MEASURES[measure][name])) for name in METHODS)
        return "; ".join(", ".join(f"{value:.{digits}f}" for value in one) for one in each)


def _effect(row: Any) -> str:
    kind = "rank correlation " if row["unit"] == "correlation" else ""
    unit = f" {row['unit']}" if row["unit"] in ("points", "nats") else ""
    return f"{kind}{row['effect']:.2f}{unit} [{row['low']:.2f}, {row['high']:.2f}]"


def _figure(row: Any, name: str = "effect") -> str:
    return f"{row[name]:.2f} [{row['low']:.2f}, {row['high']:.2f}]"


def _share(row: Any) -> str:
    return "no cell" if not row["cells"] else f"{row['share']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"


def _short(verdict: str) -> str:
    return verdict.removesuffix(" at this scale")


def _counts(cells: pd.DataFrame) -> str:
    return " / ".join(str(int((cells["verdict"] == verdict).sum())) for verdict in VERDICTS)


def _listed(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _word(number: int) -> str:
    words = ("none", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
    return words[number] if number < len(words) else str(number)


def _real(folder: Path) -> dict[str, Any] | None:
    """A real model's run: each figure's mean over seeds with Student's 95% interval, and radpo's own comparison."""
    import pandas as pd

    if not folder.exists():
        return None
    results, compared = (pd.read_parquet(folder / f"{name}.parquet") for name in ("results", "comparisons"))
    compared = compared[(compared["variant"] == "ra-dpo") & (compared["baseline"] == "dpo")]
    rows = []
    for name, place in REAL.items():
        part, difference = _at(results, place), _at(compared, place)
        rows.append(
            {
                "name": name, "n": int(part["n"].max()),
                "figures": [_over_seeds(part[part["variant"] == variant]) for variant in REAL_VARIANTS],
                "difference": _figure(difference.iloc[0], "value") if len(difference) else "–",
            }
        )  # fmt: skip
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    pairs = {one["used"] for name, one in manifest["pairs"].items() if name == "relabel/train/plain"}
    return {
        "rows": rows, "seeds": _word(results["seed"].nunique()), "variants": REAL_VARIANTS,
        "minutes": round(manifest["wall_seconds"] / 60), "pairs": pairs.pop(),
    }  # fmt: skip


def _at(rows: pd.DataFrame, place: tuple[str, str, str]) -> pd.DataFrame:
    for column, value in zip(("benchmark", "subset", "metric"), place, strict=True):
        rows = rows[rows[column] == value]
    return rows


def _over_seeds(rows: pd.DataFrame) -> str:
    drawn = rows["value"].to_numpy(float)
    if not len(drawn):
        return "–"
    found = mean(drawn)
    return f"{found.value:.2f}" if not found.stderr else f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"
