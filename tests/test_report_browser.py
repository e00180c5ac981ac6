"""The report in headless Chromium: no error, no request, usable by everybody, whatever it shows."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from report_factory import ALL, write_run
from report_page import Watched, chromium, comes_to, wait_until

from radpo.report.build import build_report

CANARY = "window.canary = (window.canary || 0) + 1"
HOSTILE = (
    f"<script>{CANARY}</script>",
    f"</script><script>{CANARY}</script>",
    f"</SCRIPT ><script>{CANARY}</script>",
    f"<!--<script>{CANARY}</script>-->",
    f"<!--</script><script>{CANARY}</script>",
    f"<![CDATA[<script>{CANARY}</script>]]>",
    f"<img src=x onerror='{CANARY}'>",
    f'"><svg onload="{CANARY}">',
    f"' onmouseover='{CANARY}' x='",
    f'" autofocus onfocus="{CANARY}" x="',
    f"<iframe srcdoc='<script>parent.{CANARY}</script>'></iframe>",
    f"<object data='data:text/html,<script>parent.{CANARY}</script>'></object>",
    f"<embed src='data:text/html,<script>{CANARY}</script>'>",
    f"<a href='javascript:{CANARY}'>click</a>",
    f"<form action='javascript:{CANARY}'><button>go</button></form>",
    f"<details open ontoggle='{CANARY}'>",
    f"<body onload='{CANARY}'>",
    f"<video><source onerror='{CANARY}'></video>",
    f"<math><mtext></form><form><mglyph><style></math><img src onerror='{CANARY}'>",
    f"<svg><animate onbegin='{CANARY}' attributeName=x dur=1s>",
    f"<svg><script>{CANARY}</script></svg>",
    f"<template><script>{CANARY}</script></template>",
    f"<noscript><p title='</noscript><img src=x onerror={CANARY.replace(' ', '')}>'>",
    "<base href='https://example.invalid/'>",
    "<meta http-equiv='refresh' content='0;url=https://example.invalid/'>",
    "<link rel=stylesheet href='https://example.invalid/a.css'>",
    "<style>@import 'https://example.invalid/b.css'; * { display: none }</style>",
    "<img src='https://example.invalid/c.png'>",
    "<div style='background: url(https://example.invalid/d.png); position: fixed; inset: 0'>",
    "{{ 7 * 7 }} {% raw %} {{ run.__class__ }}",
    "${alert(1)} `%{customdata}` $&amp; $1 $$",
    "]]> --> */ // \\u003c/script\\u003e </title></textarea></style></pre>",
    "\u202egnihtemos si siht\u2066 \u200fx\u200b",
    "a NUL \x00, a bell \x07, a CR \r, and \u2028 \u2029 line ends",
    "ANSI \x1b[31mred\x1b[0m \x1b]0;title\x07 \x9b31m",
    "one line of a megabyte " + "x" * 1_000_000,
    "many lines\n" * 20_000,
    "constructor __proto__ toString hasOwnProperty",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467 and \u0639\u0631\u0628\u064a, z\u0351\u0352\u0357\u035b\u0363",
    "&lt;script&gt; &amp;#60; \ufeff\ufffe\uffff, and tags: \U000e0049\U000e0067\U000e006e",
)
FORBIDDEN = (
    "script, img, iframe, object, embed, style, base, link, meta, form, video, template, svg, math, button[onclick]"
)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_run(tmp_path_factory.mktemp("run"), only=ALL, pairs=40)
    build_report(folder)
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as started:
        yield started


@pytest.fixture
def watched(browser: Any) -> Iterator[Watched]:
    context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme="light")
    # What the page copies is kept where a test can read it.
    context.add_init_script(
        "Object.defineProperty(navigator, 'clipboard', {value: {writeText: async (text) => { window.taken = text; }}})"
    )
    yield Watched(context.new_page())
    context.close()


def test_the_page_works_without_an_error_or_a_request(watched: Watched, run_dir: Path) -> None:
    page = watched.open(run_dir / "report.html", drawn=True)
    assert page.locator(".plot .main-svg").count() >= page.locator(".plot").count() > 25
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")

    page.fill("#search", "topic-00007")
    page.locator("#count", has_text="1 of").wait_for()
    page.locator("#example mark", has_text="topic-00007").first.wait_for()
    assert "q=topic-00007" in page.url
    page.fill("#search", "answer 5 of variant 2")  # in an answer, not in the list's own words
    page.locator("#count", has_text="1 of").wait_for()
    page.click("#all")

    examples = pd.read_parquet(run_dir / "examples.parquet")
    lost = examples[
        (examples["variant"] == "ra-dpo") & (examples["metric"] == "preference") & (examples["value"] < 1.5)
    ]
    page.select_option("#benchmark", "alpaca-eval")
    page.select_option("#second", "ra-dpo")
    page.select_option("#outcome", "first")
    page.locator("#count", has_text=f"{len(lost)} of").wait_for()
    assert page.locator(".row .scores.first").count() > 0
    assert page.locator(".row .scores.second").count() == 0
    comes_to(page, page.locator("#example .answer h4 .verdict").all_inner_texts, ["better", "worse"])

    before = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.click("#theme")
    assert page.get_attribute("#theme", "aria-pressed") == "true"
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != before
    ink = page.evaluate("getComputedStyle(document.body).color")
    page.locator(f'.plot .main-svg text[style*="fill: {ink}"]').first.wait_for(state="attached")

    page.click('#summary-table button[data-column="3"]')
    values = page.eval_on_selector_all(
        "#summary-table tbody td:nth-child(4)", "cells => cells.map(c => +c.dataset.value)"
    )
    assert values == sorted(values, reverse=True)

    page.click('#academic .legend button[data-variant="dpo"]')
    hidden = "document.querySelector('#academic .plot').data.filter((t) => t.visible === false)"
    comes_to(page, lambda: {trace["meta"] for trace in page.evaluate(hidden)}, {"dpo"})
    assert watched.trouble == []


def test_figures_are_drawn_only_once_they_are_about_to_be_seen(watched: Watched, run_dir: Path) -> None:
    page = watched.open(run_dir / "report.html", examples=False)
    page.wait_for_timeout(300)
    assert page.evaluate("Number(document.documentElement.dataset.drawn ?? 0)") < page.locator(".plot").count() / 2
    assert page.evaluate("document.documentElement.dataset.examples") is None
    with page.expect_download() as download:
        page.click("#calibration .save")
    svg = Path(download.value.path()).read_text(encoding="utf-8")
    assert download.value.suggested_filename == "calibration-1.svg"
    assert svg.startswith("<svg")
    assert "score asked for" in svg
    assert watched.trouble == []


def test_another_baseline_gives_other_differences_and_words(watched: Watched, run_dir: Path) -> None:
    page = watched.open(run_dir / "report.html", examples=False)
    static = page.locator("#summary-table .change").all_inner_texts()
    page.select_option("#baseline", "dpo")
    page.locator("tr.baseline[data-variant='dpo']").wait_for()
    others = page.locator("#summary-table .change").all_inner_texts()
    assert others != static
    assert all(not text for text in page.locator("tr[data-variant='dpo'] .change").all_inner_texts())
    assert "dpo" in page.inner_text("#headline-note")
    comes_to(page, page.locator("#findings h3").all_inner_texts, ["base", "ra-dpo"])
    page.select_option("#baseline", "base")
    page.locator("tr.baseline[data-variant='base']").wait_for()
    # The template and the script agree.
    comes_to(page, page.locator("#summary-table .change").all_inner_texts, static)
    assert watched.trouble == []


def test_the_summary_is_copied_as_csv_markdown_and_latex(watched: Watched, run_dir: Path) -> None:
    page = watched.open(run_dir / "report.html", examples=False)
    copied = {}
    for form in ("csv", "markdown", "latex"):
        page.click(f"[data-copy={form}]")
        wait_until(page, "window.taken !== undefined")
        copied[form] = page.evaluate("const text = window.taken; delete window.taken; text")
    assert page.inner_text("#copied") == "Copied as LaTeX"
    frame = pd.read_csv(io.StringIO(copied["csv"]))
    results = pd.read_parquet(run_dir / "results.parquet")
    key = ["variant", "benchmark", "subset", "metric"]
    shown = results["primary"].fillna(False).astype(bool) | (results["metric"] == "length_controlled_winrate")
    both = frame.merge(results[shown], on=key, suffixes=("", "_own"), validate="one_to_one")
    assert len(both) == shown.sum()
    assert (both["value"] - both["value_own"]).abs().max() < 1e-9
    assert (both["n"] == both["n_own"]).all()
    assert frame["p_holm"].between(0, 1).sum() > 10
    lines = copied["markdown"].splitlines()
    width = lines[0].count(" | ")
    assert [line.count(" | ") for line in lines[:5]] == [width] * 5
    assert lines[2].startswith("| base |")
    rows = [line for line in copied["latex"].splitlines() if line.endswith(r"\\")]
    assert [row.count("&") for row in rows] == [width] * 4
    assert r"radpo\_arithmetic" in rows[0]
    assert r"\pm" in rows[1]
    assert "−" not in "".join(rows)
    # A name that a spreadsheet would run is copied as a text, and numbers with a sign stay numbers.
    page.evaluate("document.querySelectorAll('#summary-table tbody tr').forEach((row) => row.dataset.variant = '=1+1')")
    page.click("[data-copy=csv]")
    wait_until(page, "window.taken !== undefined")
    guarded = pd.read_csv(io.StringIO(page.evaluate("window.taken")))
    assert set(guarded["variant"]) == {"'=1+1"}
    assert (guarded["difference"] < 0).any()
    assert watched.trouble == []


def test_an_examples_link_opens_that_example_and_keys_go_on_from_it(watched: Watched, run_dir: Path) -> None:
    page = watched.open(run_dir / "report.html", "#example=alpaca-eval%2Fslogan%2Fprompt-00004%2F0", examples=False)
    page.locator("#example .prompt", has_text="topic-00004").wait_for()
    comes_to(page, page.locator("#example .answer h4 bdi").all_inner_texts, ["base", "dpo"])
    page.locator("#example .checks li").first.wait_for()
    page.click("#example .others summary")
    comes_to(page, page.locator("#example .answer h4 bdi").all_inner_texts, ["base", "dpo", "ra-dpo"])
    assert "asked for 10" in page.locator("#example .others .goal").inner_text()
    page.focus("#list")
    page.keyboard.press("ArrowDown")
    page.locator("#example .prompt", has_text="topic-00005").wait_for()
    selected = page.get_attribute('[aria-selected="true"]', "id")
    comes_to(page, lambda: page.get_attribute("#list", "aria-activedescendant"), selected)
    page.keyboard.press("End")
    page.locator("#example h3", has_text="academic/radpo_one_word/59/0").wait_for()
    page.locator('[aria-selected="true"]').wait_for()
    page.keyboard.press("k")
    page.locator("#example h3", has_text="academic/radpo_one_word/58/0").wait_for()
    page.keyboard.press("/")
    wait_until(page, "document.activeElement.id === 'search'")
    address = page.url
    page.evaluate("location.hash = '#example=&b=mt-bench&c=math&v=dpo&w=ra-dpo'")
    page.locator("#count", has_text="4 of").wait_for()
    comes_to(page, lambda: page.input_value("#second"), "ra-dpo")
    page.goto(address)
    page.locator("#example h3", has_text="academic/radpo_one_word/58/0").wait_for()
    page.evaluate("location.hash = '#example=no-such-thing'")
    page.locator("#example", has_text="not in this report").wait_for()
    assert watched.trouble == []


def test_marked_words_are_those_that_differ(watched: Watched, tmp_path: Path) -> None:
    folder = write_run(tmp_path, only=("alpaca-eval",), prompts=3)
    frame = pd.read_parquet(folder / "examples.parquet")
    texts = {"base": "The cat sat on the old mat, quietly.", "dpo": "The dog sat on the mat quietly, twice."}
    frame["baseline_output"] = texts["base"]
    frame.loc[frame["variant"] == "dpo", "output"] = texts["dpo"]
    frame.to_parquet(folder / "examples.parquet", index=False)
    page = watched.open(build_report(folder))
    page.locator("#example ins").first.wait_for()
    assert "cat" in page.locator("#example del").all_text_contents()
    assert "dog" in page.locator("#example ins").all_text_contents()
    words = {
        tag: page.eval_on_selector_all(
            "#example .answer > div > .text",
            f"boxes => boxes.map((box) => {{ const copy = box.cloneNode(true);"
            f"copy.querySelectorAll('{tag}').forEach((one) => one.remove()); return copy.textContent; }})",
        )
        for tag in ("none", "del, ins")
    }
    assert words["none"] == [texts["base"], texts["dpo"]]
    assert words["del, ins"][0] == words["del, ins"][1]  # what is left is common to both
    assert "".join(words["del, ins"][0].split()).startswith("Thesatonthe")
    page.uncheck("#diff")
    page.locator("#example del").first.wait_for(state="detached")
    assert watched.trouble == []


def test_no_script_of_forty_hostile_outputs_runs(watched: Watched, tmp_path: Path) -> None:
    assert len(HOSTILE) == 40
    variants = ("base", f"<img src=x onerror='{CANARY}'>", "</script><b>bold</b>")
    folder = write_run(
        tmp_path,
        variants=variants,
        hostile=HOSTILE,
        manifest={"name": f"<script>{CANARY}</script>"},
        only=("alpaca-eval", "mt-bench", "training"),
    )
    kept = pd.read_parquet(folder / "examples.parquet")["prompt"]
    assert set(HOSTILE) <= set(kept)
    page = watched.open(build_report(folder), "#example=&b=alpaca-eval", drawn=True)
    page.locator("#count", has_text="48 of").wait_for()
    page.focus("#list")
    page.keyboard.press("Home")
    for number, text in enumerate(HOSTILE):
        page.locator("#example h3 a", has_text=f"prompt-{number:05d}/0").wait_for()
        while page.locator("#example .more").count():
            page.locator("#example .more").first.click()
        # Every character is in the page, the invisible ones by their numbers; nothing of it became an element.
        shown = page.locator("#example .prompt").text_content()
        visible = "".join(letter for letter in text if letter.isprintable() or letter == "\n")
        assert len(shown) >= len(visible)
        assert text[:20].split("\n")[0].strip("\u202e\x00") in shown or not text[:20].isprintable()
        assert page.locator(f"#example :is({FORBIDDEN}), #list :is({FORBIDDEN})").count() == 0
        page.focus("#list")
        page.keyboard.press("ArrowDown")
    assert page.evaluate("window.canary") is None
    assert page.locator("h1").inner_text() == f"<script>{CANARY}</script>"
    page.fill("#search", "gnihtemos")
    page.locator("#count", has_text="1 of").wait_for()
    page.locator("#example .control", has_text="U+202E").first.wait_for()
    page.fill("#search", "and tags")
    page.locator("#example .control", has_text="U+E0049").first.wait_for()
    for variant in variants:
        page.select_option("#baseline", variant)
    assert page.evaluate("window.canary") is None
    assert watched.trouble == []


@pytest.mark.slow
def test_ten_thousand_examples_stay_fluid(watched: Watched, tmp_path: Path) -> None:
    folder = write_run(tmp_path, prompts=10_000, only=("alpaca-eval",))
    page = watched.open(build_report(folder))
    assert page.locator("#count").inner_text() == "10,000 of 10,000 examples"
    assert page.locator(".row").count() < 40
    page.focus("#search")
    page.wait_for_selector("html[data-searchable]", state="attached")
    page.keyboard.type("topic-09999")
    page.locator("#count", has_text="1 of 10,000").wait_for(timeout=3_000)
    page.fill("#search", "")
    page.evaluate("document.getElementById('list').scrollTop = 1e9")
    page.locator(".row", has_text="prompt-09999").wait_for(timeout=3_000)
    assert page.locator(".row").count() < 40
    assert watched.trouble == []


def test_axe_finds_nothing_in_light_and_dark(watched: Watched, run_dir: Path) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    page = watched.open(run_dir / "report.html", drawn=True)
    page.eval_on_selector_all("details", "all => all.forEach((one) => { one.open = true; })")
    page.fill("#search", "the")
    page.locator("#example mark").first.wait_for()
    # Dark differs in colours only. Of the rules that are kept, axe need not list every element: that takes it longest.
    for scheme, rules, least in (("light", {}, 26), ("dark", {"runOnly": ["color-contrast"]}, 1)):
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        wait_until(page, f"getComputedStyle(document.documentElement).colorScheme === '{scheme}'")
        # A figure is one picture with a label, to a screen reader too: what is drawn in it is no content of its own.
        options = {**rules, "resultTypes": ["violations"]}
        found = axe.Axe().run(page, context={"exclude": [[".plot > *"]]}, options=options).response
        problems = {one["id"]: [node["html"][:120] for node in one["nodes"][:3]] for one in found["violations"]}
        assert problems == {}, scheme
        assert len(found["passes"]) >= least
    assert watched.trouble == []


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1920, "light")])
def test_no_screen_has_to_scroll_sideways(browser: Any, run_dir: Path, width: int, scheme: str) -> None:
    context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
    watched = Watched(context.new_page())
    page = watched.open(run_dir / "report.html", drawn=width == 390)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.get_attribute("#theme", "aria-pressed") == str(scheme == "dark").lower()
    context.close()
    assert watched.trouble == []


@pytest.fixture(scope="module")
def long_names(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report whose variants have names that no chart has room for in one line."""
    folder = write_run(tmp_path_factory.mktemp("long"), only=ALL, pairs=40, variants=LONG_NAMES)
    return build_report(folder)


LONG_NAMES = ("base", "reward_augmented_on_policy_dpo_with_lora", "reward_augmented_on_policy_dpo_with_dora")
OUTSIDE = """() => [...document.querySelectorAll('.plot')].flatMap((plot) => {
  const box = plot.getBoundingClientRect();
  return [...plot.querySelectorAll('.main-svg text')].flatMap((text) => {
    const { left, right, top, bottom, width } = text.getBoundingClientRect();
    const out = Math.max(box.left - left, right - box.right, box.top - top, bottom - box.bottom);
    return width && out > 1 ? [`${plot.closest('section').id}: ${text.textContent} (${out} px)`] : [];
  });
})"""
OVERLAPPING = """() => [...document.querySelectorAll('.plot')].flatMap((plot) => {
  const slanting = '.xtick text[transform*="rotate(-"], .xtick text[transform*="rotate(3"]';
  if (plot.querySelector(slanting)) return [];
  const labels = [...plot.querySelectorAll('.xtick text, .ytick text')].map((text) => text.getBoundingClientRect());
  const meet = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 2
    && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 2;
  return labels.some((a, at) => labels.slice(at + 1).some((b) => meet(a, b))) ? [plot.closest('section').id] : [];
})"""


@pytest.mark.parametrize("width", [390, 1280, 1920])
def test_every_label_of_a_figure_is_whole_and_inside_it(browser: Any, long_names: Path, width: int) -> None:
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme="light")
    watched = Watched(context.new_page())
    page = watched.open(long_names, examples=False, drawn=True)
    comes_to(page, lambda: page.evaluate(OUTSIDE), [], seconds=5)
    assert page.evaluate(OVERLAPPING) == []
    shown = page.eval_on_selector_all(".plot .main-svg text", "all => all.map((text) => text.textContent)")
    assert [text for text in shown if "…" in text] == []
    squeezed = {"".join(text.split()) for text in shown}
    # Lines of one label are joined without the space that they were broken at.
    assert {"length-controlledwinrate", *LONG_NAMES} <= squeezed
    context.close()
    assert watched.trouble == []


@pytest.mark.parametrize("width", [390, 1280, 1920])
def test_the_section_bar_keeps_to_the_page_and_leads_to_every_section(browser: Any, run_dir: Path, width: int) -> None:
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme="light")
    watched = Watched(context.new_page())
    page = watched.open(run_dir / "report.html", examples=False)
    bar = "(() => { const bar = document.querySelector('nav'); return bar.scrollWidth <= bar.clientWidth; })()"
    assert page.evaluate(bar)
    assert page.evaluate("document.querySelector('nav').offsetHeight") < 60
    inside = page.locator("nav .links a").evaluate_all(
        "all => all.every((a) => a.getBoundingClientRect().right <= a.parentElement.getBoundingClientRect().right)"
    )
    assert inside
    page.click("nav summary")
    links = page.locator("nav a")
    anchors = links.evaluate_all("all => all.map((one) => one.getAttribute('href').slice(1))")
    assert anchors == page.eval_on_selector_all("main section", "all => all.map((one) => one.id)")
    for place in (0, len(anchors) - 1):
        if not links.nth(place).is_visible():
            page.click("nav summary")
        links.nth(place).click()
        wait_until(page, f"document.getElementById('{anchors[place]}').getBoundingClientRect().top <= 60", seconds=5)
    assert not page.locator("nav .entries").is_visible()
    context.close()
    assert watched.trouble == []


@pytest.mark.parametrize(("width", "anchor"), [(1280, "examples"), (1280, "training"), (390, "cost")])
def test_a_link_to_a_section_lands_there_and_stays(browser: Any, run_dir: Path, width: int, anchor: str) -> None:
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme="light")
    watched = Watched(context.new_page())
    # A browser without scroll anchoring, such as Safari, leaves what the page does to the page.
    context.add_init_script(
        "addEventListener('DOMContentLoaded', () => { document.documentElement.style.overflowAnchor = 'none'; })"
    )
    page = watched.open(run_dir / "report.html", f"#{anchor}", examples=False)
    wait_until(page, "document.documentElement.dataset.examples !== undefined || innerWidth > 400")
    wait_until(page, "Number(document.documentElement.dataset.drawn ?? 0) > 0")
    page.wait_for_timeout(700)
    assert 30 <= page.evaluate(f"document.getElementById('{anchor}').getBoundingClientRect().top") <= 60
    page.mouse.wheel(0, -300)
    page.wait_for_timeout(300)
    moved = page.evaluate(f"document.getElementById('{anchor}').getBoundingClientRect().top")
    page.evaluate("document.querySelector('main').append(document.createElement('hr'))")
    page.wait_for_timeout(100)
    assert page.evaluate(f"document.getElementById('{anchor}').getBoundingClientRect().top") == moved > 60
    context.close()
    assert watched.trouble == []


def test_drawing_a_figure_moves_nothing(watched: Watched, run_dir: Path) -> None:
    page = watched.open(run_dir / "report.html", examples=False)
    heights = "[...document.querySelectorAll('.plot')].map((plot) => Math.round(plot.getBoundingClientRect().height))"
    before = page.evaluate(heights)
    watched.open(run_dir / "report.html", examples=False, drawn=True)
    assert page.evaluate(heights) == before
    assert len(set(before)) > 3


def test_paper_is_white_and_has_every_figure(watched: Watched, run_dir: Path) -> None:
    page = watched.open(run_dir / "report.html", examples=False)
    page.emulate_media(color_scheme="dark")
    page.evaluate("() => { window.print = () => { window.printed = true; }; }")
    page.click("#print")
    wait_until(page, "window.printed === true")
    assert page.locator(".plot .main-svg").count() >= page.locator(".plot").count()
    assert len(page.pdf(format="A4")) > 100_000
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(253, 253, 252)"
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.get_attribute("#theme", "aria-pressed") == "true"
    assert watched.trouble == []
