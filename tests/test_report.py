"""The report: its numbers are those of results.parquet, its words no bolder, and it runs nobody else's script."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from report_factory import write_run
from scipy import stats

from radpo.errors import DataError
from radpo.report import figures
from radpo.report.build import build_report
from radpo.report.embed import script_json
from radpo.report.examples import example_groups
from radpo.report.load import load_run
from radpo.report.quantities import Name, differ, measure, number
from radpo.report.summary import caveats, findings, headline, summarise
from radpo.results import results_frame

CANARY = "window.canary = (window.canary || 0) + 1"
HOSTILE = (
    f"<script>{CANARY}</script>",
    f"</script><script>{CANARY}</script>",
    f"<!--<script>{CANARY}</script>-->",
    f"<img src=x onerror='{CANARY}'>",
    f'"><svg onload="{CANARY}">',
    f"<iframe srcdoc='<script>parent.{CANARY}</script>'></iframe>",
    f"<a href='javascript:{CANARY}'>click</a>",
    f"<details open ontoggle='{CANARY}'>",
    f"<body onload='{CANARY}'>",
    f"<math><mtext></form><form><mglyph><style></math><img src onerror='{CANARY}'>",
    "<base href='https://example.invalid/'>",
    "<meta http-equiv='refresh' content='0;url=https://example.invalid/'>",
    "<link rel=stylesheet href='https://example.invalid/a.css'>",
    "<style>@import 'https://example.invalid/b.css';</style>",
    "<img src='https://example.invalid/c.png'>",
    "{{ 7 * 7 }} {% raw %} {{ run.__class__ }}",
    "${alert(1)} `%{customdata}`",
    "]]> --> */ // \\u003c/script\\u003e </title></textarea>",
    "\u202egnihtemos si siht\u2066 \u200fx\u200b",
    "a NUL \x00, a bell \x07, ANSI \x1b[31mred\x1b[0m, a CR \r, and \u2028 \u2029 line ends",
    "one very long line " + "x" * 50_000,
    "constructor __proto__ toString hasOwnProperty",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467 and \u0639\u0631\u0628\u064a",
)


class Page(HTMLParser):
    """What a report's HTML holds: its table cells with their rows, the addresses it names, its scripts and its text."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.cells: list[tuple[list[int], str]] = []
        self.addresses: list[str] = []
        self.handlers: list[str] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.text = ""
        self._in: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self._in.append(tag)
        self.addresses += [str(found[key]) for key in ("src", "href", "srcset", "action", "data") if key in found]
        self.handlers += [key for key in found if key.startswith("on")]
        if tag == "td" and "data-rows" in found:
            self.cells.append(([int(row) for row in str(found["data-rows"]).split()], ""))
        elif tag == "td":
            self.cells.append(([], ""))
        if tag == "script":
            self.scripts.append((found, ""))

    def handle_endtag(self, tag: str) -> None:
        while self._in and self._in.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if "script" in self._in:
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)
        elif "style" not in self._in:
            self.text += data
            if self._in and "td" in self._in and self.cells:
                self.cells[-1] = (self.cells[-1][0], self.cells[-1][1] + data)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_run(tmp_path_factory.mktemp("run"))
    build_report(folder)
    return folder


@pytest.fixture(scope="module")
def page(run_dir: Path) -> Page:
    return Page((run_dir / "report.html").read_text(encoding="utf-8"))


def results_of(*rows: dict[str, Any]) -> pd.DataFrame:
    shared = {
        "model": "m", "seed": 0, "benchmark": "alpaca-eval", "subset": "all", "metric": "win_rate", "n": 48,
        "higher_is_better": True, "primary": True,
    }  # fmt: skip
    return results_frame([{**shared, **row} for row in rows])


def with_results(folder: Path, *rows: dict[str, Any]) -> Path:
    """A run directory whose results are these rows and no others."""
    write_run(folder, only=())
    results_of(*rows).to_parquet(folder / "results.parquet", index=False)
    return folder


def t95(n: int) -> float:
    """Half a 95% interval in standard errors, from n examples."""
    return float(stats.t.ppf(0.975, n - 1))


# ---- numbers ----


def test_every_number_of_the_summary_is_that_of_its_row(run_dir: Path, page: Page) -> None:
    results = pd.read_parquet(run_dir / "results.parquet")
    cells = [(rows, text) for rows, text in page.cells if rows]
    primary = results[results["primary"]]
    assert sorted(row for rows, _ in cells for row in rows) == sorted(primary.index)
    for (place,), text in cells:
        row = results.loc[place]
        value, half = number(row["value"], row["metric"]), number(t95(row["n"]) * row["stderr"], row["metric"])
        assert text.split()[0].rstrip("★") == value
        if row["stderr"] > 0:
            assert f"± {half}" in text
            assert f"n = {row['n']}" in text


def test_figures_show_the_values_of_results(run_dir: Path) -> None:
    run = load_run(run_dir)
    results = run.results
    drawn = [trace for trace in figures_of(run_dir, "win-rate")[0]["data"] if trace["mode"] == "markers"]
    shown = [value for trace in drawn for value in trace["x"]]
    wanted = results[(results["metric"] == "win_rate") & (results["subset"] == "all")]["value"]
    assert shown == pytest.approx(list(wanted))


def figures_of(run_dir: Path, anchor: str) -> list[dict[str, Any]]:
    html = (run_dir / "report.html").read_text(encoding="utf-8")
    section = html[html.index(f'<section id="{anchor}"') :]
    section = section[: section.index("</section>")]
    return [json.loads(text) for text in re.findall(r'class="figure">(.*?)</script>', section, flags=re.DOTALL)]


def test_all_rows_of_results_are_listed(run_dir: Path, page: Page) -> None:
    assert f"All figures: the {len(pd.read_parquet(run_dir / 'results.parquet'))} rows" in page.text


def test_paired_differences_are_means_over_the_same_examples(run_dir: Path) -> None:
    run = load_run(run_dir)
    name = Name("academic", "radpo_arithmetic", "acc")
    found = differ(run, "dpo", name)
    assert found is not None
    assert found.kind == "paired"
    assert found.n == 60
    own, base = measure(run, "dpo", name), measure(run, "base", name)
    assert own is not None
    assert base is not None
    assert found.value == pytest.approx(own.value - base.value)


def test_a_difference_is_unpaired_where_the_figure_is_no_mean_of_examples(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path, only=("academic",))
    results = pd.read_parquet(run_dir / "results.parquet")
    results["value"] = results["value"] + 0.01 * results.index
    results.to_parquet(run_dir / "results.parquet", index=False)
    found = differ(load_run(run_dir), "dpo", Name("academic", "radpo_facts", "acc"))
    assert found is not None
    assert found.kind == "unpaired"


def test_the_interval_over_seeds_is_never_narrower_than_one_seeds(tmp_path: Path) -> None:
    rows = [{"variant": "dpo", "seed": seed, "value": 55.0 + seed / 100, "stderr": 6.0} for seed in range(3)]
    found = measure(load_run(with_results(tmp_path, *rows)), "dpo", Name("alpaca-eval", "all", "win_rate"))
    assert found is not None
    assert found.half == pytest.approx(t95(48) * 6)
    assert found.seeds == 3


def test_unlearning_bins_hold_the_mean_change_and_own_asks_for_the_responses_score() -> None:
    rows = [
        {
            "variant": "dpo", "seed": 0, "pair_id": f"p{pair}", "response": response, "goal": goal,
            "score": {"chosen": 9.0, "rejected": 6.0}[response], "tokens": 5, "logp_reference": -10.0,
            "logp_policy": -10.0 + pair + {"none": 0, "best": 100, "chosen": 200, "rejected": 300}[goal],
        }
        for pair in (1, 2, 3)
        for response in ("chosen", "rejected")
        for goal in ("none", "best", "chosen", "rejected")
    ]  # fmt: skip
    edges = figures.score_edges(pd.Series([6.0, 9.0]))
    changes = figures.unlearning_by_bin(pd.DataFrame(rows), edges)
    value = {(row["response"], row["goal"]): row["value"] for row in changes.to_dict("records")}
    assert value == {
        ("chosen", "none"): 2, ("chosen", "best"): 102, ("chosen", "own"): 202,
        ("rejected", "none"): 2, ("rejected", "best"): 102, ("rejected", "own"): 302,
    }  # fmt: skip
    assert set(changes["n"]) == {3}


@pytest.mark.parametrize("scores", [[1.0, 10.0], [5.0], [7.0, 9.0], [-3.0, 4.0], [0.0, 1.0], [10.0]])
def test_every_score_falls_into_a_bin(scores: list[float]) -> None:
    edges = figures.score_edges(pd.Series(scores))
    assert edges == sorted(set(edges))
    assert edges[0] <= min(scores)
    assert max(scores) <= edges[-1]


# ---- words ----


@pytest.mark.parametrize(
    ("value", "stderr", "words"),
    [
        (54.2, 3.1, "dpo: win rate 54.2% ± 6.2 against base (n = 48): not distinguishable from 50%."),
        (70.0, 5.0, "dpo: win rate 70.0% ± 10.1 against base (n = 48): above 50%."),
        (30.0, 5.0, "dpo: win rate 30.0% ± 10.1 against base (n = 48): below 50%."),
        (100.0, 0.0, "dpo: win rate 100.0% against base (n = 48): every comparison alike, so no interval."),
    ],
)
def test_the_headline_claims_no_more_than_its_interval(tmp_path: Path, value: float, stderr: float, words: str) -> None:
    run = load_run(with_results(tmp_path, {"variant": "dpo", "value": value, "stderr": stderr}))
    assert headline(run) == words


def test_the_headline_of_many_variants_counts_them(tmp_path: Path) -> None:
    values = {"a": 70.0, "b": 52.0, "c": 30.0}
    rows = [{"variant": variant, "value": value, "stderr": 4.0} for variant, value in values.items()]
    assert headline(load_run(with_results(tmp_path, *rows))) == (
        "Win rate against base of 3 variants: a above 50%; c below 50%; 1 not distinguishable from 50%."
    )


@pytest.mark.parametrize(("other", "marked"), [(52.0, False), (20.0, True)])
def test_only_a_leader_clear_of_the_runner_up_is_marked(tmp_path: Path, other: float, marked: bool) -> None:
    rows = [{"variant": "dpo", "value": other, "stderr": 5.0}, {"variant": "ra-dpo", "value": 56.0, "stderr": 5.0}]
    table = summarise(load_run(with_results(tmp_path, *rows)))
    assert [cells[0].best for _, cells in table.rows] == [False, False, marked]


def test_no_leader_is_marked_where_a_rival_has_no_interval(tmp_path: Path) -> None:
    rows = [{"variant": "dpo", "value": 10.0, "stderr": None}, {"variant": "ra-dpo", "value": 90.0, "stderr": 1.0}]
    table = summarise(load_run(with_results(tmp_path, *rows)))
    assert not any(cell.best for _, cells in table.rows for cell in cells)


def test_lower_is_better_leads_with_the_lowest(tmp_path: Path) -> None:
    rows = [
        {"variant": variant, "value": value, "stderr": 1.0, "metric": "perplexity", "higher_is_better": False}
        for variant, value in {"dpo": 30.0, "ra-dpo": 60.0}.items()
    ]
    table = summarise(load_run(with_results(tmp_path, *rows)))
    assert [cells[0].best for _, cells in table.rows] == [False, True, False]


def test_small_samples_and_the_manifests_notes_are_owned_up_to(run_dir: Path, tmp_path: Path) -> None:
    notes = caveats(load_run(run_dir))
    assert notes[0].startswith("Toy scale: the primary figures rest on 32 to 60 examples")
    assert "The length-controlled win rate was not computed." in notes
    large = with_results(tmp_path, {"variant": "dpo", "value": 51.0, "stderr": 1.0, "n": 805})
    assert not any(note.startswith("Toy scale") for note in caveats(load_run(large)))


@pytest.mark.parametrize(
    ("value", "verdict", "shown", "words"),
    [
        (-4.0, "worse", "−4.00 ± 1.01", "unlearned"),
        (-0.5, "unclear", "−0.50 ± 1.01", "not distinguishable from no change"),
        (2.0, "better", "+2.00 ± 1.01", "likelier than before"),
    ],
)
def test_a_response_counts_as_unlearned_only_beyond_its_interval(
    tmp_path: Path, value: float, verdict: str, shown: str, words: str
) -> None:
    row = {"benchmark": "unlearning", "subset": "none", "metric": "delta_logp_rejected_high"}
    run = load_run(with_results(tmp_path, {**row, "variant": "dpo", "value": value, "stderr": 0.5}))
    ((variant, (finding,)),) = findings(run)
    assert (variant, finding.verdict) == ("dpo", verdict)
    assert finding.text == f"{shown} nats for high-scored rejected responses, asked without a goal (n = 48): {words}."


# ---- parts that are missing, files that are wrong ----


def test_missing_parts_say_why(tmp_path: Path) -> None:
    text = Page(build_report(write_run(tmp_path, only=("mt-bench",))).read_text(encoding="utf-8")).text
    assert "There is no likelihoods.parquet" in text
    assert "There is no training.parquet" in text
    assert text.count("The matrix did not ask for this benchmark") == 2


def test_a_run_without_any_result_still_has_a_report(tmp_path: Path) -> None:
    text = Page(build_report(write_run(tmp_path, only=())).read_text(encoding="utf-8")).text
    assert "no primary figure" in text


def test_several_seeds_many_variants_and_one_example_each_have_a_report(tmp_path: Path) -> None:
    variants = ["base", *(f"variant-{number}" for number in range(12))]
    folder = write_run(tmp_path, variants=variants, seeds=(0, 1), prompts=1, questions=1, pairs=1, documents=1, steps=1)
    text = Page(build_report(folder).read_text(encoding="utf-8")).text
    assert "variant-11" in text


@pytest.mark.parametrize("name", ["results.parquet", "examples.parquet", "manifest.json"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    write_run(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(DataError, match=re.escape(name)):
        build_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_a_manifest_without_a_key_names_the_key(tmp_path: Path) -> None:
    write_run(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))
    del manifest["stages"]
    (tmp_path / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(DataError, match="stages"):
        build_report(tmp_path)


def test_a_table_without_a_column_names_the_column(tmp_path: Path) -> None:
    write_run(tmp_path)
    frame = pd.read_parquet(tmp_path / "results.parquet").drop(columns="stderr")
    frame.to_parquet(tmp_path / "results.parquet", index=False)
    with pytest.raises(DataError, match="stderr"):
        build_report(tmp_path)


# ---- one file, no network, nobody's script ----


def test_the_page_names_no_address_beyond_itself(page: Page, run_dir: Path) -> None:
    assert page.addresses
    assert all(address.startswith("#") or address == "data:," for address in page.addresses)
    html = (run_dir / "report.html").read_text(encoding="utf-8")
    style = html[html.index("<style>") : html.index("</style>")]
    assert "@import" not in style
    assert "url(" not in style


def test_only_the_two_scripts_of_the_page_are_allowed(page: Page, run_dir: Path) -> None:
    html = (run_dir / "report.html").read_text(encoding="utf-8")
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)
    assert policy is not None
    assert "default-src &#39;none&#39;" in policy[1]
    assert "unsafe-eval" not in policy[1]
    assert "unsafe-inline" not in policy[1].split("script-src")[1]
    assert len([kind for kind, _ in page.scripts if kind.get("type") != "application/json"]) == 2


def test_hostile_text_reaches_the_page_as_text_and_nothing_else(tmp_path: Path) -> None:
    folder = write_run(tmp_path, hostile=HOSTILE)
    page = Page(build_report(folder).read_text(encoding="utf-8"))
    assert page.handlers == []
    assert len([kind for kind, _ in page.scripts if kind.get("type") != "application/json"]) == 2
    assert all(address.startswith("#") or address == "data:," for address in page.addresses)
    data = next(text for kind, text in page.scripts if kind.get("id") == "page-data")
    shown = {group["p"] for group in json.loads(data)["groups"]}
    assert set(HOSTILE) <= shown


def test_embedded_json_can_neither_end_its_element_nor_change() -> None:
    text = script_json(list(HOSTILE))
    assert not set(text) & set("<>&\u2028\u2029\x00")
    assert json.loads(text) == list(HOSTILE)


@pytest.mark.parametrize("detail", ['{"a": NaN}', '{"a": 1e999}', "[1, 2]", "no JSON", "[" * 100_000, "null"])
def test_a_detail_of_any_kind_becomes_json(tmp_path: Path, detail: str) -> None:
    write_run(tmp_path, prompts=1)
    frame = pd.read_parquet(tmp_path / "examples.parquet").assign(detail=detail)
    (group, *_) = example_groups(frame, ["base", "dpo", "ra-dpo"])
    assert json.loads(script_json(group)) == group


def test_a_name_cannot_be_markup_or_a_template_for_plotly() -> None:
    assert figures.plain("<b>%{x}</b>") == "&lt;b&gt;% {x}&lt;/b&gt;"


def test_examples_of_different_tasks_with_one_id_stay_apart(run_dir: Path) -> None:
    run = load_run(run_dir)
    groups = example_groups(run.examples, run.variants)
    assert all(len({row["v"] for row in group["r"]}) == len(group["r"]) for group in groups)
    assert [group["b"] for group in groups] == sorted(
        (g["b"] for g in groups), key=["alpaca-eval", "mt-bench", "academic"].index
    )


# ---- in a browser ----


class Watched:
    """A page in a headless browser, with all that went wrong in it."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.trouble: list[str] = []
        page.on("console", lambda m: self.trouble.append(f"console {m.type}: {m.text}") if m.type == "error" else None)
        page.on("pageerror", lambda error: self.trouble.append(f"page error: {error}"))
        page.on("request", lambda r: None if r.url.startswith(("file:", "data:")) else self.trouble.append(r.url))
        page.on("dialog", lambda dialog: (self.trouble.append("dialog"), dialog.dismiss()))

    def open(self, path: Path, fragment: str = "") -> Any:
        self.page.goto(path.as_uri() + fragment)
        self.page.wait_for_selector("html[data-drawn]", state="attached", timeout=120_000)
        return self.page


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("there is no Chromium on this machine")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


@pytest.fixture
def watched(browser: Any) -> Iterator[Watched]:
    context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme="light")
    yield Watched(context.new_page())
    context.close()


def test_the_page_works_without_an_error_or_a_request(watched: Watched, run_dir: Path) -> None:
    page = watched.open(run_dir / "report.html")
    assert page.locator(".plot .main-svg").count() >= page.locator(".plot").count() > 15
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")

    page.fill("#search", "topic-00007")
    page.locator("#count", has_text="1 of").wait_for()
    assert page.locator(".example").count() == 1
    assert page.locator("mark").first.inner_text() == "topic-00007"
    assert "q=topic-00007" in page.url
    page.click("#all")
    assert page.locator(".example").count() == 20

    page.select_option("#benchmark", "alpaca-eval")
    page.select_option("#variant", "ra-dpo")
    page.select_option("#outcome", "worse")
    page.locator("#count", has_not_text="260 of").wait_for()
    examples = pd.read_parquet(run_dir / "examples.parquet")
    lost = examples[
        (examples["variant"] == "ra-dpo") & (examples["metric"] == "preference") & (examples["value"] < 1.5)
    ]
    page.locator("#count", has_text=f"{len(lost)} of").wait_for()

    before = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.click("#theme")
    assert page.get_attribute("#theme", "aria-pressed") == "true"
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != before
    ink = page.evaluate("getComputedStyle(document.body).color")
    page.locator(f'.plot .main-svg text[style*="fill: {ink}"]').first.wait_for(state="attached")

    page.click('#summary-table button[data-column="2"]')
    values = page.eval_on_selector_all(
        "#summary-table tbody td:nth-child(3)", "cells => cells.map(c => +c.dataset.value)"
    )
    assert values == sorted(values, reverse=True)

    page.click('#academic .legend button[data-variant="dpo"]')
    assert page.get_attribute('#academic .legend button[data-variant="dpo"]', "aria-pressed") == "false"
    assert watched.trouble == []


def test_an_examples_link_opens_that_example(watched: Watched, run_dir: Path) -> None:
    page = watched.open(run_dir / "report.html", "#example=alpaca-eval%2Fslogan%2Fprompt-00004%2F0")
    assert page.locator(".example").count() == 1
    assert "topic-00004" in page.locator(".example").inner_text()
    assert page.locator(".answer").count() == 3  # the baseline's answer, and one of each variant
    assert page.locator(".checks li").count() > 0
    page.evaluate("location.hash = '#examples?b=mt-bench&c=math'")
    page.locator("#count", has_text="4 of").wait_for()
    assert watched.trouble == []


@pytest.mark.slow
def test_no_script_of_a_hostile_output_runs(watched: Watched, tmp_path: Path) -> None:
    variants = ("base", f"<img src=x onerror='{CANARY}'>", "</script><b>bold</b>")
    folder = write_run(tmp_path, variants=variants, hostile=HOSTILE, manifest={"name": f"<script>{CANARY}</script>"})
    page = watched.open(build_report(folder), "#examples?b=alpaca-eval")
    for _ in range(2):
        while page.locator(".more").count():
            page.locator(".more").first.click()
        assert page.locator("#list script, #list img, #list iframe, #list svg, #list style, #list base").count() == 0
        page.click("#after")
    assert page.evaluate("window.canary") is None
    page.fill("#search", "gnihtemos")
    page.locator("#count", has_text="1 of").wait_for()
    assert page.locator(".example .control", has_text="U+202E").count() > 0
    assert watched.trouble == []


@pytest.mark.slow
def test_ten_thousand_examples_stay_fluid(watched: Watched, tmp_path: Path) -> None:
    folder = write_run(tmp_path, prompts=10_000, only=("alpaca-eval",))
    page = watched.open(build_report(folder))
    assert page.locator("#count").inner_text() == "10,000 of 10,000 examples"
    page.fill("#search", "topic-09999")
    page.locator("#count", has_text="1 of 10,000").wait_for(timeout=3_000)
    seconds = page.evaluate(
        "(() => { const start = performance.now(); const box = document.getElementById('search'); box.value = '';"
        "document.getElementById('all').click(); document.getElementById('after').click();"
        "return (performance.now() - start) / 1000; })()"
    )
    assert seconds < 1
    assert watched.trouble == []


@pytest.mark.slow
def test_a_phone_and_paper_show_no_more_than_fits(browser: Any, run_dir: Path) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844}, color_scheme="dark")
    watched = Watched(context.new_page())
    page = watched.open(run_dir / "report.html")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.get_attribute("#theme", "aria-pressed") == "true"
    assert len(page.pdf(format="A4")) > 50_000
    assert watched.trouble == []
    context.close()
