"""A checkpoint's model card: where it comes from, its data and settings, and its results with intervals.

The metadata at its head are the Hub's own: the evaluation results are a `model-index`, made and checked by
huggingface_hub's classes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from radpo.core.run import Run
from radpo.preferences.goals import is_goal_aware
from radpo.stats.quantities import Name, label_of, measure, names_of, number, primary_names, unit_of

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCard

PAPER = "https://arxiv.org/abs/2410.08067"
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def model_card(run: Run, variant: str, seed: int, folder: Path) -> ModelCard:
    """The card of a trained checkpoint.

    Args:
        run: the run that trained it, with the figures of its seed alone.
        variant: its variant.
        seed: its seed.
        folder: the checkpoint, whose chat template says whether it takes a goal.
    """
    from huggingface_hub import ModelCard, ModelCardData

    manifest, title = run.manifest, f"{run.title}: {variant}, seed {seed}"
    described = manifest["variants"].get(variant, {})
    bases = [name for name in manifest["models"] if HUB_ID.fullmatch(name)]
    data = ModelCardData(
        base_model=bases or None,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["radpo", "preference-alignment", str(described.get("method", variant))],
        model_name=title,
        eval_results=list(_eval_results(run, variant)) or None,
    )
    parts = [f"---\n{data.to_yaml()}\n---", f"# {_text(title)}", *_body(run, variant, seed, folder, described)]
    return ModelCard("\n\n".join(parts) + "\n")


def _body(run: Run, variant: str, seed: int, folder: Path, described: Mapping[str, Any]) -> Iterator[str]:
    manifest = run.manifest
    base = ", ".join(f"`{_code(name)}` ({_code(one['fingerprint'])})" for name, one in manifest["models"].items())
    yield (
        f"Trained from {base} by the method `{_code(described.get('method', variant))}`, with "
        f"radpo {_text(manifest['radpo'])}, on {_text(manifest['created'])[:10]}. The licence of the base model and "
        "the terms of the data hold for it."
    )
    template = folder / "chat_template.jinja"
    if template.is_file() and is_goal_aware(template.read_text(encoding="utf-8")):
        low, high = (f"{end:g}" for end in run.scale)
        yield (
            "## Asking for a score\n\nIts chat template asks for the best score. Another score, or none, is asked for "
            "with\n\n```python\n"
            f"tokenizer.apply_chat_template(messages, goal={low})   # from {low} to {high}\n"
            "tokenizer.apply_chat_template(messages, goal=None)  # as the base model is asked\n```\n\n"
            f"The method is that of *Reward-Augmented Data Enhances Direct Preference Alignment of LLMs* ({PAPER})."
        )
    figures = len(_names(run, variant))
    all_of_them = f" The metadata of this card have all {figures} figures." if figures else ""
    yield "## Results\n\n" + "\n".join(results_table(run, variant)) + all_of_them
    yield "## Data\n\n" + "\n".join(_data(manifest))
    settings = yaml.safe_dump({"seed": seed, **described.get("training", {})}, sort_keys=False, allow_unicode=True)
    packages = ", ".join(f"{_text(name)} {_text(found)}" for name, found in manifest["packages"].items())
    machine = manifest["platform"]
    yield (
        f"## Settings\n\n{_fenced(settings)}\n\nPackages: {packages}.\n\n"
        f"Computed on {_text(machine.get('cpu', machine.get('processor')))}, GPU: {_text(machine.get('gpu'))}."
    )
    if manifest["notes"]:
        yield "## To be known\n\n" + "\n".join(f"- {_text(note)}" for note in manifest["notes"])


def results_table(run: Run, variant: str) -> Iterator[str]:
    """The primary figures of the variant as lines of Markdown, with what the comparison with the baseline says."""
    names, primary = _names(run, variant), set(primary_names(run))
    if not names:
        yield "None: no benchmark scored it."
        return
    yield f"95% intervals; differences are from `{_code(run.baseline)}`.\n"
    yield "| benchmark | part | figure | value | 95% interval | n | difference (95% interval) |"
    yield "| --- | --- | --- | ---: | ---: | ---: | ---: |"
    for name in (name for name in names if name in primary):
        found, unit = measure(run, variant, name), unit_of(run, name)
        assert found is not None
        ends = "" if found.low == found.high else f"{number(found.low, unit)} to {number(found.high, unit)}"
        cells = (name.benchmark, name.subset, label_of(run, name.benchmark, name.metric))
        change = _difference(run, variant, name, unit)
        yield f"| {' | '.join(map(_text, cells))} | {number(found.value, unit)} | {ends} | {found.n} | {change} |"
    yield "\nWin rates in %, accuracies as shares, log-likelihoods in nats, others on their benchmark's own scale."


def _difference(run: Run, variant: str, name: Name, unit: str) -> str:
    rows = run.comparisons
    if rows is None:
        return ""
    place = {"variant": variant, "baseline": run.baseline, **name._asdict()}
    for column, value in place.items():
        rows = rows[rows[column] == value]
    rows = rows.dropna(subset=["value", "low", "high"])
    if rows.empty:
        return ""
    row = rows.iloc[0]
    ends = (number(row[end], unit, signed=True) for end in ("low", "high"))
    return f"{number(row['value'], unit, signed=True)} ({' to '.join(ends)})"


def _eval_results(run: Run, variant: str) -> Iterator[EvalResult]:
    """The variant's figures as the Hub's metadata have them."""
    from huggingface_hub import EvalResult

    for name in _names(run, variant):
        found = measure(run, variant, name)
        assert found is not None
        part = "" if name.subset == "all" else f" ({name.subset})"
        ends = {} if found.low == found.high else {"low": found.low, "high": found.high}
        yield EvalResult(
            task_type="text-generation",
            dataset_type=name.benchmark,
            dataset_name=f"{name.benchmark}{part}",
            dataset_config=name.subset,
            metric_type=name.metric,
            metric_name=label_of(run, name.benchmark, name.metric),
            metric_value=found.value,
            metric_args={**ends, "n": found.n},
        )


def _names(run: Run, variant: str) -> list[Name]:
    rows = run.results[(run.results["variant"] == variant) & run.results["value"].notna()]
    return names_of(rows)


def _data(manifest: Mapping[str, Any]) -> Iterator[str]:
    for name, file in manifest["data"].items():
        yield f"- `{_code(name)}`, {_code(file['sha256'])}"
    for stage, counts in manifest.get("pairs", {}).items():
        if not stage.startswith("relabel/train"):
            continue
        dropped = "".join(f", {count} left out ({_text(why)})" for why, count in counts.get("dropped", {}).items())
        yield (
            f"- {_text(stage)}: {counts.get('rows_read')} rows read{dropped}, {counts.get('ties_dropped', 0)} ties "
            f"dropped, {counts.get('pairs')} training pairs"
        )


def _text(value: object) -> str:
    """A text of another's as a line of Markdown that does nothing."""
    return re.sub(r"([\\`*_{}\[\]<>#|!])", r"\\\1", " ".join(str(value).split()))


def _code(value: object) -> str:
    """The same between backquotes, in which nothing can be escaped."""
    return " ".join(str(value).replace("`", "'").replace("|", "/").split())


def _fenced(text: str) -> str:
    """A block of YAML whose fence no line of it can close."""
    fence = "`" * (max([2, *(len(ticks) for ticks in re.findall("`+", text))]) + 1)
    return f"{fence}yaml\n{text}{fence}"
