"""Small matrices that read every kind of source there is: files, folders, models, what the Hub has, packages' code.

tests/test_keys.py changes each and looks at the keys; tests/test_changed_sources.py and benchmarks/faults/sources.py
change each while a stage reads it.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import yaml
from factories import scored_pairs, write_model, write_plugin

from radpo.engine.graph import Stage
from radpo.matrix.expand import Plan, expand
from radpo.matrix.loading import load_matrix

COMMITS = ("a" * 40, "b" * 40)
"""Of the Hub's model, whose branch main is at the first."""

JUDGE = """
from pathlib import Path
from pydantic import BaseModel, ConfigDict
from radpo.judges.base import Grade, JudgeKind
from mine.helper import length

class Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    words: Path
    shown: int = 1

class Lengths:
    name = "lengths"

    def __init__(self, settings):
        self.settings = settings

    def grade(self, requests, progress=lambda done, total: None):
        words = self.settings.words.read_text()
        return [Grade(1 + length(request.response) % 9, words) for request in requests]

KIND = JudgeKind(Settings, Lengths, hints=frozenset({"shown"}))
"""
HELPER = "def length(text):\n    return float(len(text))\n"
VARIANT = """
from pathlib import Path
from radpo import Variant
from radpo.preferences.relabel import relabel

def pairs(scored, placement):
    gap = float(Path(__file__).with_name("gap.txt").read_text())
    return relabel(scored, "plain", placement=placement, min_gap=gap).table

WIDE = Variant(data=pairs)
"""
BENCHMARK = """
import json
from radpo import Benchmark, Metric
from radpo.benchmarks import pieces
from radpo.benchmarks.settings import DataFile, Section
from radpo.benchmarks.work import Work
from radpo.core.metrics import result
from radpo.core.results import Scores, write_scores
from radpo.engine.graph import Function

METRICS = (Metric("count", "questions", "share"),)

class Settings(Section):
    questions: DataFile

def stages(context, settings, checkpoint):
    return context.stage("counting", checkpoint.label, context.questions(settings.questions))

def score(task):
    count = len(pieces.read_questions(task))
    write_scores(Scores((result("counting", METRICS, "all", "count", float(count), None, count),), (), ()), task.out)

BENCHMARK = Benchmark(
    name="counting", title="Counting", summary="Counts.", Settings=Settings, metrics=METRICS, stages=stages,
    functions={"counting": Function(score, version=1)}, cost={"counting": lambda sizes, stage: Work()},
)
"""
TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {data}}}
test_split: train
output_type: generate_until
doc_to_text: !function utils.ask
doc_to_target: answer
generation_kwargs: {{max_gen_toks: 2, do_sample: false, until: []}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""
UTILS = "def ask(doc):\n    return doc['question']\n"
ARENA = {
    "prompt_template": ["{question_1}{answer_1}{answer_2}"], "system_prompt": "Judge.", "temperature": 0,
    "regex_pattern": r"\[\[([AB<>=]+)\]\]", "max_tokens": 10, "number_of_judgment_attempts": 1,
}  # fmt: skip


@dataclass(frozen=True)
class World:
    """Where everything is: the matrices' folder, the folder of installed packages, the Hub's cache."""

    folder: Path
    site: Path
    hub: Path

    def stages(self, *, planning: bool = False) -> dict[str, Stage]:
        """The stages of all matrices by the matrix's name and theirs."""
        return {
            f"{path.stem}: {stage.name}": stage
            for path in sorted(self.folder.glob("*.yaml"))
            for stage in self.plan(path.stem, planning=planning).stages
        }

    def plan(self, name: str, *, planning: bool = False) -> Plan:
        """One matrix, expanded."""
        return expand(load_matrix(self.folder / f"{name}.yaml", planning=planning), planning=planning)

    def set(self, name: str, key: str, value: Any) -> None:
        """Change what a matrix says, given by its keys with / between them."""
        path = self.folder / f"{name}.yaml"
        document = yaml.safe_load(path.read_text())
        *before, last = key.split("/")
        inner = document
        for part in before:
            inner = inner[part]
        inner[last] = value
        path.write_text(yaml.safe_dump(document, sort_keys=False))

    @property
    def snapshot(self) -> Path:
        """The Hub's model at its first commit."""
        return self.hub / "models--org--tiny" / "snapshots" / COMMITS[0]


@contextmanager
def source_world(folder: Path, made: Path | None = None) -> Iterator[World]:
    """Write all and have radpo find it.

    Args:
        made: where it is written once, to be copied from; in the folder itself unless given.
    """
    import huggingface_hub.constants

    from radpo.benchmarks import registry
    from radpo.matrix import settings
    from radpo.models import loading

    world = World(folder / "matrices", folder / "site", folder / "hub")
    if made is None:
        _write(world)
    else:
        if not made.exists():
            _write(World(made / "matrices", made / "site", made / "hub"))
        shutil.copytree(made, folder)
        for path in world.folder.glob("*.yaml"):
            path.write_text(path.read_text().replace(str(made), str(folder)))
    caches = (
        registry.benchmarks,
        registry.stage_functions,
        registry.stage_costs,
        settings.matrix_type,
        loading._commit_folder,
    )
    with (
        mock.patch.object(huggingface_hub.constants, "HF_HUB_CACHE", str(world.hub)),
        mock.patch.object(huggingface_hub.constants, "HF_HUB_OFFLINE", True),
        mock.patch("sys.path", [str(world.site), *sys.path]),
    ):
        for cached in caches:
            cached.cache_clear()
        try:
            yield world
        finally:
            for name in [name for name in sys.modules if name.split(".")[0] == "mine"]:
                del sys.modules[name]
    for cached in caches:
        cached.cache_clear()


def _write(world: World) -> None:
    import datasets
    from transformers import AutoConfig, AutoModelForSequenceClassification

    from radpo.preferences.relabel import relabel
    from radpo.preferences.writing import write_preferences

    folder = world.folder
    model = write_model(folder / "model")
    shutil.copytree(model, folder / "given")
    edit_json(folder / "given" / "config.json", max_position_embeddings=900)
    shutil.copytree(model, folder / "reward")
    config = AutoConfig.from_pretrained(model, num_labels=1)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder / "reward")
    for commit, length in zip(COMMITS, (1024, 800), strict=True):
        snapshot = world.hub / "models--org--tiny" / "snapshots" / commit
        shutil.copytree(model, snapshot)
        edit_json(snapshot / "config.json", max_position_embeddings=length)
    move_branch(world, COMMITS[0])

    table = scored_pairs([(9, 3), (8, 4), (7, 6), (9, 8)])
    for name in ("pairs.jsonl", "heldout.parquet"):
        write_preferences(table, folder / name)
    datasets.Dataset.from_list(table.to_pylist()).save_to_disk(folder / "saved")
    write_preferences(relabel(table, "plain", placement="system").table, folder / "training.jsonl")

    questions = [{"question_id": str(n), "category": "any", "turns": [f"What is {n}?"]} for n in range(2)]
    _lines(folder / "questions.jsonl", questions)
    answered = [{"instruction": f"What is {n}?", "output": f"It is {n}.", "generator": "other"} for n in range(2)]
    (folder / "baseline.json").write_text(json.dumps(answered))
    (folder / "told.json").write_text(json.dumps([{**row, "generator": "told"} for row in answered]))
    choices = [[{"index": 0, "turns": [str(n)]}] for n in range(2)]
    answers = [{"question_id": str(n), "model_id": "gpt-4", "choices": choices[n], "tstamp": 0} for n in range(2)]
    _lines(folder / "references" / "gpt-4.jsonl", answers)
    prompt = {"name": "single-v1", "system_prompt": "Grade.", "prompt_template": "{question}{answer}",
              "output_format": "[[rating]]"}  # fmt: skip
    _lines(folder / "prompts" / "judge_prompts.jsonl", [prompt])
    (folder / "prompts" / "inner").mkdir()
    (folder / "arena.yml").write_text(yaml.safe_dump(ARENA))
    (folder / "reference").mkdir()
    (folder / "reference" / "df_gamed.csv").write_text("a,b\n1,2\n")
    (folder / "words.txt").write_text("synergy\n")

    for name, place, data in (
        ("inner", "tasks", "inner.jsonl"), ("outside", "tasks", "../rows/outside.jsonl"),
        ("single", "single", "single.jsonl"),
    ):  # fmt: skip
        (folder / place).mkdir(exist_ok=True)
        (folder / place / f"{name}.yaml").write_text(TASK.format(name=name, data=data))
        (folder / place / "utils.py").write_text(UTILS)
        _lines(folder / place / data, [{"question": f"{name}?", "answer": "1"}])

    entries = {
        "radpo.judges": "lengths = mine.judge:KIND", "radpo.variants": "wide = mine.variant:WIDE",
        "radpo.benchmarks": "counting = mine.counting:BENCHMARK",
    }  # fmt: skip
    write_plugin(
        world.site, "mine", entries, mine____init__="", mine__judge=JUDGE, mine__helper=HELPER, mine__variant=VARIANT,
        mine__counting=BENCHMARK,
    )  # fmt: skip
    (world.site / "mine" / "gap.txt").write_text("1")
    for name, document in _matrices(folder).items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({"name": name, **document}, sort_keys=False))


def _matrices(folder: Path) -> dict[str, Any]:
    questions, sampling = {"path": "questions.jsonl"}, {"max_new_tokens": 4, "batch_size": 2, "precision": "float32"}
    lengths = {"kind": "lengths", "words": "words.txt"}
    asked = {"questions": questions, "sampling": sampling}
    training = {
        "batch_size": 2, "per_device_train_batch_size": 2, "max_length": 200, "precision": "float32",
    }  # fmt: skip
    given = {"checkpoint": str(folder / "given")}
    reward = {"kind": "reward-model", "model": str(folder / "reward"), "raw_range": [-1, 1], "precision": "float32"}
    openai = {"kind": "openai", "model": "m", "base_url": "http://127.0.0.1:9/v1"}
    return {
        "main": {
            "model": str(folder / "model"),
            "variants": {"base": None, "dpo": None, "wide": {"method": "wide"}, "given": given},
            "data": {"train": {"path": "pairs.jsonl"}, "heldout": {"path": "heldout.parquet"}},
            "training": training,
            "benchmarks": {
                "unlearning": {},
                "alpaca-eval": {
                    **asked, "baseline_outputs": "baseline.json", "reference": "reference", "judge": lengths,
                },
                "mt-bench": {
                    **asked, "references": "references", "judge": {**openai, "prompts": "prompts/inner"},
                },
                "arena-hard": {
                    **asked, "baseline_outputs": "baseline.json", "judge": {**openai, "arena_config": "arena.yml"},
                },
                "reward-kl": {
                    "questions": questions, "max_new_tokens": 4, "batch_size": 2,
                    "judge": reward,
                },
                "academic": {
                    "tasks": ["inner", "outside:0", str(folder / "single" / "single.yaml")], "include": "tasks",
                },
                "counting": {"questions": questions},
            },
        },
        "hub": {
            "model": "org/tiny",
            "variants": {"base": None, "told": {"answers": "told.json"}},
            "benchmarks": {"alpaca-eval": {**asked, "judge": lengths, "baseline_outputs": "baseline.json"}},
        },
        "relabeled": {
            "model": str(folder / "model"),
            "variants": {"base": None, "dpo": None},
            "data": {"train": {"path": "training.jsonl"}, "heldout": {"path": "saved"}},
            "training": training,
            "benchmarks": {"counting": {"questions": questions}},
        },
    }  # fmt: skip


def move_branch(world: World, commit: str) -> None:
    """Have the Hub's branch main be at a commit."""
    path = world.hub / "models--org--tiny" / "refs" / "main"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(commit)


def edit_json(path: Path, **changes: Any) -> None:
    """Change keys of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@dataclass(frozen=True)
class Kind:
    """A kind of source: which stage reads it, and how its content becomes another that reads as well."""

    stage: str
    """The beginning of the stage's name, after its matrix's."""
    file: str
    """Below the world's folder."""
    before: str = ""
    after: str = ""
    """What is replaced in the file; a file that is not there yet, where `before` is empty."""


ALPACA, MT_BENCH = "main: alpaca-eval/base", "main: mt-bench/base"
INNER, OUTSIDE, SINGLE = (f"main: academic/base/seed-0/{task}" for task in ("inner", "outside", "single"))
SNAPSHOT = f"hub/models--org--tiny/snapshots/{COMMITS[0]}"
CODE = ("doc['question']", "doc['answer']")
KINDS: dict[str, Kind] = {
    "scored pairs (JSON Lines)": Kind("main: pairs/train", "matrices/pairs.jsonl", "Here is 0", "Here is 9"),
    "scored pairs (Parquet)": Kind("main: pairs/heldout", "matrices/heldout.parquet"),
    "scored pairs (saved by datasets)": Kind("relabeled: pairs/heldout", "matrices/saved/state.json", "{", "{ "),
    "training pairs": Kind("relabeled: training-pairs", "matrices/training.jsonl", "Here is 0", "Here is 9"),
    "questions": Kind("main: generate/base", "matrices/questions.jsonl", "What is 1", "Who is 1"),
    "a baseline's answers": Kind(ALPACA, "matrices/baseline.json", "It is 1", "It was 1"),
    "a variant's answers": Kind("hub: given-answers/told", "matrices/told.json", "It is 1", "It was 1"),
    "reference answers": Kind(MT_BENCH, "matrices/references/gpt-4.jsonl", '"1"]', '"2"]'),
    "reference files of the win rate": Kind(ALPACA, "matrices/reference/df_gamed.csv", "1,2", "2,1"),
    "judge prompts beside the folder": Kind(MT_BENCH, "matrices/prompts/judge_prompts.jsonl", "Grade.", "Judge."),
    "a judge's configuration": Kind("main: arena-hard/base", "matrices/arena.yml", "Judge.", "Grade."),
    "a file of a judge's settings": Kind(ALPACA, "matrices/words.txt", "synergy", "leverage"),
    "a task's file": Kind(INNER, "matrices/tasks/inner.yaml", "toks: 2", "toks: 3"),
    "a task's rows": Kind(INNER, "matrices/tasks/inner.jsonl", "inner?", "outer?"),
    "a task's rows outside its folder": Kind(OUTSIDE, "matrices/rows/outside.jsonl", "outside?", "inside?"),
    "a task's functions": Kind(INNER, "matrices/tasks/utils.py", *CODE),
    "a task named by its file": Kind(SINGLE, "matrices/single/single.yaml", "toks: 2", "toks: 3"),
    "the functions of such a task": Kind(SINGLE, "matrices/single/utils.py", *CODE),
    "the rows of such a task": Kind(SINGLE, "matrices/single/single.jsonl", "single?", "double?"),
    "a model's weights": Kind("main: reference/plain", "matrices/model/model.safetensors"),
    "a model's configuration": Kind("main: likelihood/model", "matrices/model/config.json", "1024", "1023"),
    "a model's tokenizer": Kind("main: train/dpo", "matrices/model/tokenizer.json", '"<pad>"', '"<pat>"'),
    "a chat template that is added": Kind("main: relabel/train/plain", "matrices/model/chat_template.json", "", "{}"),
    "a checkpoint that is scored": Kind("main: generate/given", "matrices/given/config.json", "900", "901"),
    "a reward model": Kind("main: reward-kl/base", "matrices/reward/config.json", "1024", "1023"),
    "a model of the Hub": Kind("hub: generate/base", f"{SNAPSHOT}/config.json", "1024", "1023"),
    "a judge's package": Kind(ALPACA, "site/mine/helper.py", "len(text)", "2 * len(text)"),
    "a variant's package": Kind("main: relabel/train/wide", "site/mine/gap.txt", "1", "3"),
    "a benchmark's package": Kind("main: counting/base", "site/mine/counting.py", "float(count)", "float(count + 1)"),
}  # fmt: skip


def change(world: World, kind: Kind) -> None:
    """Give a source another content."""
    path = world.folder.parent / kind.file
    if path.suffix in (".parquet", ".safetensors"):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif kind.before:
        text = path.read_text()
        assert kind.before in text, kind
        path.write_text(text.replace(kind.before, kind.after))
    else:
        path.write_text(kind.after)


@contextmanager
def changed(world: World, kind: Kind) -> Iterator[None]:
    """A source with another content, and then as it was, with the times that it had."""
    path = world.folder.parent / kind.file
    kept = path.with_name(f".{path.name}.kept")
    if path.exists():
        shutil.copy2(path, kept)
    change(world, kind)
    try:
        yield
    finally:
        if kept.exists():
            shutil.copyfile(kept, path)
            shutil.copystat(kept, path)
            kept.unlink()
        else:
            path.unlink()


def stage_of(stages: Mapping[str, Stage], kind: Kind) -> Stage:
    """The first stage that reads a source of the kind."""
    return next(stage for name, stage in stages.items() if name.startswith(kind.stage))
