"""The report: its numbers are the tables', it needs nothing else, and what models wrote is text and never code."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from radpo.errors import DataError
from radpo.report.build import Run, _load, build_report, headlines, script_json, summary
from radpo.report.figures import unlearning_by_bin
from radpo.results import examples_frame, results_frame

HOSTILE = [
    "<script>window.canary = 1</script>",
    "</script><script>window.canary = 1</script>",
    "<img src=x onerror='window.canary = 1'>",
    "<svg onload=window.canary=1>",
    "'\"><iframe srcdoc='<script>parent.canary = 1</script>'>",
    "<!--<script>window.canary = 1//-->",
    "javascript:window.canary=1",
    "{{ 7 * 7 }}{% raw %}",
    "\u202eright to left\u2066",
    "nul \x00 and \x1b[31mansi",
    "line\u2028separator\u2029",
    "]]><a href='javascript:window.canary=1'>click</a>",
    "a" * 200_000,
    "",
]
VARIANTS = ("base", "dpo", "ra-dpo")


def write_run(folder: Path, *, examples: int = 30, seeds: tuple[int, ...] = (0,), name: str = "synthetic") -> Path:
    """A run directory as `radpo run` leaves it, with made-up figures and hostile texts."""
    rng = np.random.default_rng(0)
    results: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    likelihoods: list[dict[str, Any]] = []
    training: list[dict[str, Any]] = []

    def result(variant: str, seed: int, benchmark: str, subset: str, metric: str, value: float, **more: Any) -> None:
        place = {"variant": variant, "model": "m", "seed": seed, "benchmark": benchmark, "subset": subset}
        results.append(
            {**place, "metric": metric, "value": value, "stderr": 0.05 * abs(value) + 0.01, "n": examples,
             "higher_is_better": True, "primary": False, **more}
        )  # fmt: skip

    for shift, variant in enumerate(VARIANTS):
        for seed in seeds:
            if variant != "base":
                result(variant, seed, "alpaca-eval", "all", "win_rate", 48.0 + 6 * shift + seed, primary=True)
            result(variant, seed, "mt-bench", "all", "score", 4.0 + shift, primary=True)
            for category in ("writing", "math", "coding"):
                result(variant, seed, "mt-bench", category, "score", 3.0 + shift + len(category) / 5)
            result(variant, seed, "academic", "facts", "acc", 0.4 + shift / 50, primary=True)
            result(variant, seed, "unlearning", "none", "delta_logp_rejected_high", -1.5 * shift, primary=True)
            for number in range(examples):
                text = HOSTILE[number % len(HOSTILE)]
                place = {
                    "variant": variant,
                    "seed": seed,
                    "example_id": f"e{number}",
                    "prompt": f"prompt {number} {text}",
                }
                if variant != "base":
                    rows.append(
                        {**place, "benchmark": "alpaca-eval", "subset": text[:20] or "none", "output": text,
                         "baseline_output": text[::-1], "metric": "preference",
                         "value": float(rng.choice([1, 1.5, 2])), "detail": json.dumps({"reason": text, "goal": 10})}
                    )  # fmt: skip
                rows.append(
                    {**place, "benchmark": "mt-bench", "subset": "math", "output": text, "baseline_output": None,
                     "metric": "score", "value": float(rng.integers(1, 11)), "detail": "{}"}
                )  # fmt: skip
                likelihoods += [
                    {"variant": variant, "seed": seed, "pair_id": f"p{number}", "response": response, "goal": goal,
                     "score": float(1 + number % 10), "tokens": 9, "logp_reference": -50.0,
                     "logp_policy": -50.0 - shift * rng.random()}
                    for response in ("chosen", "rejected")
                    for goal in ("none", "best", "chosen", "rejected")
                ]  # fmt: skip
            training += [
                {"variant": variant, "seed": seed, "step": step, "metric": metric, "value": 1 / step}
                for step in range(1, 6)
                for metric in ("loss", "rewards/margins", "rewards/accuracies", "logps/rejected")
                if variant != "base"
            ]
    folder.mkdir(parents=True, exist_ok=True)
    results_frame(results).to_parquet(folder / "results.parquet")
    examples_frame(rows).to_parquet(folder / "examples.parquet")
    pd.DataFrame(likelihoods).to_parquet(folder / "likelihoods.parquet")
    pd.DataFrame(training).to_parquet(folder / "training.parquet")
    manifest = {
        "name": name, "created": "2026-01-01T00:00:00+00:00", "radpo": "0", "git_commit": None,
        "platform": {"processor": HOSTILE[1], "cores": 2, "system": "x", "python": "3"},
        "packages": {"torch": "2"}, "models": {"m": {"fingerprint": "f"}}, "data": {"d.jsonl": {"sha256": "s"}},
        "seeds": list(seeds), "baseline": "base", "variants": {variant: {} for variant in VARIANTS},
        "notes": [HOSTILE[0]], "wall_seconds": 1.0,
        "stages": [{"name": HOSTILE[2], "key": "k", "seconds": 1.0, "from_store": False, "peak_mib": None}],
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_run(tmp_path_factory.mktemp("run"))
    build_report(folder)
    return folder


@pytest.fixture(scope="module")
def run(run_dir: Path) -> Run:
    return _load(run_dir)


def test_every_number_of_the_summary_is_a_row_of_the_results(run: Run) -> None:
    table = summary(run)
    primary = run.results[run.results["primary"]]
    shown = 0
    for row in table["rows"]:
        for column, cell in zip(table["columns"], row["cells"], strict=True):
            at = primary[(primary["variant"] == row["variant"]) & (primary["metric"] == column["metric"])]
            if cell["value"] is None:
                assert at.empty
                continue
            shown += 1
            assert cell["value"] == at["value"].iloc[0]
            assert cell["half"] == pytest.approx(1.96 * at["stderr"].iloc[0])
            assert float(cell["text"].split(" ± ")[0]) == pytest.approx(cell["value"], abs=0.05)
            assert cell["n"] == at["n"].iloc[0]
    assert shown == len(primary)


def test_a_delta_is_the_mean_difference_over_the_same_examples(run: Run) -> None:
    table = summary(run)
    place = [column["metric"] for column in table["columns"]].index("score")
    scores = run.examples[run.examples["metric"] == "score"].pivot(
        index="example_id", columns="variant", values="value"
    )
    for row in table["rows"][1:]:
        delta = row["cells"][place]["delta"]
        expected = (scores[row["variant"]] - scores["base"]).mean()
        assert float(delta.split(" [")[0]) == pytest.approx(expected, abs=0.006)
        low, high = map(float, delta[:-1].split("[")[1].split(", "))
        assert low <= expected <= high


def test_several_seeds_are_averaged_with_students_t_over_them(tmp_path: Path) -> None:
    from scipy import stats

    run = _load(write_run(tmp_path, seeds=(0, 1, 2)))
    table = summary(run)
    place = [column["metric"] for column in table["columns"]].index("win_rate")
    cell = table["rows"][1]["cells"][place]
    values = run.results[(run.results["variant"] == "dpo") & (run.results["metric"] == "win_rate")]["value"]
    assert cell["seeds"] == 3
    assert cell["value"] == pytest.approx(values.mean())
    assert cell["half"] == pytest.approx(stats.t.ppf(0.975, 2) * values.std() / 3**0.5)


def test_a_lead_within_the_error_is_not_marked_best(run: Run) -> None:
    table = summary(run)
    by_metric = {
        column["metric"]: [row["cells"][place]["best"] for row in table["rows"]]
        for place, column in enumerate(table["columns"])
    }
    assert by_metric["acc"] == [False, False, False]
    assert by_metric["score"] == [False, False, True]


def test_the_headline_says_no_more_than_the_interval_allows(run: Run) -> None:
    said = headlines(run)
    assert any("dpo (seed 0) wins 54.0% ± 5.3" in line and "not distinguishable" in line for line in said)
    assert any("ra-dpo (seed 0) wins 60.0% ± 5.9" in line and line.endswith(": ahead.") for line in said)
    assert any("dpo (seed 0) changes log p" in line and "-1.50" in line for line in said)


def test_unlearning_by_bin_is_the_mean_change_of_each_bin(run: Run) -> None:
    assert run.likelihoods is not None
    bins = unlearning_by_bin(run.likelihoods, [1, 3, 5, 7, 9, 11])
    frame = run.likelihoods
    at = frame[(frame["variant"] == "dpo") & (frame["response"] == "rejected") & (frame["goal"] == "rejected")]
    at = at[(at["score"] >= 5) & (at["score"] < 7)]
    cell = bins[(bins["variant"] == "dpo") & (bins["goal"] == "own") & (bins["response"] == "rejected")]
    cell = cell[cell["bin"] == "5 to <7"]
    assert cell["mean"].item() == pytest.approx((at["logp_policy"] - at["logp_reference"]).mean())
    assert cell["n"].item() == len(at)
    assert "base" not in set(bins["variant"]), "what cannot change is not drawn"


def test_the_page_names_no_other_place(run_dir: Path) -> None:
    html = (run_dir / "report.html").read_text()
    own = re.sub(r"<script>.*?</script>", "", html, flags=re.DOTALL)  # plotly's own text mentions links
    own = re.sub(r'<script type="application/json".*?</script>', "", own, flags=re.DOTALL)
    assert not re.findall(r"""(?:src|href)=["'](?!#|data:)[^"']*["']""", own)
    assert "@import" not in own
    assert "url(" not in own


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_can_end_the_script_element_it_stands_in(text: str) -> None:
    written = script_json({"text": text})
    assert "<" not in written
    assert json.loads(written) == {"text": text}


def test_a_missing_table_is_said_and_not_drawn(tmp_path: Path) -> None:
    write_run(tmp_path)
    (tmp_path / "training.parquet").unlink()
    (tmp_path / "likelihoods.parquet").unlink()
    html = build_report(tmp_path).read_text()
    assert "Nothing was trained." in html
    assert 'id="plot-unlearning"' not in html


def test_what_is_no_run_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"manifest\.json"):
        build_report(tmp_path)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium here: install Debian's chromium to run the browser tests")
    with playwright.sync_playwright() as driver:
        launched = driver.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        )
        yield launched
        launched.close()


def test_in_a_browser_it_is_quiet_asks_for_nothing_and_runs_nothing_hostile(browser: Any, run_dir: Path) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto((run_dir / "report.html").as_uri())
    page.wait_for_selector("#plot-training .main-svg")
    page.wait_for_selector(".example")
    assert said == []
    assert [url for url in asked if not url.startswith(("data:", "blob:"))] == [(run_dir / "report.html").as_uri()]
    assert page.evaluate("window.canary") is None
    assert page.locator(".js-plotly-plot").count() == 5

    everything = page.locator("#count").inner_text()
    page.fill("#search", "prompt 7 ")
    assert page.locator(".example").count() >= 1
    assert page.locator("#count").inner_text() != everything
    page.fill("#search", "")
    page.select_option("#benchmark", "alpaca-eval")
    page.select_option("#outcome", "better")
    assert "(better)" in page.locator(".example").first.inner_text()
    for _ in range(3):
        if page.locator("#after").is_enabled():
            page.click("#after")
    page.click("#theme")
    assert page.evaluate("document.documentElement.classList.contains('dark')") in (True, False)
    link = page.locator(".example h3 a").first.get_attribute("href")
    page.goto((run_dir / "report.html").as_uri() + link)
    page.reload()
    page.wait_for_selector(".example.linked")
    assert page.locator(".example").count() == 1
    assert page.evaluate("window.canary") is None
    assert said == []
    page.close()


def test_the_summary_sorts_by_the_column_that_is_clicked(browser: Any, run_dir: Path) -> None:
    page = browser.new_page()
    page.goto((run_dir / "report.html").as_uri())
    button = page.locator("#summary-table thead button", has_text="mt-bench")
    button.click()
    first = page.locator("#summary-table tbody th").first.inner_text()
    button.click()
    last = page.locator("#summary-table tbody th").first.inner_text()
    assert (first.split()[0], last.split()[0]) == ("ra-dpo", "base")
    page.close()


def test_on_a_phone_nothing_is_wider_than_the_page(browser: Any, run_dir: Path) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.goto((run_dir / "report.html").as_uri())
    page.wait_for_selector("#plot-training .main-svg")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.close()
