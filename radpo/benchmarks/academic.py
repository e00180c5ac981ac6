"""Academic tasks: lm-eval's own figures and samples of a model folder.

A checkpoint that carries its goal in its chat template is conditioned by that template; another goal is set in it.
"""

from __future__ import annotations

import difflib
import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from numbers import Real
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from radpo.benchmarks import pieces
from radpo.benchmarks.protocol import Benchmark, Checkpoint, Context, Whose
from radpo.benchmarks.settings import MatrixPath, Option, Section
from radpo.benchmarks.sizes import Sizes
from radpo.benchmarks.task_files import YAML, files_outside, local_dataset, read_task, split_shots
from radpo.benchmarks.work import Work, of_model
from radpo.core.errors import ConfigError, DataError, ModelError
from radpo.core.files import can_be_there, is_file, write_json
from radpo.core.json_rows import first_row, read_rows
from radpo.core.machine import gpus
from radpo.core.metrics import Metric
from radpo.core.optional import installed_version, need_package
from radpo.core.progress import Progress, no_progress
from radpo.core.results import Example, Result, Scores, write_scores
from radpo.core.run import Run
from radpo.engine.graph import Function, Stage, Task
from radpo.engine.sources import Source
from radpo.figures.charts import by_group
from radpo.figures.sections import ReportSection, panel, points, seeds_note, shown_in, sizes, table_rows
from radpo.figures.styles import Styles
from radpo.models.chat_template import date_notes, template_of
from radpo.models.context import saved_context
from radpo.models.decoding import saved_generation_config, turn_end_notes
from radpo.models.generation import Goal
from radpo.models.loading import load_tokenizer, torch_dtype
from radpo.models.precision import Precision, Settled
from radpo.models.prompt_cuts import Asked, Cut, cut_note, cut_of
from radpo.preferences.goals import is_goal_aware
from radpo.stats.comparison import compared
from radpo.stats.quantities import Name, label_of, primary_names, unit_of

if TYPE_CHECKING:
    import pandas as pd
    from lm_eval.tasks import TaskManager

    from radpo.models.lm_eval import Noting

NAME = "academic"
TOGETHER = "academic-scores"
"""The function of the stage that puts several tasks' results together."""
SHOTS = "academic: few-shot examples:"
METRICS = (
    Metric("acc", "accuracy", "share", margin=0.05, overview=True),
    Metric("acc_norm", "accuracy, normalised", "share", margin=0.05, overview=True),
    Metric("exact_match", "exact match", "share", margin=0.05, overview=True),
    Metric("*", "", margin=0.05, overview=True),
)
"""lm-eval says of each task which way is better and which of its metrics comes first, which is primary."""

PAPER = (
    "gsm8k:5", "leaderboard_gpqa:0", "leaderboard_musr:0", "truthfulqa_mc2:0", "leaderboard_bbh:3", "arc_challenge:25",
)  # fmt: skip
"""The six of arXiv 2410.08067, which names no few-shot counts; these are the Open LLM Leaderboards'."""
CHOICE_TOKENS = 8
"""Tokens of an answer to choose from, for `radpo plan`."""
NAMED = {"paper": PAPER}
"""Names for several tasks at once."""


class Settings(Section):
    """lm-eval tasks by name, the folder `include` searched first."""

    tasks: Annotated[tuple[str, ...], Option("task")] = Field(
        min_length=1,
        description="An lm-eval task, group or tag; NAME:N with N few-shot examples; or `paper`: the paper's six ("
        "GSM8K 5-shot, GPQA 0, MuSR 0, TruthfulQA 0, BBH 3, ARC-Challenge 25).",
    )
    include: MatrixPath | None = Field(None, description="A folder of task YAML files, searched first.")
    limit: Annotated[int, Field(ge=1)] | None = Field(None, description="Documents per task. Default: all.")
    batch_size: int = Field(16, ge=1, description="Prompts at once.")
    precision: Precision | None = Field(
        None,
        description="Precision of the model, as lm-eval's dtype. Default: float32 on a CPU, auto on a GPU, which is "
        "bfloat16 where it has it. In bfloat16 log-likelihoods are coarse: those of short choices may tie.",
    )
    backend: Literal["transformers", "vllm"] = Field(
        "transformers", description="What computes: transformers in this process, or lm-eval's own vLLM model."
    )


@dataclass(frozen=True)
class AcademicRun:
    """What lm-eval returned: its results document (JSON-serialisable), samples by task, what it cut off, and notes."""

    lm_eval_results: Mapping[str, Any]
    samples: Mapping[str, Sequence[Mapping[str, Any]]]
    cuts: Mapping[Asked, Cut] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def run(
    model_folder: Path,
    tasks: Sequence[str],
    include_path: Path | None = None,
    *,
    goal: Goal = "default",
    limit: int | None = None,
    batch_size: int = 16,
    precision: Settled = "float32",
    backend: str = "transformers",
    progress: Progress = no_progress,
) -> AcademicRun:
    """Run lm-eval tasks with the checkpoint's chat template, lm-eval's own fixed seeds, no code from the Hub trusted.

    Args:
        model_folder: a Hugging Face folder.
        tasks: names of tasks, groups or tags, each with `:N` for N few-shot examples in place of its own number, a YAML
            file of a task, or `paper` for the paper's six; names in `include_path` go before lm-eval's own, which are
            indexed only when one is needed.
        include_path: a folder of task YAML files; their `data_files` are relative to the YAML's own folder.
        goal: the score to ask for; by default the checkpoint's own template decides.
        limit: how many documents of each task to take; all unless given.
        precision: of the model's weights and arithmetic.
        backend: `transformers` or `vllm`.
        progress: called before and after the run, in tasks: lm-eval runs them in one go.

    Raises:
        ConfigError: there is no such task.
        DataError: a task's data set cannot be loaded.
        ModelError: the checkpoint has no chat template, or a goal is asked of one that takes none; or a task generates
            more than the checkpoint's context holds.
    """
    with _own_caches() as cache:
        return _run(model_folder, tasks, include_path, goal, limit, batch_size, precision, backend, progress, cache)


@contextmanager
def _own_caches() -> Iterator[Path]:
    """A folder for what libraries keep of local data and code by the time of its change, which may be restored.

    `datasets` would serve the rows, and Python the functions, of what a task's files were before.
    """
    import datasets

    kept, cached = sys.pycache_prefix, datasets.is_caching_enabled()
    with TemporaryDirectory(prefix="radpo-") as folder:
        sys.pycache_prefix = folder
        datasets.disable_caching()
        try:
            yield Path(folder)
        finally:
            sys.pycache_prefix = kept
            if cached:
                datasets.enable_caching()


def _run(
    model_folder: Path,
    tasks: Sequence[str],
    include_path: Path | None,
    goal: Goal,
    limit: int | None,
    batch_size: int,
    precision: Settled,
    backend: str,
    progress: Progress,
    cache: Path,
) -> AcademicRun:
    import datasets
    from lm_eval import simple_evaluate
    from lm_eval.utils import handle_non_serializable

    from radpo.models.lm_eval import ask_environment_once, ask_git_quietly, check_generation_room

    wanted, folders = _wanted(tasks, include_path)
    tasks = list(wanted)
    manager = _task_manager(tasks, folders, cache)
    progress(0, len(tasks))
    try:
        # The tasks are loaded before the model, so that a task that cannot run is known at once.
        loaded = manager.load(tasks)
    except (datasets.exceptions.DatasetsError, OSError) as error:
        cause = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"tasks {', '.join(tasks)}: a data set cannot be loaded ({cause}); where the Hub is out of reach, "
            "give a folder of tasks with local data_files"
        ) from error
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"tasks {', '.join(tasks)}: lm-eval cannot build them: {error}") from error
    _set_shots(loaded, wanted)
    tokenizer = load_tokenizer(model_folder)
    tokenizer.chat_template = _asking_for(goal, template_of(tokenizer))
    children = {child for names in loaded["group_map"].values() for child in names}
    specs = [item for name, item in {**loaded["groups"], **loaded["tasks"]}.items() if name not in children]
    context = saved_context(model_folder, tokenizer).tokens
    check_generation_room(loaded["tasks"], context)
    model = _model(backend, model_folder, tokenizer, precision, batch_size, context)
    ask_git_quietly()
    ask_environment_once()
    document = simple_evaluate(
        model=model,
        tasks=specs,
        task_manager=manager,
        limit=limit,
        apply_chat_template=True,
        log_samples=True,
    )
    samples = document.pop("samples")
    for config in document["configs"].values():
        (config.get("dataset_kwargs") or {}).pop("cache_dir", None)
    progress(len(tasks), len(tasks))
    notes = [
        *date_notes(model_folder),
        *turn_end_notes(saved_generation_config(model_folder), tokenizer),
        *model.template_notes(),
        *([] if precision == "float32" else [f"the model computes in {precision}."]),
        *([] if backend == "transformers" else [f"the model is run by {backend} {installed_version(backend)}."]),
    ]
    results = json.loads(json.dumps(document, default=handle_non_serializable))
    return AcademicRun(results, samples, model.cuts, tuple(f"academic: {note}" for note in notes))


def _model(
    backend: str, folder: Path, tokenizer: Any, precision: Settled, batch_size: int, context: int | None
) -> Noting:
    """The checkpoint as one of lm-eval's models."""
    if backend == "vllm":
        from radpo.models.lm_eval_vllm import vllm_model

        return vllm_model(folder, tokenizer, precision=precision, context=context)
    import torch

    from radpo.models.lm_eval import CountingHFLM

    return CountingHFLM(
        pretrained=str(folder),
        tokenizer=tokenizer,
        device="cuda" if torch.cuda.is_available() else "cpu",
        dtype=torch_dtype(precision),
        batch_size=batch_size,
        max_length=context,
        trust_remote_code=False,
    )


def scores(run: AcademicRun) -> Scores:
    """lm-eval's own values and standard errors as results, and a row a document.

    Each task's primary metric is the first of its `metric_list`, under its first filter; a group with a figure of its
    own is primary in place of its tasks. Per-document rows hold the primary metric, and the prompt as it was read.
    """
    document = run.lm_eval_results
    groups = document.get("groups", {})
    inside = {child for group in groups for child in _leaves(group, document["group_subtasks"])}
    results: list[Result] = []
    examples: list[Example] = []
    notes = list(run.notes)
    for name, figures in document["results"].items():
        keys = [key for key in figures if "," in key and "_stderr," not in key]
        if not keys:
            continue  # a group that only gathers tasks
        primary = _primary(keys, document["configs"].get(name, {}))
        for key in keys:
            if not isinstance(figures[key], int | float):
                notes.append(f"academic, {name}: {key} is left out, because lm-eval gives it no number.")
                continue
            results.append(_result(name, key, document, primary=key == primary and name not in inside))
        if name in run.samples:
            notes += cut_note(name, run.cuts, run.samples[name])
            rows = list(_examples(name, primary, run.samples[name], run.cuts))
            examples += rows
            if not rows:
                notes.append(f"academic, {name}: {primary} is no figure of single documents, so there are no examples.")
    notes.append(_shots_note(document))
    return Scores(tuple(results), tuple(examples), tuple(notes))


def imports(path: Path, whose: Whose) -> Scores | None:
    """The scores of lm-eval's results document, with the examples of the samples beside it.

    Raises:
        DataError: the document is malformed.
    """
    document = first_row(path)
    if not isinstance(document.get("results"), dict):
        return None
    sizes = document.get("n-samples", {})
    stamp = path.name.removeprefix("results_").removesuffix(".json")
    try:
        for name, figures in document["results"].items():
            figures.setdefault("sample_len", sizes.get(name, {}).get("effective", 0))
        files = {task: path.with_name(f"samples_{task}_{stamp}.jsonl") for task in document["results"]}
        samples = {task: list(map(_as_logged, _rows(file))) for task, file in files.items() if file.is_file()}
        return scores(AcademicRun({"configs": {}, "higher_is_better": {}, **document}, samples))
    except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
        raise DataError(f"{path}: no results of lm-eval as it writes them ({type(error).__name__}: {error})") from error


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    return (row for _, row in read_rows(path))


def _as_logged(sample: dict[str, Any]) -> dict[str, Any]:
    """A sample as lm-eval gives it; in files its requests' arguments have names."""
    asked = sample["arguments"]
    return (
        {**sample, "arguments": [list(one.values()) for one in asked.values()]} if isinstance(asked, dict) else sample
    )


def write_run(run: AcademicRun, out: Path) -> None:
    """Write lm-eval's own document (`lm_eval.json`), our results and a row a document into a folder."""
    out.mkdir(parents=True, exist_ok=True)
    document = json.dumps(run.lm_eval_results, indent=1, ensure_ascii=False, default=str)
    (out / "lm_eval.json").write_text(document, encoding="utf-8")
    write_scores(scores(run), out)


def _wanted(tasks: Sequence[str], include_path: Path | None) -> tuple[dict[str, int | None], list[Path]]:
    """The tasks' names with the few-shot counts asked for, None for a task's own, and the folders to look in first."""
    folders = [] if include_path is None else [include_path]
    wanted: dict[str, int | None] = {}
    for entry in (member for given in tasks for member in NAMED.get(given, (given,))):
        name, shots = split_shots(entry)
        if name.endswith(YAML):
            name = _task_of(Path(name), folders)
        wanted[name] = int(shots[1:]) if shots else None
    return wanted, folders


def _task_of(path: Path, folders: list[Path]) -> str:
    """The name of the task or group in a YAML file, whose folder is added to those to look in."""
    from lm_eval.tasks._yaml_loader import load_yaml

    if not path.is_file():
        raise ConfigError(f"task {path}: no such file")
    config = load_yaml(path, resolve_func=False)
    name = config.get("task") if isinstance(config.get("task"), str) else config.get("group")
    if not isinstance(name, str):
        raise ConfigError(f"task {path}: it names neither a task nor a group")
    if path.parent not in folders:
        folders.append(path.parent)
    return name


def _set_shots(loaded: Mapping[str, Any], wanted: Mapping[str, int | None]) -> None:
    """Give the tasks, and those of groups, the few-shot counts asked for, in place of any of their own."""
    for name, shots in wanted.items():
        if shots is None:
            continue
        names = [found for found in (name, *_leaves(name, loaded["group_map"])) if found in loaded["tasks"]]
        if not names:
            raise ConfigError(f"task {name}:{shots}: few-shot counts are for tasks and groups, and this is a tag")
        for found in names:
            loaded["tasks"][found].set_config(key="num_fewshot", value=shots)


def _asking_for(goal: Goal, template: str) -> str:
    """The chat template with the goal set, whoever renders it."""
    if goal == "default":
        return template
    if goal is not None and not is_goal_aware(template):
        raise ModelError(f"goal {goal} is asked of a checkpoint whose chat template takes no goal; ask for none")
    return "{%- set goal = " + ("none" if goal is None else repr(float(goal))) + " -%}" + template


def _shots_note(document: Mapping[str, Any]) -> str:
    """The few-shot counts that lm-eval notes, tasks of one group as one."""
    counts: dict[int, list[str]] = {}
    groups = document.get("group_subtasks", {})
    shots = document.get("n-shot", {})
    hidden: set[str] = set()
    for group in groups:
        of = {shots[leaf] for leaf in _leaves(group, groups) if leaf in shots}
        if len(of) == 1 and group in document["results"]:
            counts.setdefault(of.pop(), []).append(group)
            hidden |= set(_leaves(group, groups))
    for name, count in shots.items():
        if name not in hidden and name not in groups:
            counts.setdefault(count, []).append(name)
    said = "; ".join(f"{count} for {', '.join(sorted(set(names)))}" for count, names in sorted(counts.items()))
    return f"{SHOTS} {said}."


def _task_manager(tasks: Sequence[str], folders: Sequence[Path], cache: Path) -> TaskManager:
    """lm-eval's index of the tasks: the local ones alone where they suffice, since its own are thousands of files."""
    from lm_eval.tasks import TaskManager

    for folder in folders:
        if not folder.is_dir():
            raise ConfigError(f"{folder}: no such folder of tasks")
    include_path = list(folders) or None
    manager = TaskManager(include_path=include_path, include_defaults=False)
    if any(name not in manager.task_index for name in _named(tasks, manager)):
        manager = TaskManager(include_path=include_path, include_defaults=True)
        for name in tasks:
            if name not in manager.task_index:
                near = difflib.get_close_matches(name, manager.all_tasks, n=3)
                hint = f"; did you mean {' or '.join(near)}?" if near else ""
                where = "".join(f"in {folder} or " for folder in folders) + "among lm-eval's own"
                raise ConfigError(f"task {name!r}: there is none {where}{hint}")
    for folder in folders:
        _anchor_data(manager, folder, cache)
    return manager


def _named(tasks: Sequence[str], manager: TaskManager) -> Iterator[str]:
    """The tasks, and what local groups among them gather."""
    for name in tasks:
        yield name
        entry = manager.task_index.get(name)
        members = (entry.cfg or {}).get("task") if entry is not None else None
        if isinstance(members, list):
            yield from _named([member for member in members if isinstance(member, str)], manager)


def _anchor_data(manager: TaskManager, include_path: Path, cache: Path) -> None:
    """Make the local tasks' data files relative to their YAML's folder, not to wherever the process runs.

    Args:
        cache: where `datasets` is to keep them.
    """
    from lm_eval.tasks._yaml_loader import load_yaml

    root = include_path.resolve()
    for entry in manager.task_index.values():
        if entry.yaml_path is None or root not in entry.yaml_path.resolve().parents:
            continue
        kwargs = (entry.cfg or {}).get("dataset_kwargs") or {}
        local = local_dataset((entry.cfg or {}).get("dataset_path"), entry.yaml_path.parent)
        if not isinstance(kwargs, dict) or ("data_files" not in kwargs and local is None):
            continue
        config = load_yaml(entry.yaml_path, resolve_func=True)
        config["dataset_kwargs"] = {**kwargs, "cache_dir": str(cache)}
        if "data_files" in kwargs:
            config["dataset_kwargs"]["data_files"] = _anchored(kwargs["data_files"], entry.yaml_path)
        if local is not None:
            config["dataset_path"] = str(local)
        # Without a path lm-eval takes the configuration from the entry instead of reading the file again.
        entry.cfg, entry.yaml_path = config, None


def _anchored(files: Any, yaml_path: Path) -> Any:
    if isinstance(files, dict):
        return {split: _anchored(part, yaml_path) for split, part in files.items()}
    if isinstance(files, list):
        return [_anchored(part, yaml_path) for part in files]
    if "://" in str(files):
        return files
    path = yaml_path.resolve().parent / str(files)
    if not any(sign in str(files) for sign in "*?[") and not path.is_file():
        raise DataError(
            f"{yaml_path}: data_files names {files}, and there is no {path}; it is relative to the YAML file"
        )
    return str(path)


def _leaves(group: str, members: Mapping[str, Sequence[str]]) -> Iterator[str]:
    for child in members.get(group, ()):
        yield child
        yield from _leaves(child, members)


def _primary(keys: Sequence[str], config: Mapping[str, Any]) -> str:
    """The key of the first listed metric under its first filter; of a group, its first key."""
    for listed in config.get("metric_list") or ():
        for key in keys:
            if key.split(",")[0] == listed["metric"]:
                return key
    return keys[0]


def _result(name: str, key: str, document: Mapping[str, Any], *, primary: bool) -> Result:
    figures = document["results"][name]
    metric, filter_name = key.split(",", 1)
    stderr = figures.get(f"{metric}_stderr,{filter_name}")
    return Result(
        benchmark=NAME,
        subset=name,
        metric=_metric_name(key),
        value=float(figures[key]),
        stderr=float(stderr) if isinstance(stderr, int | float) else None,
        n=int(figures["sample_len"]),
        higher_is_better=document["higher_is_better"].get(name, {}).get(metric),
        primary=primary,
    )


def _metric_name(key: str) -> str:
    """lm-eval's `acc,none` is called acc; other filters stay in the name."""
    return key.removesuffix(",none")


def _examples(
    task: str, key: str, samples: Sequence[Mapping[str, Any]], cuts: Mapping[Asked, Cut]
) -> Iterator[Example]:
    import numpy as np

    metric, filter_name = key.split(",", 1)
    for sample in samples:
        value = sample.get(metric)
        if sample["filter"] != filter_name or not isinstance(value, Real | np.bool_):
            continue
        output, detail = _output(sample)
        cut = cut_of(cuts, sample)
        if cut is not None:
            detail |= {"prompt_tokens": cut.of, "prompt_tokens_cut": cut.tokens}
        yield Example(
            benchmark=NAME,
            subset=task,
            example_id=str(sample["doc_id"]),
            prompt=str(sample["arguments"][0][0]) if cut is None else cut.read,
            output=output,
            baseline_output=None,
            metric=_metric_name(key),
            value=float(value),
            detail=json.dumps({"target": sample["target"], **detail}, ensure_ascii=False, default=str),
        )


def _output(sample: Mapping[str, Any]) -> tuple[str | None, dict[str, Any]]:
    """The generated text; or the likeliest choice, with every choice's log-likelihood in nats."""
    first = [responses[0] for responses in sample["resps"]]
    if isinstance(first[0], str):
        return first[0], {"filtered": sample["filtered_resps"]}
    if len(first) > 1:
        choices = [str(arguments[1]).strip() for arguments in sample["arguments"]]
        logps = [float(response[0]) for response in first]
        return choices[logps.index(max(logps))], {"choices": choices, "logps": logps}
    return None, {}


def stages(context: Context, settings: Settings, checkpoint: Checkpoint) -> Stage:
    """A stage for each task, group or tag: lm-eval with the checkpoint; of several, one that puts them together."""
    entries = list(dict.fromkeys(member for given in settings.tasks for member in NAMED.get(given, (given,))))
    if len(entries) == 1:
        return _task_stage(context, settings, checkpoint, entries[0], checkpoint.label)
    tasks = {
        f"task-{number:03}": _task_stage(context, settings, checkpoint, entry, f"{checkpoint.label}/{_short(entry)}")
        for number, entry in enumerate(entries)
    }
    return context.stage(TOGETHER, checkpoint.label, {}, tasks)


def _task_stage(context: Context, settings: Settings, checkpoint: Checkpoint, entry: str, label: str) -> Stage:
    outside = files_outside([split_shots(entry)[0]], settings.include)
    asked: dict[str, Any] = {
        "tasks": [_counted(context, entry)],
        "include": None if settings.include is None else context.file(settings.include),
        **({"files": [context.file(path) for path in outside]} if outside else {}),
        "limit": settings.limit,
        "batch_size": settings.batch_size,
    }
    if checkpoint.asked != "default":
        asked["goal"] = checkpoint.asked
    if (precision := _precision(context, settings.precision)) != "float32":
        asked["precision"] = precision
    if settings.backend != "transformers":
        asked |= {"backend": settings.backend, "backend_version": installed_version(settings.backend)}
    return context.about(checkpoint, NAME, label, asked)


def _short(entry: str) -> str:
    """A task as stages are called: a file by its own name alone."""
    name, shots = split_shots(entry)
    return f"{Path(name).stem if name.endswith(YAML) else name}{shots}"


def _precision(context: Context, asked: Precision | None) -> Settled:
    """Unless the matrix says so a CPU computes in float32, and a GPU, here or planned for, in what `auto` is there."""
    if asked is None:
        asked = "float32" if context.precision is None and not gpus() else "auto"
    return context.auto_precision if asked == "auto" else asked


def _ready(stage: Stage) -> None:
    if stage.settings.get("backend") == "vllm":
        need_package("vllm", "benchmarks.academic.backend vllm", "radpo[vllm]")


def _counted(context: Context, entry: str) -> str | dict[str, Any]:
    """A task as it counts in a key: by its name, or by its file's content."""
    name, shots = split_shots(entry)
    if not name.endswith(YAML):
        return entry
    if not is_file(Path(name)) and not (context.planning and can_be_there(Path(name))):
        raise ConfigError(f"task {name}: no such file")
    return {"file": context.file(Path(name)), "shots": shots}


def _asked(stage: Stage) -> list[str]:
    """The tasks as they were asked for."""
    return [
        entry if isinstance(entry, str) else f"{entry['file'].read_from}{entry['shots']}"
        for entry in stage.settings["tasks"]
    ]


def _score(task: Task) -> None:
    """A checkpoint -> lm-eval's results (`lm_eval.json`), and ours from them."""
    settings = task.stage.settings
    include: Source | None = settings["include"]
    outcome = run(
        pieces.policy_folder(task),
        _asked(task.stage),
        None if include is None else pieces.path_of(include),
        goal=settings.get("goal", "default"),
        limit=settings["limit"],
        batch_size=settings["batch_size"],
        precision=settings.get("precision", "float32"),
        backend=settings.get("backend", "transformers"),
        progress=task.progress,
    )
    write_run(outcome, task.out)


def _together(task: Task) -> None:
    """Several tasks' results -> one document (`lm_eval.json`) and one set of tables, as lm-eval gives them at once.

    What a group among them has is left out of the others.
    """
    import pandas as pd

    folders = [task.inputs[name] for name in sorted(task.inputs)]
    documents = [json.loads((folder / "lm_eval.json").read_text(encoding="utf-8")) for folder in folders]
    taken = [
        {name for other in documents if other is not one for group in other.get("groups", {})
         for name in _leaves(group, other["group_subtasks"])}
        for one in documents
    ]  # fmt: skip
    names = {name for document in documents for name in document["results"]}
    merged: dict[str, Any] = {}
    for key in dict.fromkeys(key for document in documents for key in document):
        values = [document.get(key) for document in documents]
        if any(isinstance(value, dict) and not names.isdisjoint(value) for value in values):
            by_task = [(value or {}, elsewhere) for value, elsewhere in zip(values, taken, strict=True)]
            merged[key] = {
                name: found for of, elsewhere in by_task for name, found in of.items() if name not in elsewhere
            }
        else:
            merged[key] = next(document[key] for document in documents if key in document)
    (task.out / "lm_eval.json").write_text(json.dumps(merged, indent=1, ensure_ascii=False), encoding="utf-8")
    for table in ("results.parquet", "examples.parquet"):
        frames = [pd.read_parquet(folder / table) for folder in folders]
        kept = [frame[~frame["subset"].isin(elsewhere)] for frame, elsewhere in zip(frames, taken, strict=True)]
        pd.concat(kept, ignore_index=True).to_parquet(task.out / table, index=False)
    notes = [
        note
        for folder, elsewhere in zip(folders, taken, strict=True)
        for note in json.loads((folder / "notes.json").read_text(encoding="utf-8"))
        if not note.startswith((SHOTS, *(f"academic, {name}:" for name in elsewhere)))
    ]
    write_json(task.out / "notes.json", [*dict.fromkeys(notes), _shots_note(merged)])


def _together_cost(sizes: Sizes, stage: Stage) -> Work:
    return Work(disk_bytes=2e5 * len(stage.inputs))


def _cost(sizes: Sizes, stage: Stage) -> Work | None:
    """Of tasks in the folder `include` the documents are there to count; of lm-eval's own what is hinted."""
    settings = stage.settings
    if settings["include"] is None:
        return _hinted_cost(sizes, stage)
    tasks = _local_tasks(Path(settings["include"].location))
    if not set(_asked(stage)) <= tasks.keys():
        return None
    model, prefill, generated, steps = sizes.model(stage), 0.0, 0.0, 0.0
    for name in _asked(stage):
        task, documents = tasks[name]
        documents = documents[: settings["limit"]]
        tokens = model.count([" ".join(_texts(document)) for document in documents])
        if task.get("output_type") == "multiple_choice":
            choices = [document.get(task.get("doc_to_choice", "choices")) for document in documents]
            number = [len(choice) if isinstance(choice, list) else 4 for choice in choices]
            # a question is read once, and each of its choices, of which little is known, takes some tokens
            prefill += sum(t + model.overhead + CHOICE_TOKENS * n for n, t in zip(number, tokens, strict=True))
        else:
            longest = task.get("generation_kwargs", {}).get("max_gen_toks", 256)
            prefill += sum(tokens) + len(documents) * model.overhead
            generated += len(documents) * longest
            steps += math.ceil(len(documents) / settings["batch_size"]) * longest
    return _tasks_work(sizes, stage, prefill, generated, steps)


def _hinted_cost(sizes: Sizes, stage: Stage) -> Work | None:
    """What the matrix's size hints say of lm-eval's own tasks; None unless they do of all."""
    settings, hints = stage.settings, sizes.hints.tasks
    names = [member for name in _asked(stage) for member in NAMED.get(name, (name,))]
    if not set(names) <= hints.keys():
        return None
    prefill = generated = steps = 0.0
    for name in names:
        task = hints[name]
        documents = min(task.rows, settings["limit"] or task.rows)
        prefill += documents * task.read
        generated += documents * task.written
        steps += math.ceil(documents / settings["batch_size"]) * task.written
    return _tasks_work(sizes, stage, prefill, generated, steps)


def _tasks_work(sizes: Sizes, stage: Stage, prefill: float, generated: float, steps: float) -> Work:
    counted = of_model(sizes, stage, prefill_tokens=prefill, generated_tokens=generated, decode_steps=steps)
    return replace(counted, precision=stage.settings.get("precision", "float32"), disk_bytes=2e5)


def _local_tasks(folder: Path) -> dict[str, tuple[Mapping[str, Any], list[dict[str, Any]]]]:
    """lm-eval's tasks in a folder whose documents are in JSON Lines files beside them."""
    tasks = {}
    for file in folder.rglob("*.yaml"):
        task = read_task(file)
        place = task.get("dataset_kwargs", {}).get("data_files")
        if isinstance(place, str) and (data := file.parent / place).is_file():
            lines = data.read_text(encoding="utf-8").splitlines()
            tasks[task["task"]] = (task, [json.loads(line) for line in lines if line.strip()])
    return tasks


def _texts(document: Mapping[str, Any]) -> Iterable[str]:
    return (value for value in document.values() if isinstance(value, str))


def sections(run: Run, styles: Styles) -> list[ReportSection]:
    """Each task's figure, and its difference from the baseline's over the same documents."""
    title = "Academic retention"
    names = [name for name in primary_names(run) if name.benchmark == NAME]
    tasks = points(run, names)
    if tasks.empty:
        return [ReportSection(NAME, title)]
    shares = {unit_of(run, name) for name in names} == {"share"}
    metrics = ", ".join(dict.fromkeys(label_of(run, NAME, name.metric) for name in names))
    slots = tasks["variant"].nunique()
    each = by_group(tasks, styles, axis=metrics, within=(0, 1) if shares else None, slots=slots)
    panels = [panel("Each task", each)]
    changes = _differences(run, names)
    if len(changes):
        axis = f"difference from {run.baseline}"
        panels.append(panel("Against the baseline", by_group(changes, styles, axis=axis, reference=0, slots=slots)))
    unpaired = "unpaired" in set(changes["kind"])
    caption = (
        f"Tasks that alignment should not harm; left of the dotted line the variant is worse than {run.baseline}. "
        f"n = {sizes(tasks)} documents per task; whiskers: 95% intervals."
    )
    method = (
        "Scored by lm-eval with the chat template applied. Intervals of each task are t intervals from lm-eval's "
        "standard error"
        + (", cut at 0 and 1" if shares else "")
        + ". Differences are means over the same documents with the interval of their test"
        + (", or an unpaired interval where the figure is no mean of documents" if unpaired else "")
        + "; an interval across the dotted line leaves open which is better."
        + seeds_note(tasks)
    )
    numbers = table_rows("each task", tasks)
    return [ReportSection(NAME, title, caption, panels, 2, shown_in(styles, tasks), numbers, method)]


def _differences(run: Run, names: Sequence[Name]) -> pd.DataFrame:
    """variant, group (the task), value, low, high, n, kind: differences from the run's baseline."""
    import pandas as pd

    known = compared(run)[run.baseline]
    rows = [
        {"variant": variant, "group": name.subset, "value": found.value, "low": found.low, "high": found.high,
         "n": found.n, "kind": found.kind}
        for name in names
        for variant in run.variants
        if (found := known.get((variant, name))) is not None
    ]  # fmt: skip
    columns = ["variant", "group", "value", "low", "high", "n", "kind"]
    return pd.DataFrame(rows, columns=columns).astype({"low": "float64", "high": "float64"})


BENCHMARK = Benchmark(
    name=NAME,
    title="Academic tasks",
    summary="lm-eval's tasks, with the checkpoint's chat template.",
    Settings=Settings,
    metrics=METRICS,
    stages=stages,
    imports=imports,
    functions={
        NAME: Function(_score, version=4, packages=(*pieces.NUMERICS, "lm-eval"), ready=_ready),
        TOGETHER: Function(_together, version=1),
    },
    cost={NAME: _cost, TOGETHER: _together_cost},
    sections=sections,
    answers=False,
    rendered_prompts=True,
    place=30,
    files={"lm_eval.json": "lm_eval.json"},
)
