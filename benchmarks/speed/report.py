"""Speed of the report: a large run is built into a page, and the page is used in Chromium. There is no peer.

Run from the repository's root: python benchmarks/speed/report.py [--json FILE] [--keep FOLDER]

The run is synthetic: 20 variants on 6 benchmarks of 1,000 examples each, answers as long as UltraFeedback's, with a
judge's words for each. Its texts do not fit in 15 MB by far: the page then holds those of as many examples as it has
room for, and the scores of all; what it says about that is printed. A second run has answers of a sentence or two.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tables import write

from radpo.core.results import examples_frame, results_frame
from radpo.report.build import build_report

VARIANTS, EXAMPLES, ROUNDS = 20, 1_000, 5
BENCHMARKS = ("alpaca-eval", "arena-hard", "mt-bench", "academic/gsm8k", "academic/arc", "academic/truthfulqa")
CATEGORIES = ("writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities")
LONG, SHORT = (903, 0.8), (110, 0.3)
"""Median length of an answer in characters, and the standard deviation of its logarithm."""
QUERIES = ("the", "zebra", "ma", "not to be found", "topic-0421")


def words(rng: np.random.Generator) -> str:
    """A text of random words to cut answers from; few of them are used often, as in any language (Zipf's law)."""
    letters = rng.choice(np.frombuffer(b"etaoinshrdlucmfwyp", np.uint8), (5_000, 12))
    found = [bytes(row[:size]).decode() for row, size in zip(letters, rng.integers(1, 12, 5_000), strict=True)]
    often = 1 / np.arange(10, 5_010)
    return " ".join(found[rank] for rank in rng.choice(5_000, 2_000_000, p=often / often.sum()))


def write_run(folder: Path, length: tuple[float, float]) -> Path:
    """A run directory of the size that the report must bear."""
    rng = np.random.default_rng(0)
    text = words(rng)

    def cut(median: float, spread: float) -> str:
        size = int(np.exp(rng.normal(np.log(median), spread)))
        begin = int(rng.integers(0, len(text) - 20_000))
        return text[begin : begin + size]

    variants = ["base", *(f"variant-{number:02d}" for number in range(1, VARIANTS))]
    baseline = [cut(*length) for _ in range(EXAMPLES)]
    prompts = [f"topic-{number:04d}: {cut(300, 0.7)}" for number in range(EXAMPLES)]
    results: list[dict[str, Any]] = []
    examples: list[dict[str, Any]] = []
    for place, variant in enumerate(variants):
        for named in BENCHMARKS:
            benchmark, _, task = named.partition("/")
            against = benchmark in ("alpaca-eval", "arena-hard")
            if against and variant == "base":
                continue
            metric = {"alpaca-eval": "preference", "academic": "acc"}.get(benchmark, "score")
            lift = 0.04 * place / VARIANTS
            draws = {
                "alpaca-eval": rng.choice([1.0, 1.5, 2.0], EXAMPLES, p=[0.45 - lift, 0.1, 0.45 + lift]),
                "arena-hard": rng.choice([0.0, 50.0, 100.0], EXAMPLES, p=[0.45 - lift, 0.1, 0.45 + lift]),
                "mt-bench": np.clip(np.round(rng.normal(6 + lift, 2, EXAMPLES)), 1, 10),
                "academic": (rng.random(EXAMPLES) < 0.5 + lift).astype(float),
            }[benchmark]
            subsets = [task or CATEGORIES[number % len(CATEGORIES)] for number in range(EXAMPLES)]
            cell = {"variant": variant, "model": "synthetic", "seed": 0, "benchmark": benchmark}
            for number in range(EXAMPLES):
                detail = {"goal": 10.0, "reason": cut(120, 0.5), "price": float(rng.random()), "generator_1": "base"}
                examples.append(
                    {
                        **cell, "subset": subsets[number], "example_id": f"example-{number:04d}",
                        "prompt": prompts[number], "output": cut(*length),
                        "baseline_output": baseline[number] if against else None, "metric": metric,
                        "value": draws[number], "detail": json.dumps(detail),
                    }
                )  # fmt: skip
            shown = pd.Series(100 * (draws - 1) if benchmark == "alpaca-eval" else draws)
            figure = {"alpaca-eval": "win_rate", "academic": "acc"}.get(benchmark, "score")
            parts = {task or "all": shown, **{part: shown[np.array(subsets) == part] for part in set(subsets) - {task}}}
            results += [
                {
                    **cell, "subset": subset, "metric": figure, "value": part.mean(),
                    "stderr": part.std() / np.sqrt(len(part)), "n": len(part), "higher_is_better": True,
                    "primary": subset in ("all", task),
                }
                for subset, part in parts.items()
            ]  # fmt: skip
    folder.mkdir()
    results_frame(results).to_parquet(folder / "results.parquet", index=False)
    examples_frame(examples).to_parquet(folder / "examples.parquet", index=False)
    stages = [
        {"name": f"{kind}/{variant}/seed-0", "key": "0", "seconds": 60.0, "from_store": False, "peak_mib": 900.0}
        for variant in variants
        for kind in ("train", "generate", "alpaca-eval", "arena-hard", "mt-bench", "academic")
    ]
    manifest = {
        "name": "large", "created": "2025-03-01T12:00:00+00:00", "radpo": "0.1.0", "git_commit": None, "platform": {},
        "packages": {}, "models": {"synthetic": {"fingerprint": "none"}}, "data": {}, "seeds": [0], "baseline": "base",
        "variants": {variant: {"method": variant} for variant in variants}, "notes": [], "stages": stages,
        "wall_seconds": 7200.0,
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return folder


def built(folder: Path) -> tuple[list[float], float]:
    """Processor seconds of each build, and megabytes."""
    seconds = []
    for _ in range(ROUNDS):
        start = time.process_time()
        report = build_report(folder)
        seconds.append(time.process_time() - start)
    return seconds, report.stat().st_size / 1e6


def used(report: Path, chromium: str) -> tuple[list[float], list[float], list[float], str]:
    """Seconds to the first contentful paint, seconds from a click in the search until all answers are read for it,
    milliseconds that a key typed there takes, and what the page says of its room.

    A key's time is from its event to the frame that shows its outcome, the answers all being searched.
    """
    from playwright.sync_api import sync_playwright

    paints, reads, keys = [], [], []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        for _ in range(ROUNDS):
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            page.goto(report.as_uri())
            while not page.evaluate("performance.getEntriesByName('first-contentful-paint').length"):
                page.wait_for_timeout(20)
            paints.append(page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime") / 1000)
            page.evaluate("document.getElementById('examples').scrollIntoView()")
            page.wait_for_selector("html[data-examples]", state="attached", timeout=60_000)
            start = time.perf_counter()
            page.focus("#search")
            page.wait_for_selector("html[data-searchable]", state="attached", timeout=60_000)
            reads.append(time.perf_counter() - start)
            page.evaluate(
                "window.times = []; document.getElementById('search').addEventListener('input', () => {"
                "const start = performance.now();"
                "requestAnimationFrame(() => setTimeout(() => times.push(performance.now() - start))); }, true)"
            )
            for query in QUERIES:
                page.fill("#search", "")
                page.keyboard.type(query, delay=150)
            page.wait_for_timeout(300)
            keys += page.evaluate("times")
            kept = page.query_selector("#examples > .kept")
            said = "" if kept is None else kept.inner_text()
            page.close()
        browser.close()
    return paints, reads, keys, said or "All answers are in the file."


def main() -> None:
    """Measure, print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the rows here as JSON")
    parser.add_argument("--keep", type=Path, help="a new folder that keeps the runs and their reports")
    arguments = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("there is no Chromium on this machine; install it to measure the page")
    rows: list[dict[str, Any]] = []

    def note(what: str, values: list[float], unit: str, goal: str, *, worst: bool = False) -> None:
        middle = max(values) if worst else statistics.median(values)
        spread = [round(min(values), 2), round(max(values), 2)] if len(values) > 1 else None
        rows.append(
            {"what": what, "ours": round(middle, 2), "peer": None, "unit": unit, "ratio": None, "spread": spread,
             "goal": goal}
        )  # fmt: skip
        print(f"{what}: {middle:.2f} {unit}{f' {spread}' if spread else ''}; goal: {goal}", flush=True)

    with tempfile.TemporaryDirectory() as name:
        home = arguments.keep or Path(name)
        home.mkdir(exist_ok=True)
        for title, length in (("long answers", LONG), ("short answers", SHORT)):
            folder = write_run(home / title.replace(" ", "-"), length)
            what = f"{VARIANTS} variants x {len(BENCHMARKS)} benchmarks x {EXAMPLES:,} examples, {title}"
            seconds, size = built(folder)
            note(f"{what}: built", seconds, "CPU seconds", "below 10")
            note(f"{what}: file", [size], "MB", "below 15")
            paints, reads, keys, said = used(folder / "report.html", chromium)
            note(f"{what}: first contentful paint", paints, "seconds", "below 2")
            note(f"{what}: answers read for the first search", reads, "seconds", "none set")
            note(f"{what}: a key in the search, the slowest", keys, "milliseconds", "below 100", worst=True)
            print(said)
    write(arguments.json, "report", rows)


if __name__ == "__main__":
    main()
