"""What is in a key: every row of the table in docs/keys.md is changed and looked at."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from source_world import COMMITS, KINDS, World, change, move_branch, source_world

from radpo.benchmarks import alpaca_eval, pieces, registry
from radpo.core.optional import package_version
from radpo.engine import graph
from radpo.engine.graph import Stage, described
from radpo.judges import lookup
from radpo.models import loading

PAGE = Path(__file__).parents[1] / "docs" / "keys.md"
Change = Callable[[World, pytest.MonkeyPatch], object]
GAMED = "datasets--tatsu-lab--alpaca_eval"


def rows() -> dict[str, tuple[str, set[str]]]:
    """The table: by input, whether it is in the key and of which stages."""
    found = {}
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and cells[1] in ("yes", "no"):
            found[cells[0]] = (cells[1], set(re.findall(r"`([\w-]+)`", cells[2])) or set(cells[2].split()))
    return found


def own(stages: Mapping[str, Stage]) -> dict[str, str]:
    """What every stage's key is made of, but for its inputs'."""
    return {
        name: json.dumps({**stage.identity(), "inputs": None}, default=described, sort_keys=True)
        for name, stage in stages.items()
    }


def source(*names: str) -> Change:
    """Another content of the kinds of sources by these names."""
    return lambda world, patch: [change(world, KINDS[name]) for name in names]


def setting(name: str, key: str, value: Any) -> Change:
    return lambda world, patch: world.set(name, key, value)


def write(place: str, text: str = "new") -> Change:
    def made(world: World, patch: pytest.MonkeyPatch) -> None:
        path = world.folder.parent / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    return made


def both(*changes: Change) -> Change:
    return lambda world, patch: [one(world, patch) for one in changes]


def moved(name: str, key: str, before: str, after: str, value: str | None = None) -> Change:
    """A file or folder at another place, where the matrix then finds it."""

    def made(world: World, patch: pytest.MonkeyPatch) -> None:
        target = world.folder / after
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(world.folder / before, target)
        world.set(name, key, str(target) if value is None else value)

    return made


def versions(*packages: str) -> Change:
    """Other versions of packages."""

    def made(world: World, patch: pytest.MonkeyPatch) -> None:
        for module in (graph, lookup):
            patch.setattr(module, "package_version", lambda name: "0.1" if name in packages else package_version(name))

    return made


def gamed_in_the_cache(world: World, patch: pytest.MonkeyPatch) -> None:
    write(f"hub/{GAMED}/refs/main", COMMITS[0])(world, patch)
    write(f"hub/{GAMED}/snapshots/{COMMITS[0]}/df_gamed.csv", "1,2\n")(world, patch)


def no_reference(world: World, patch: pytest.MonkeyPatch) -> None:
    for name in ("main", "hub"):
        world.set(name, "benchmarks/alpaca-eval/reference", None)


def auto(world: World, patch: pytest.MonkeyPatch) -> None:
    world.set("main", "training/precision", "auto")
    patch.setenv("RADPO_PRECISION", "float32")


def converted(world: World, patch: pytest.MonkeyPatch) -> None:
    """A model of a GGUF file, whose conversion is not what is looked at here."""
    model = world.folder / "model"
    patch.setenv("RADPO_CACHE", str(world.folder.parent / "cache"))
    patch.setattr(loading, "need_package", lambda *what: None)
    patch.setattr(loading, "_convert_gguf", lambda gguf, out: shutil.copytree(model, out))
    write("matrices/tiny.gguf", "GGUF 1")(world, patch)
    world.set("hub", "model", str(world.folder / "tiny.gguf"))


def served(world: World, patch: pytest.MonkeyPatch, **more: Any) -> None:
    world.set("hub", "variants/asked", {"endpoint": {"serve": "sglang", "model": str(world.folder / "model"), **more}})


def endpoint(world: World, patch: pytest.MonkeyPatch, **more: Any) -> None:
    asked = {"model": "m", "base_url": "http://127.0.0.1:9/v1", "version": "1", **more}
    world.set("hub", "variants/asked", {"endpoint": asked})


def same_model_at_the_other_commit(world: World, patch: pytest.MonkeyPatch) -> None:
    snapshots = world.snapshot.parent
    shutil.rmtree(snapshots / COMMITS[1])
    shutil.copytree(world.snapshot, snapshots / COMMITS[1])
    write(f"hub/models--org--tiny/snapshots/{COMMITS[1]}/README.md")(world, patch)
    move_branch(world, COMMITS[1])


def other_function_version(world: World, patch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    functions = dict(registry.stage_functions())
    functions["generate"] = replace(functions["generate"], version=functions["generate"].version + 1)
    patch.setattr("radpo.matrix.expand.stage_functions", lambda: functions)


def unnamed_answers(world: World, patch: pytest.MonkeyPatch) -> None:
    """FastChat's answers, whose model their file is called after, in place of alpaca-eval's."""
    for name in ("one", "two"):
        lines = [json.dumps({"question_id": str(n), "turns": [f"It is {n}."]}) for n in range(2)]
        (world.folder / f"{name}.jsonl").write_text("\n".join(lines))
    world.set("hub", "benchmarks/alpaca-eval/baseline_outputs", "one.jsonl")


def nothing(world: World, patch: pytest.MonkeyPatch) -> None: ...


MODEL = "matrices/model"
CHANGES: dict[str, Change | tuple[Change, Change]] = {
    "Scored pairs": source("scored pairs (JSON Lines)"),
    "The ending of a file's name, where it decides how the file is read (`.json`, `.csv`, `.parquet`, `.gz`)": moved(
        "main", "data/train/path", "pairs.jsonl", "pairs.csv"
    ),
    "Where a file is, and the rest of its name": moved("main", "data/train/path", "pairs.jsonl", "else/where.jsonl"),
    "A folder that `datasets` saved": source("scored pairs (saved by datasets)"),
    "The caches that `datasets` leaves in it": write("matrices/saved/cache-1a2b.arrow"),
    "Training pairs": source("training pairs"),
    "How many rows are taken (`limit`)": setting("main", "data/train/limit", 2),
    "Which part of the rows is taken, by their prompts (`share`)": setting("main", "data/train/share", [0.0, 0.9]),
    "Questions": source("questions"),
    "A baseline's answers": source("a baseline's answers"),
    "The name of a file of answers, where the answers do not name their model": (
        unnamed_answers, setting("hub", "benchmarks/alpaca-eval/baseline_outputs", "two.jsonl"),
    ),
    "Answers that are scored as they are": source("a variant's answers"),
    "Reference answers": source("reference answers"),
    "The reference file of the length-controlled win rate": source("reference files of the win rate"),
    "Other files beside that one": write("matrices/reference/notes.csv"),
    "Whether the Hub's cache has that file, where none is given and the questions are AlpacaEval's": (
        both(no_reference, lambda world, patch: patch.setattr(alpaca_eval, "is_official", lambda texts: True)),
        gamed_in_the_cache,
    ),
    "Whether the Hub's cache has that file, for other questions": (no_reference, gamed_in_the_cache),
    "A model's weights, configuration, tokenizer, chat template, code": source("a model's weights"),
    "A file that is added to these": write(f"{MODEL}/modeling_own.py"),
    "A GGUF file that a model is converted from": (converted, write("matrices/tiny.gguf", "GGUF 2")),
    "`.git`, what download tools note, pages for people, what trainers leave, the weights in other formats": both(
        *(write(f"{MODEL}/{name}") for name in (
            ".git/FETCH_HEAD", ".git/hook.py", ".cache/huggingface/download/config.json.metadata", "README.md",
            "training_args.bin", "trainer_state.json", "optimizer.pt", "pytorch_model.bin", "original/params.json",
        ))
    ),
    "Where a folder is, also in one called `snapshots`": both(
        moved("main", "model", "model", "snapshots/model"),
        lambda world, patch: world.set("relabeled", "model", str(world.folder / "snapshots" / "model")),
    ),
    "A checkpoint that is scored as it is": source("a checkpoint that is scored"),
    "The Hub's branch, where the model there is another": lambda world, patch: move_branch(world, COMMITS[1]),
    "The Hub's branch, where what is read of the model is the same": same_model_at_the_other_commit,
    "An endpoint's model, address and `version`": (
        endpoint, lambda world, patch: endpoint(world, patch, version="2"),
    ),
    "The program that serves an endpoint's model, its version, its arguments, and the model's content": (
        served, lambda world, patch: served(world, patch, args=["--dtype", "float32"]),
    ),
    "How many GPUs that program has, its memory, how long it may take to start": (
        served,
        lambda world, patch: served(world, patch, args=["--mem-fraction-static", 0.5], gpus=2, start_seconds=9),
    ),
    "An endpoint's key, limits and prices": (
        endpoint,
        lambda world, patch: endpoint(world, patch, api_key_env="OTHER", max_requests=9, price_in=1.0, concurrency=2),
    ),
    "The files of the folder `include`": source("a task's functions"),
    "Rows and functions that its tasks name outside it": source("a task's rows outside its folder"),
    "A task that is named by its file, what it includes, and the modules beside it": write("matrices/single/more.py"),
    "Hidden files and compiled Python in these folders": both(
        *(write(f"matrices/{name}") for name in (
            "tasks/__pycache__/utils.cpython-311.pyc", "tasks/.ipynb_checkpoints/inner.yaml",
            "single/__pycache__/utils.cpython-311.pyc",
        ))
    ),
    "lm-eval's own tasks, by lm-eval's version": versions("lm-eval"),
    "What the Hub has under the name of a task's data set (state a `revision` in its `dataset_kwargs`)": (
        write("matrices/tasks/hub.yaml", "task: hub\ndataset_path: org/rows\n"),
        write("hub/datasets--org--rows/refs/main"),
    ),
    "Files that a task's function opens by itself outside the folder": write("matrices/rows/opened.txt"),
    "A judge's model, temperature and other settings that can change a verdict": setting(
        "main", "benchmarks/mt-bench/judge/temperature", 0.5
    ),
    "What else its requests hold: `reasoning_effort`, `chat_template_kwargs`, `extra_body`, `structured`": setting(
        "main", "benchmarks/mt-bench/judge/extra_body", {"top_k": 3}
    ),
    "Its concurrency, limits, prices and key, and whether it is asked in batches": both(
        *(setting("main", f"benchmarks/mt-bench/judge/{key}", value) for key, value in (
            ("concurrency", 2), ("max_requests", 9), ("price_in", 1.0), ("api_key_env", "OTHER"), ("batch", True),
        ))
    ),
    "The published prompts that it is asked with, in the folder given or beside it": source(
        "judge prompts beside the folder"
    ),
    "Other files of that folder": both(write("matrices/prompts/inner/x.jsonl"), write("matrices/prompts/x.jsonl")),
    "Arena-Hard's judge configuration": source("a judge's configuration"),
    "A file among the settings of a judge of a package": source("a file of a judge's settings"),
    "A reward model": source("a reward model"),
    "Its name, under which its verdicts are written down": moved(
        "main", "benchmarks/reward-kl/judge/model", "reward", "other-name"
    ),
    "A package's own plug-in: any file that its distribution installed": source("a variant's package"),
    "Its compiled Python": write("site/mine/__pycache__/helper.cpython-311.pyc"),
    "radpo's version": versions("radpo"),
    "The version of a stage's function, raised by hand where its output changes": other_function_version,
    "The versions of torch, transformers and tokenizers": versions("torch"),
    "The versions of trl, accelerate and peft": versions("peft"),
    "The versions of alpaca-eval and scikit-learn": versions("scikit-learn"),
    "vLLM's version, where it computes the answers": (
        setting("hub", "benchmarks/alpaca-eval/sampling/backend", "vllm"),
        lambda world, patch: patch.setattr(pieces, "installed_version", lambda package: "0.1"),
    ),
    "A setting of training": setting("main", "training/beta", 0.3),
    "A setting of sampling": setting("hub", "benchmarks/alpaca-eval/sampling/temperature", 0.7),
    "The seed": setting("main", "seeds", [1]),
    "What `precision: auto` is": (auto, lambda world, patch: patch.setenv("RADPO_PRECISION", "bfloat16")),
    "The date that chat templates print": both(
        *(setting(name, "date", "2026-10-02") for name in ("main", "hub", "relabeled"))
    ),
    "`chat_template_kwargs` of the matrix": both(
        *(setting(name, "chat_template_kwargs", {"enable_thinking": False}) for name in ("main", "hub", "relabeled"))
    ),
    "The matrix's name, `published`, `size_hints`": both(
        write("matrices/published.csv", "variant,benchmark,subset,metric,value,source\n"),
        setting("main", "name", "other"), setting("main", "published", "published.csv"),
        setting("main", "size_hints", {"models": {"x": {"parameters": 1.0e9, "layers": 10}}}),
    ),
    "Executor, jobs, `resources`, `save_every`, trackers": both(
        setting("main", "executor", "ray"), setting("main", "resources", {"train": {"cpus": 3, "gpus": 1}}),
        setting("main", "save_every", 7), setting("main", "report_to", ["tensorboard"]),
    ),
    "The number of threads, the machine, Python's version": lambda world, patch: patch.setenv("OMP_NUM_THREADS", "3"),
}  # fmt: skip


def test_every_input_is_in_the_keys_that_the_table_says_and_in_no_other(tmp_path: Path) -> None:
    table = rows()
    assert table.keys() == CHANGES.keys(), "a row without a test, or a test without a row"
    everything = tmp_path / "whole"
    wrong = {}
    for number, (row, (said, where)) in enumerate(table.items()):
        found = CHANGES[row]
        prepare, made = found if isinstance(found, tuple) else (nothing, found)
        with source_world(tmp_path / str(number), everything) as world, pytest.MonkeyPatch.context() as patch:
            prepare(world, patch)
            before = world.stages()
            known = own(before)
            made(world, patch)
            after = own(world.stages())
            by_name = {name: stage.function_name for name, stage in before.items()}
            renamed = {name.replace("seed-0", "seed-1"): name for name in known} if row == "The seed" else {}
            changed = {
                by_name[renamed.get(name, name)]
                for name in after
                if known.get(renamed.get(name, name)) not in (None, after[name])
            }
        expected = set(by_name.values()) if where == {"all"} else where
        if changed != expected or (said == "yes") != bool(where):
            wrong[row] = {"table": sorted(expected), "found": sorted(changed)}
    assert wrong == {}
