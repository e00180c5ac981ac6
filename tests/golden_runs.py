"""Runs of small matrices through the command line, and what they come to, to be held against committed figures.

    python tests/golden_runs.py --dump FOLDER    # run, and write all that came out, to the last digit, as JSON
    python tests/golden_runs.py --diff A B       # what differs between two such folders, exactly
    python tests/golden_runs.py --write          # run, and write the committed figures (tests/golden/*.json) anew

Names of runs (tests/golden/NAME.yaml) at the end are those to take; all, unless given.

Two checkouts are compared on one machine by dumping both. Nothing of radpo is imported here: only its command line is
called and its run directories' files are read, so that any layout of its modules can be held against any other.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from factories import TEMPLATE, write_model
from fault_server import FaultServer
from report_page import Page

GOLDEN = Path(__file__).parent / "golden"
TOLERANCE = 1e-3
"""How far a number may be from the committed one, relative or absolute: CPUs round sums differently, and two
optimiser steps carry that into the weights."""

PINNED_RESULTS = (
    "variant", "seed", "benchmark", "subset", "metric", "value", "stderr", "n", "higher_is_better", "primary",
)  # fmt: skip
PINNED_EXAMPLES = (
    "variant", "seed", "benchmark", "subset", "example_id", "metric", "prompt", "output", "baseline_output", "value",
)  # fmt: skip
TEXTS = frozenset({"prompt", "output", "baseline_output", "detail"})
"""Columns that are pinned by a hash."""

Table = dict[str, Any]
"""`columns`, a list of names, and `rows`, a list of lists."""


@dataclass(frozen=True)
class GoldenRun:
    """A matrix file of tests/golden, how it is run, and which tables of contrasts are asked of it."""

    name: str
    words: tuple[str, ...]
    contrasts: Mapping[str, tuple[str, ...]]


RUNS = (
    GoldenRun("methods", ("--jobs", "2"), {}),
    GoldenRun("scores", ("--jobs", "1"), {"base": ()}),
    GoldenRun("endpoint", ("--executor", "ray", "--jobs", "2"), {}),
)

# --- what the matrices take


def write_inputs(folder: Path) -> None:
    """Models and data that the matrix files name, beside them."""
    write_model(folder / "model")
    write_reward_model(folder / "reward")
    write_rows(folder / "train.jsonl", pairs(8, "Write of"))
    write_rows(folder / "heldout.jsonl", pairs(10, "Speak of"))
    write_rows(folder / "questions.jsonl", questions(8, turns=1))
    write_rows(folder / "turns.jsonl", questions(5, turns=2))
    write_rows(folder / "fixed.jsonl", ({"question_id": f"q{n}", "turns": ["short" * (n + 1)]} for n in range(8)))
    references = ({"question_id": f"q{n}", "choices": [{"turns": [f"{n}", f"{2 * n}"]}]} for n in range(5))
    write_rows(folder / "references.jsonl", references)
    (folder / "judge_config.yaml").write_text(ARENA_CONFIG, encoding="utf-8")
    tasks = folder / "tasks"
    (tasks / "data").mkdir(parents=True)
    (tasks / "colours.yaml").write_text(CHOICE_TASK, encoding="utf-8")
    (tasks / "sums.yaml").write_text(TEXT_TASK, encoding="utf-8")
    colours = ({"question": f"Which colour is {n}?", "answer": n % 3} for n in range(8))
    write_rows(tasks / "data" / "colours.jsonl", colours)
    write_rows(tasks / "sums.jsonl", ({"question": f"{n} + {n}?", "answer": str(2 * n)} for n in range(4)))


def write_reward_model(folder: Path) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForSequenceClassification

    write_model(folder, TEMPLATE)
    config = LlamaConfig.from_pretrained(folder)
    config.num_labels = 1
    torch.manual_seed(1)
    LlamaForSequenceClassification(config).save_pretrained(folder)


def write_rows(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


SCORES = ((9.0, 3.0), (7.0, 6.5), (10.0, 1.0), (5.0, 4.0), (8.0, 2.0), (6.0, 5.0), (9.5, 8.0), (4.0, 4.0))


def pairs(number: int, words: str) -> Iterator[dict[str, Any]]:
    """Scored pairs, one in eight of them a tie, two of the same prompt, ratings of three attributes."""
    for n in range(number):
        chosen, rejected = SCORES[n % len(SCORES)]
        rated = [{"helpfulness": 1.0 + (n + side) % 5, "honesty": 3.0, "truthfulness": 2.0 + n % 3} for side in (0, 1)]
        yield {
            "id": f"p{n}",
            "prompt": f"{words} {n % 7}" + " please" * (n % 7 % 3),
            "chosen": f"Here is {n}, and more" + "!" * (n % 5),
            "rejected": f"No {n}" + " no" * (n % 4),
            "score_chosen": chosen,
            "score_rejected": rejected,
            "attributes_chosen": rated[0],
            "attributes_rejected": rated[1],
        }


def questions(number: int, turns: int) -> Iterator[dict[str, Any]]:
    """Questions of two categories with constraints that an answer of random characters sometimes meets."""
    kinds = ({"kind": "no_commas"}, {"kind": "number"}, {"kind": "max_words", "n": 2}, {"kind": "min_words", "n": 3})
    for n in range(number):
        yield {
            "question_id": f"q{n}",
            "category": ("math", "writing")[n % 2],
            "turns": [f"Say {n}.", f"Say {n} again."][:turns],
            "constraints": [[kinds[n % 4], kinds[(n + 1) % 4]]] * turns,
        }


CHOICE_TASK = """
task: colours
dataset_path: json
dataset_kwargs:
  data_files: {test: data/colours.jsonl}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: [red, green, blue]
doc_to_target: answer
metric_list:
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
  - {metric: acc, aggregation: mean, higher_is_better: true}
"""
TEXT_TASK = """
task: sums
dataset_path: json
dataset_kwargs:
  data_files: sums.jsonl
test_split: train
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: answer
generation_kwargs: {max_gen_toks: 4, do_sample: false, until: []}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
"""
ARENA_CONFIG = """
judge_model: any
temperature: 0
max_tokens: 4096
regex_pattern: \\[\\[([AB<>=]+)\\]\\]
number_of_judgment_attempts: 2
system_prompt: "Judge."
prompt_template: ["<|User Prompt|>\\n{question_1}\\n\\n<|A|>\\n{answer_1}\\n<|B|>\\n{answer_2}\\n<|End|>"]
"""


def judge(body: Mapping[str, Any]) -> str | dict[str, Any]:
    """Likes the longer answer, by Arena-Hard's, alpaca-eval's or the grading prompt; some replies have no verdict."""
    messages = body["messages"]
    text = messages[-1]["content"]
    if messages[0]["content"] == "Judge.":
        first, second = between(messages[1]["content"], "<|A|>\n", "\n<|B|>\n", "\n<|End|>")
        if len(messages) == 2 and len(first) % 4 == 0:
            return "Let me think."
        return "So: " + ("[[A>>B]]" if len(first) > 2 * len(second) else "[[A>B]]" if first > second else "[[B>A]]")
    if "Model Outputs" in text:
        found = re.findall(r'"output": """(.*?)"""', text, re.DOTALL)
        sure = 1 / (1 + abs(len(found[0]) - len(found[1])))
        longer = "m" if len(found[0]) > len(found[1]) else "M"
        tokens = ((longer, math.log(1 - sure / 2)), ("Mm".replace(longer, ""), math.log(sure / 2)))
        top = [{"token": token, "logprob": logprob} for token, logprob in tokens]
        choice = {"index": 0, "finish_reason": "length", "message": {"role": "assistant", "content": longer}}
        return {**choice, "logprobs": {"content": [{**top[0], "top_logprobs": top}]}}
    return "Hard to say." if len(text) % 9 == 0 else f"Rating: [[{1 + len(text) % 10}]]"


def between(text: str, *marks: str) -> list[str]:
    """What stands between marks that follow each other."""
    rest = text.split(marks[0], 1)[1]
    parts = []
    for mark in marks[1:]:
        part, rest = rest.split(mark, 1)
        parts.append(part)
    return parts


# --- running them


def run_all(
    folder: Path, runs: Sequence[GoldenRun] = RUNS, command: Callable[..., str] | None = None
) -> dict[str, dict[str, Any]]:
    """Run the matrices in an empty folder; returns every run's documents (`read_run`).

    Args:
        command: runs the command line in place of `radpo`, which starts a process for each command.
    """
    write_inputs(folder)
    with FaultServer(judge) as server:
        for run in runs:
            text = (GOLDEN / f"{run.name}.yaml").read_text(encoding="utf-8")
            (folder / f"{run.name}.yaml").write_text(text.replace("ENDPOINT", server.url), encoding="utf-8")
        for run in runs:
            perform(run, folder, command or radpo)
        requests = sorted(json.dumps(body, sort_keys=True, ensure_ascii=False) for body in server.asked)
    found = {run.name: read_run(folder / run.name) for run in runs}
    if "endpoint" in found:
        found["endpoint"]["requests"] = {"columns": ["request"], "rows": [[body] for body in requests]}
    return found


def perform(run: GoldenRun, folder: Path, command: Callable[..., str]) -> None:
    # A store of its own: what one run computes, the other must not find.
    command(folder, "run", f"{run.name}.yaml", "--out", run.name, "--store", f"{run.name}-store", *run.words)
    for name, words in run.contrasts.items():
        shown = command(folder, "analyze", "compare", run.name, *words, "--json")
        (folder / run.name / f"contrasts-{name}.json").write_text(shown, encoding="utf-8")


def radpo(folder: Path, *words: str) -> str:
    """Standard output of a command that succeeds."""
    environment = {
        **os.environ, "RADPO_CACHE": str(folder / "cache"), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "radpo", *words], cwd=folder, env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    if done.returncode:
        raise AssertionError(f"radpo {' '.join(words)} ended with {done.returncode}:\n{done.stderr[-5000:]}")
    return done.stdout


# --- reading what came out


def read_run(run_dir: Path) -> dict[str, Any]:
    """All tables of a run directory, its tables of contrasts, its notes and its report's figures, by name."""
    import pandas as pd

    found: dict[str, Any] = {path.stem: table(pd.read_parquet(path)) for path in sorted(run_dir.glob("*.parquet"))}
    for path in sorted(run_dir.glob("contrasts-*.json")):
        rows = json.loads(path.read_text(encoding="utf-8"))
        columns = list(dict.fromkeys(name for row in rows for name in row))
        found[path.stem] = {"columns": columns, "rows": [[row.get(name) for name in columns] for row in rows]}
    manifest = json.loads((run_dir / "manifest.json").read_text(encoding="utf-8"))
    found["notes"] = {"columns": ["note"], "rows": [[note] for note in manifest["notes"]]}
    found["report"] = report_figures((run_dir / "report.html").read_text(encoding="utf-8"))
    return found


def table(frame: Any) -> Table:
    rows = [[plain(value) for value in row] for row in frame.astype(object).itertuples(index=False, name=None)]
    return {"columns": list(map(str, frame.columns)), "rows": rows}


def plain(value: Any) -> Any:
    """A table's value as JSON has it."""
    import numpy as np
    import pandas as pd

    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [plain(item) for item in value]
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return None
    return value.item() if isinstance(value, np.generic) else value


def report_figures(html: str) -> dict[str, Any]:
    """The report's headline, and the cells of its summary by variant and figure."""
    headline = re.search(r'<p class="headline"[^>]*>(.*?)</p>', html, re.DOTALL)
    heads = [
        dict(re.findall(r'data-(benchmark|subset|metric|up)="(.*?)"', head))
        for head in re.findall(r"<th scope=\"col\"[^>]*data-benchmark=[^>]*>", html)
    ]
    rows = []
    variants = re.findall(r'<tr data-variant="(.*?)"', html)
    cells = [cell for cell in Page(html).cells if cell.table == "summary" and "data-value" in cell.attributes]
    assert len(cells) == len(heads) * len(variants), "the summary has a cell for each variant and figure"
    for place, cell in enumerate(cells):
        head = heads[place % len(heads)]
        numbers = [cell.attributes.get(f"data-{name}") or None for name in ("value", "half", "n")]
        rows.append(
            [variants[place // len(heads)], *(head.get(name) for name in ("benchmark", "subset", "metric", "up")),
             *(None if number is None else float(number) for number in numbers), " ".join(cell.text.split())]
        )  # fmt: skip
    sections = re.findall(r'<section id="(.*?)"', html)
    return {
        "headline": " ".join(headline.group(1).split()) if headline else None,
        "sections": sections,
        "columns": ["variant", "benchmark", "subset", "metric", "up", "value", "half", "n", "text"],
        "rows": rows,
    }


# --- what is committed of it, and comparing


def pinned(found: Mapping[str, Any]) -> dict[str, Any]:
    """What is committed of a run's documents: texts by their hashes, numbers to seven digits, rows in order."""
    kept = {name: document for name, document in found.items() if name.startswith("contrasts-")}
    kept["results"] = columns_of(found["results"], PINNED_RESULTS)
    kept["examples"] = columns_of(found["examples"], PINNED_EXAMPLES)
    if "requests" in found:
        kept["requests"] = {"columns": ["request"], "rows": [[hashed(row[0])] for row in found["requests"]["rows"]]}
    kept["report"] = pinned_report(found["report"])
    return {name: in_order(rounded(document)) for name, document in sorted(kept.items())}


def pinned_report(report: Mapping[str, Any]) -> Table:
    """The report's words and, apart, the numbers in them; its headline is a row of its own."""
    head = [None] * (len(report["columns"]) - 1)
    rows = [*report["rows"], [*head, report["headline"]]]
    return {
        "columns": [*report["columns"], "printed"],
        "rows": [[*row[:-1], PRINTED.sub("#", row[-1]), PRINTED.findall(row[-1])] for row in rows],
    }


PRINTED = re.compile(r"(?<![\w.])[-+]?\d+(?:\.\d+)?")


def columns_of(document: Table, names: Sequence[str]) -> Table:
    places = [document["columns"].index(name) for name in names]
    rows = [
        [hashed(row[place]) if name in TEXTS else row[place] for name, place in zip(names, places, strict=True)]
        for row in document["rows"]
    ]
    return {"columns": list(names), "rows": rows}


def hashed(text: str | None) -> str | None:
    return None if text is None else hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return float(f"{value:.7g}") if isinstance(value, float) else value


def in_order(document: dict[str, Any]) -> dict[str, Any]:
    """The document with its rows sorted by all that is no number: in which order they are written may change."""
    return {**document, "rows": sorted(document["rows"], key=identity)}


def identity(row: Sequence[Any]) -> str:
    return json.dumps([None if isinstance(value, (float, list)) else value for value in row], ensure_ascii=False)


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any], tolerance: float = TOLERANCE) -> list[str]:
    """Where two runs' documents differ, a line for each: names and counts exactly, numbers within a tolerance."""
    told = [f"{name}: only in one of them" for name in sorted(set(found) ^ set(wanted))]
    for name in sorted(set(found) & set(wanted)):
        mine, theirs = found[name], wanted[name]
        for key in sorted((set(mine) | set(theirs)) - {"rows"}):
            if mine.get(key) != theirs.get(key):
                told.append(f"{name}, {key}: {mine.get(key)!r}, not {theirs.get(key)!r}")
        told += [f"{name}: {line}" for line in row_differences(mine, theirs, tolerance)]
    return told


def row_differences(found: Table, wanted: Table, tolerance: float) -> Iterator[str]:
    """Differences in the columns that both have."""
    columns = [name for name in found["columns"] if name in wanted["columns"]]
    mine, theirs = by_key(found, columns), by_key(wanted, columns)
    for key in [*mine, *(key for key in theirs if key not in mine)]:
        if key not in mine or key not in theirs:
            yield f"{' '.join(key)}: only {'here' if key in mine else 'there'}"
            continue
        for name, one, other in zip(columns, mine[key], theirs[key], strict=True):
            if not alike(one, other, tolerance):
                yield f"{' '.join(key)}, {name}: {shown(one)}, not {shown(other)}"


KEYS = frozenset({
    "variant", "baseline", "seed", "benchmark", "subset", "metric", "example_id", "goal", "pair_id", "response",
    "step", "id", "side", "note", "request",
})  # fmt: skip
"""Columns that say which row it is."""


def by_key(document: Table, columns: Sequence[str]) -> dict[tuple[str, ...], list[Any]]:
    """Rows, cut to the columns, by their key; those of the same key are told apart by their order."""
    places = [document["columns"].index(name) for name in columns]
    seen: Counter[tuple[str, ...]] = Counter()
    found = {}
    for whole in document["rows"]:
        row = [whole[place] for place in places]
        key = tuple(str(value) for name, value in zip(columns, row, strict=True) if name in KEYS)
        seen[key] += 1
        found[key if seen[key] == 1 else (*key, f"({seen[key]})")] = row
    return found


def alike(one: Any, other: Any, tolerance: float) -> bool:
    if isinstance(one, float) or isinstance(other, float):
        if one is None or other is None or isinstance(one, str) or isinstance(other, str):
            return False
        return math.isclose(one, other, rel_tol=tolerance, abs_tol=tolerance)
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return one == other or all(map(alike_printed, one, other))
    return bool(one == other)


def alike_printed(one: str, other: str) -> bool:
    """Whether two printed numbers differ by a rounding of the last digit at most."""
    places = min(len(number.partition(".")[2]) for number in (one, other))
    return abs(float(one) - float(other)) <= 1.5 * 10.0**-places


def shown(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 300 else f"{text[:300]}…"


# --- files


def write_document(path: Path, documents: Mapping[str, Any]) -> None:
    """JSON with a line for every row."""
    parts = []
    for name, document in documents.items():
        head = {key: value for key, value in document.items() if key != "rows"}
        rows = ",\n".join("   " + json.dumps(row, ensure_ascii=False, sort_keys=True) for row in document["rows"])
        opening = json.dumps(head, ensure_ascii=False)[1:-1]
        parts.append(f' {json.dumps(name)}: {{{opening}, "rows": [\n{rows}\n ]}}')
    path.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")


def read_document(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dump", type=Path, metavar="FOLDER")
    parser.add_argument("--diff", type=Path, nargs=2, metavar=("A", "B"))
    parser.add_argument("--write", action="store_true")
    parser.add_argument("names", nargs="*", metavar="NAME")
    arguments = parser.parse_args()
    runs = [run for run in RUNS if run.name in (arguments.names or [run.name])]
    if arguments.dump or arguments.write:
        with tempfile.TemporaryDirectory() as place:
            found = run_all(Path(place), runs)
        if arguments.dump:
            arguments.dump.mkdir(parents=True, exist_ok=True)
        for name, documents in found.items():
            if arguments.dump:
                write_document(arguments.dump / f"{name}.json", documents)
            if arguments.write:
                write_document(GOLDEN / f"{name}.json", pinned(documents))
    if arguments.diff:
        one, other = arguments.diff
        for path in sorted(one.glob("*.json")):
            for line in differences(read_document(path), read_document(other / path.name), tolerance=0.0):
                print(f"{path.stem}: {line}")


if __name__ == "__main__":
    main()
