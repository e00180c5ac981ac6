"""Academic tasks: lm-eval with its own model class `hf` against the same with `radpo`, same tasks, one run, in turn.

Run from the repository's root: RADPO_REAL_DATA=FOLDER python benchmarks/speed/academic.py [--json FILE] [--rounds N]

The tasks are lm-eval's own, their settings included, with the few-shot counts of the Open LLM Leaderboard, on the first
questions of the real data sets: ARC-Challenge (25 examples), TruthfulQA mc1 and mc2, BBH (3 examples), and MuSR, whose
long stories have one question each here. Both compute in float32 with batches of 8; times are processor seconds, beside
what the model's products take at the machine's best (limit.py).

With --command both are run as a user runs them, `lm_eval --model hf ...` and `radpo lm-eval --model radpo ...`, in
processes of their own, and the two tables are printed one below the other.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import yaml
from limit import least_seconds, needed
from tables import write

from radpo.models.loading import resolve_model

REAL = Path(os.environ.get("RADPO_REAL_DATA", Path(__file__).parents[3] / "shared" / "data")) / "academic"
QUESTIONS = {"arc": 6, "truthfulqa": 8, "bbh": 10, "musr": 2}
GOALS = {"arc": 3.0, "truthfulqa": 3.0, "bbh": 3.0, "musr": 1.5}
COMMAND_TASKS, COMMAND_QUESTIONS = ("real_arc", "real_mc1", "real_mc2"), 4
BBH = ("boolean_expressions", "date_understanding", "logical_deduction_three_objects")


def main() -> None:
    """Time both, check that they agree, print medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the rows here as JSON")
    parser.add_argument("--rounds", type=int, default=3, help="how often each class runs; one more warms up")
    parser.add_argument("--command", action="store_true", help="run the two commands instead, once each")
    arguments = parser.parse_args()
    if not REAL.is_dir():
        sys.exit("no real data: set RADPO_REAL_DATA to a folder with academic/arc, academic/truthfulqa, ...")
    rows = [by_command()] if arguments.command else by_class(arguments.rounds)
    write(arguments.json, "academic", rows)


def by_class(rounds: int) -> list[dict[str, Any]]:
    """Both classes in this process, in turn."""
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    from radpo.models.lm_eval import SharedPrefixHFLM

    folder = str(resolve_model("smollm2-135m-instruct"))
    settings: dict[str, Any] = {"pretrained": folder, "device": "cpu", "dtype": "float32", "batch_size": 8}
    models = {"ours": SharedPrefixHFLM(**settings), "peer": HFLM(**settings)}
    rows = []
    with tempfile.TemporaryDirectory() as name:
        write_tasks(Path(name))
        manager = TaskManager(include_path=name, include_defaults=True)
        for kind, tasks in tasks_by_kind().items():
            row = compare(kind, tasks, models, manager, rounds)
            rows.append(row)
            print(
                f"{row['what']}: ours {row['ours']}, lm-eval's hf {row['peer']} {row['unit']}; ratio {row['ratio']} "
                f"{row['spread']}, goal {row['goal']}; {row['share_of_limit']} of the limit; "
                f"figures equal: {row['equal']}, largest difference {row['apart']:.1e} nats a request",
                flush=True,
            )
    return rows


def by_command() -> dict[str, Any]:
    """Both commands, their tables printed; processor seconds with their start, and whether the tables are equal."""
    commands = {"peer": ["lm_eval", "--model", "hf"], "ours": ["radpo", "lm-eval", "--model", "radpo"]}
    seconds, tables = {}, {}
    with tempfile.TemporaryDirectory() as name:
        write_tasks(Path(name))
        asked = [
            "--model_args", f"pretrained={resolve_model('smollm2-135m-instruct')},dtype=float32", "--device", "cpu",
            "--batch_size", "8", "--include_path", name, "--tasks", ",".join(COMMAND_TASKS),
            "--limit", str(COMMAND_QUESTIONS),
        ]  # fmt: skip
        for who, command in commands.items():
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            done = subprocess.run(
                [sys.executable, "-m", *command, *asked], check=True, stdout=subprocess.PIPE, text=True
            )
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            seconds[who] = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            tables[who] = "\n".join(line for line in done.stdout.splitlines() if line.startswith("|"))
            print(
                f"$ python -m {' '.join(command)} ...   ({seconds[who]:.1f} processor seconds)\n{tables[who]}",
                flush=True,
            )
    ratio = round(seconds["peer"] / seconds["ours"], 2)
    equal = tables["ours"] == tables["peer"] != ""
    print(f"ratio {ratio}; tables equal to the digit: {equal}")
    return {
        "what": f"the command on {', '.join(COMMAND_TASKS)}, {COMMAND_QUESTIONS} questions each, start included",
        "ours": round(seconds["ours"], 2),
        "peer": round(seconds["peer"], 2),
        "unit": "processor seconds",
        "ratio": ratio,
        "spread": [ratio, ratio],
        "goal": 1.5,
        "equal": equal,
    }


def compare(kind: str, tasks: list[str], models: dict[str, Any], manager: Any, rounds: int) -> dict[str, Any]:
    """Processor seconds of both classes, and whether their figures are the same."""
    from lm_eval import simple_evaluate

    from radpo.models.lm_eval import SharedPrefixHFLM

    seconds: dict[str, list[float]] = {name: [] for name in models}
    found: dict[str, Any] = {}
    asked: list[Any] = []

    def noted(self: Any, context: list[int], continuation: list[int]) -> Any:
        asked.append(item(self, context, continuation))
        return asked[-1]

    item = SharedPrefixHFLM._item
    for _ in range(rounds + 1):  # the first round warms up and is not counted
        for name, model in models.items():
            asked.clear()
            start = time.process_time()
            with patch.object(SharedPrefixHFLM, "_item", noted):
                found[name] = simple_evaluate(
                    model=model,
                    tasks=tasks,
                    task_manager=manager,
                    limit=QUESTIONS[kind],
                    bootstrap_iters=0,
                    verbosity="ERROR",
                )
            seconds[name].append(time.process_time() - start)
            if name == "ours":
                to_read = needed((one.prompt_ids, one.response_ids) for one in asked)
    least = least_seconds(models["ours"].model, to_read, "float32", 1)
    logps = {
        name: [
            float(response[0][0])
            for task in sorted(outcome["samples"])
            for sample in outcome["samples"][task]
            for response in sample["resps"]
        ]
        for name, outcome in found.items()
    }
    ratios = [theirs / ours for ours, theirs in zip(seconds["ours"][1:], seconds["peer"][1:], strict=True)]
    return {
        "what": f"{', '.join(tasks)}: {len(logps['ours'])} requests, SmolLM2-135M, float32",
        "ours": round(statistics.median(seconds["ours"][1:]), 2),
        "peer": round(statistics.median(seconds["peer"][1:]), 2),
        "unit": "processor seconds",
        "ratio": round(statistics.median(ratios), 2),
        "spread": [round(min(ratios), 2), round(max(ratios), 2)],
        "goal": GOALS[kind],
        "share_of_limit": round(statistics.median(least / taken for taken in seconds["ours"][1:]), 3),
        "equal": all(
            abs(value - found["ours"]["results"][task][metric]) < 1e-6
            for task, figures in found["peer"]["results"].items()
            for metric, value in figures.items()
            if isinstance(value, float)
        ),
        "apart": max(abs(a - b) for a, b in zip(logps["ours"], logps["peer"], strict=True)),
    }


def tasks_by_kind() -> dict[str, list[str]]:
    """The tasks' names, by the data set that they are on."""
    return {
        "arc": ["real_arc"],
        "truthfulqa": ["real_mc1", "real_mc2"],
        "bbh": [f"real_{name}" for name in BBH],
        "musr": ["real_musr"],
    }


def write_tasks(out: Path) -> None:
    """lm-eval's own task files with their data sets exchanged for files."""
    import lm_eval

    own = Path(lm_eval.__file__).parent / "tasks"
    with gzip.open(REAL / "arc" / "ARC-Challenge-Test.jsonl.gz", "rt", encoding="utf-8") as stream:
        questions = [json.loads(line) for line in stream]
    arc = [
        {
            "question": row["question"]["stem"],
            "choices": {key: [choice[key] for choice in row["question"]["choices"]] for key in ("text", "label")},
            "answerKey": row["answerKey"],
        }
        for row in questions
    ]
    files = {"train": _rows(out / "arc_train.jsonl", arc[200:]), "test": _rows(out / "arc_test.jsonl", arc[:200])}
    splits = {"training_split": "train", "validation_split": None, "test_split": "test"}
    _task(out, "real_arc", own / "arc" / "arc_challenge.yaml", files, num_fewshot=25, **splits)
    truthful = [
        {"question": row["question"]}
        | {
            key: {"choices": list(row[key]), "labels": list(row[key].values())}
            for key in ("mc1_targets", "mc2_targets")
        }
        for row in json.loads((REAL / "truthfulqa" / "mc_task.json").read_text(encoding="utf-8"))
    ]
    files = {"validation": _rows(out / "truthful.jsonl", truthful)}
    for name in ("mc1", "mc2"):
        _task(out, f"real_{name}", own / "truthfulqa" / f"truthfulqa_{name}.yaml", files)
    for name in BBH:
        rows = json.loads((REAL / "bbh" / f"{name}.json").read_text(encoding="utf-8"))["examples"]
        files = {"test": _rows(out / f"{name}.jsonl", rows)}
        _task(out, f"real_{name}", own / "leaderboard" / "bbh_mc" / f"{name}.yaml", files, num_fewshot=3)
    stories = [
        json.loads(line) for line in (REAL / "musr" / "musr_small.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    text = "{{context}}\n\n{{question}}\n\nAnswer:"
    musr = {
        "task": "real_musr", "dataset_path": "json", "output_type": "multiple_choice", "test_split": "test",
        "dataset_kwargs": {"data_files": {"test": _rows(out / "musr.jsonl", stories)}}, "doc_to_text": text,
        "doc_to_choice": "{{choices}}", "doc_to_target": "answer",
    }  # fmt: skip
    (out / "real_musr.yaml").write_text(yaml.safe_dump(musr), encoding="utf-8")


def _task(out: Path, name: str, included: Path, files: dict[str, str], **settings: Any) -> None:
    task = {
        "include": str(included), "task": name, "tag": None, "dataset_path": "json", "dataset_name": None,
        "dataset_kwargs": {"data_files": files}, **settings,
    }  # fmt: skip
    (out / f"{name}.yaml").write_text(yaml.safe_dump(task), encoding="utf-8")


def _rows(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


if __name__ == "__main__":
    main()
