"""Academic tasks: a model folder and lm-eval task names come in, lm-eval's own figures and samples go out.

A checkpoint that carries its goal in its chat template is conditioned by that template alone.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from radpo.errors import ConfigError, DataError
from radpo.judges.base import Progress, no_progress
from radpo.models.loading import Precision, load_tokenizer, torch_dtype
from radpo.results import Example, Result, Scores

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager

BENCHMARK = "academic"


@dataclass(frozen=True)
class AcademicRun:
    """What lm-eval returned: its results document (JSON-serialisable), and its samples by task."""

    lm_eval_results: Mapping[str, Any]
    samples: Mapping[str, Sequence[Mapping[str, Any]]]


def run(
    model_folder: Path,
    tasks: Sequence[str],
    include_path: Path | None = None,
    *,
    limit: int | None = None,
    batch_size: int = 16,
    precision: Precision = "auto",
    progress: Progress = no_progress,
) -> AcademicRun:
    """Run lm-eval tasks with the checkpoint's chat template, lm-eval's own fixed seeds, no code from the Hub trusted.

    Args:
        model_folder: a Hugging Face folder.
        tasks: names of tasks, groups or tags; those in `include_path` go before lm-eval's own of the same name, which
            are indexed only when one is needed.
        include_path: a folder of task YAML files; their `data_files` are relative to the YAML's own folder.
        limit: how many documents of each task to take; all unless given.
        progress: called before and after the run, in tasks: lm-eval runs them in one go.

    Raises:
        ConfigError: there is no such task.
        DataError: a task's data set cannot be loaded.
        ModelError: the checkpoint has no chat template.
    """
    import datasets
    import torch
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.utils import handle_non_serializable

    manager = _task_manager(tasks, include_path)
    progress(0, len(tasks))
    try:
        # The tasks are loaded before the model, so that a task that cannot run is known at once.
        loaded = manager.load(list(tasks))
    except (datasets.exceptions.DatasetsError, OSError) as error:
        cause = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"tasks {', '.join(tasks)}: a data set cannot be loaded ({cause}); where the Hub is out of reach, "
            "give a folder of tasks with local data_files"
        ) from error
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"tasks {', '.join(tasks)}: lm-eval cannot build them: {error}") from error
    load_tokenizer(model_folder)  # for its check of the chat template
    children = {child for names in loaded["group_map"].values() for child in names}
    specs = [item for name, item in {**loaded["groups"], **loaded["tasks"]}.items() if name not in children]
    model = HFLM(
        pretrained=str(model_folder),
        device="cuda" if torch.cuda.is_available() else "cpu",
        dtype=torch_dtype(precision),
        batch_size=batch_size,
        trust_remote_code=False,
    )
    document = simple_evaluate(
        model=model,
        tasks=specs,
        task_manager=manager,
        limit=limit,
        apply_chat_template=True,
        log_samples=True,
    )
    samples = document.pop("samples")
    progress(len(tasks), len(tasks))
    return AcademicRun(json.loads(json.dumps(document, default=handle_non_serializable)), samples)


def scores(run: AcademicRun) -> Scores:
    """lm-eval's own values and standard errors as results, and a row a document.

    Each task's primary metric is the first of its `metric_list`, under its first filter; a group with a figure of its
    own is primary in place of its tasks. Per-document rows hold the primary metric.
    """
    document = run.lm_eval_results
    groups = document.get("groups", {})
    inside = {child for group in groups for child in _leaves(group, document["group_subtasks"])}
    results: list[Result] = []
    examples: list[Example] = []
    notes: list[str] = []
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
            rows = list(_examples(name, primary, run.samples[name]))
            examples += rows
            if not rows:
                notes.append(f"academic, {name}: {primary} is no figure of single documents, so there are no examples.")
    return Scores(tuple(results), tuple(examples), tuple(notes))


def _task_manager(tasks: Sequence[str], include_path: Path | None) -> TaskManager:
    """lm-eval's index of the tasks: the local ones alone where they suffice, since its own are thousands of files."""
    from lm_eval.tasks import TaskManager

    if include_path is not None and not include_path.is_dir():
        raise ConfigError(f"{include_path}: no such folder of tasks")
    manager = TaskManager(include_path=include_path, include_defaults=False)
    if any(name not in manager.task_index for name in _named(tasks, manager)):
        manager = TaskManager(include_path=include_path, include_defaults=True)
        for name in tasks:
            if name not in manager.task_index:
                near = difflib.get_close_matches(name, manager.all_tasks, n=3)
                hint = f"; did you mean {' or '.join(near)}?" if near else ""
                where = "among lm-eval's own" if include_path is None else f"in {include_path} or among lm-eval's own"
                raise ConfigError(f"task {name!r}: there is none {where}{hint}")
    if include_path is not None:
        _anchor_data_files(manager, include_path)
    return manager


def _named(tasks: Sequence[str], manager: TaskManager) -> Iterator[str]:
    """The tasks, and what local groups among them gather."""
    for name in tasks:
        yield name
        entry = manager.task_index.get(name)
        members = (entry.cfg or {}).get("task") if entry is not None else None
        if isinstance(members, list):
            yield from _named([member for member in members if isinstance(member, str)], manager)


def _anchor_data_files(manager: TaskManager, include_path: Path) -> None:
    """Make the local tasks' data_files relative to their YAML's folder, not to wherever the process runs."""
    from lm_eval.tasks._yaml_loader import load_yaml

    root = include_path.resolve()
    for entry in manager.task_index.values():
        if entry.yaml_path is None or root not in entry.yaml_path.resolve().parents:
            continue
        kwargs = (entry.cfg or {}).get("dataset_kwargs")
        if not isinstance(kwargs, dict) or "data_files" not in kwargs:
            continue
        config = load_yaml(entry.yaml_path, resolve_func=True)
        config["dataset_kwargs"] = {**kwargs, "data_files": _anchored(kwargs["data_files"], entry.yaml_path)}
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
        benchmark=BENCHMARK,
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


def _examples(task: str, key: str, samples: Sequence[Mapping[str, Any]]) -> Iterator[Example]:
    import numpy as np

    metric, filter_name = key.split(",", 1)
    for sample in samples:
        value = sample.get(metric)
        if sample["filter"] != filter_name or not isinstance(value, Real | np.bool_):
            continue
        output, detail = _output(sample)
        yield Example(
            benchmark=BENCHMARK,
            subset=task,
            example_id=str(sample["doc_id"]),
            prompt=str(sample["arguments"][0][0]),
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
