"""Whether two runs may be compared, and what differs between them, in sentences.

What a verdict rests on must be the same in both: data, questions, judge, sampling, the baseline of win rates. What may
differ is what is being gated: the variants' own training.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from radpo.core.run import Run, detail_of
from radpo.gate.runs import MetricName, in_both

if TYPE_CHECKING:
    import pandas as pd

_CANNOT_MATTER = frozenset({"batch_size", "limit", "swap_check", "resamples", "precision"})
"""Settings of a benchmark's section that change no example's value but by rounding; a limit says only how many there
are."""


def differing_settings(baseline: Run, candidate: Run, benchmarks: Iterable[str]) -> list[str]:
    """What differs between the two runs' data and settings, as far as these benchmarks rest on it."""
    ours, theirs = baseline.manifest, candidate.manifest
    found = [
        f"they were run on different data: {name} ({_short(file)} against {_short(theirs['data'][name])})"
        for name, file in ours.get("data", {}).items()
        if name in theirs.get("data", {}) and _hash(file) != _hash(theirs["data"][name])
    ]
    found += _other_pairs(baseline, candidate)
    if ours.get("baseline") != theirs.get("baseline"):
        found.append(
            f"win rates are against variant {ours.get('baseline')!r} in one and {theirs.get('baseline')!r} in the other"
        )
    if baseline.factors != candidate.factors:
        found.append("their seeds stand for other levels of models, data, order or sampling (draws)")
    if baseline.sources[0].settings is None or candidate.sources[0].settings is None:
        return found
    left, right = _measured(baseline, benchmarks), _measured(candidate, benchmarks)
    told = {name for run in (ours, theirs) for name in run.get("data", {}) if any(name in item for item in found)}
    for key in sorted(left.keys() | right.keys()):
        values = left.get(key), right.get(key)
        if values[0] != values[1] and not told & {name for run in (ours, theirs) for name in _files(run, values)}:
            found.append(f"{key} is {_said(values[0])} in one and {_said(values[1])} in the other")
    return found


def _other_pairs(baseline: Run, candidate: Run) -> Iterator[str]:
    """Scored pairs that have another name and another content in the two runs."""
    for part in ("train", "heldout"):
        files = []
        for run in (baseline, candidate):
            data = ((run.sources[0].settings or {}).get("data") or {}).get(part) or {}
            name = str(data.get("path"))
            files.append((name, run.manifest.get("data", {}).get(name)))
        (one, ours), (other, theirs) = files
        if one != other and ours is not None and theirs is not None and _hash(ours) != _hash(theirs):
            yield f"data.{part} is {one} in one ({_short(ours)}) and {other} in the other ({_short(theirs)})"


def differing_examples(name: MetricName, pairs: pd.DataFrame, same_model: bool) -> Iterator[tuple[str, bool]]:
    """What differs between the paired examples of a metric, and whether that forbids a comparison.

    Args:
        same_model: whether both runs began with the same model: then a few answers of the baseline may differ, by the
            order in which another machine adds up; else they are another model's, and the win rate another quantity.
    """
    from radpo.benchmarks.registry import benchmarks

    both, (_, benchmark, *_) = in_both(pairs), name
    rendered = benchmark in benchmarks() and benchmarks()[benchmark].rendered_prompts
    if rendered:
        asked = [both[f"detail_{run}"].map(lambda text: detail_of(text).get("target")) for run in _RUNS]
    else:
        asked = [both[f"prompt_{run}"] for run in _RUNS]
    differ = asked[0].notna() & asked[1].notna() & (asked[0] != asked[1])
    if differ.any():
        example = both.loc[differ, "example_id"].iloc[0]
        what = "documents" if rendered else "prompts"
        yield f"the {what} of {benchmark} differ (such as example {example!r})", True
    answers = [both[f"baseline_output_{run}"] for run in _RUNS]
    differ = answers[0].notna() & answers[1].notna() & (answers[0] != answers[1])
    if differ.any():
        share = f"{int(differ.sum())} of {len(both)} of the baseline's answers to {benchmark} differ"
        yield (share if same_model else f"{share}, and so do the models that they come from"), not same_model


def same_models(baseline: Run, candidate: Run) -> bool:
    """Whether both runs began with the same models, by content."""
    ours, theirs = (
        {model.get("fingerprint") for model in run.manifest.get("models", {}).values()} for run in (baseline, candidate)
    )
    return ours == theirs


def remarks(baseline: Run, candidate: Run) -> list[str]:
    """What a reader should know that forbids nothing, versions of packages that figures rest on among it."""
    from radpo.benchmarks.registry import stage_functions

    found = [
        f"{run.sources[0].folder.name} has no matrix.yaml: judges, prompts and sampling could not be compared."
        for run in (baseline, candidate)
        if run.sources[0].settings is None
    ]
    found += _precisions(baseline, candidate)
    ours, theirs = (run.manifest.get("packages", {}) for run in (baseline, candidate))
    for name in sorted({package for function in stage_functions().values() for package in function.packages}):
        if ours.get(name) != theirs.get(name):
            found.append(f"{name} is {_said(ours.get(name))} in one run and {_said(theirs.get(name))} in the other.")
    return found


_RUNS = ("baseline", "candidate")


def _precisions(baseline: Run, candidate: Run) -> list[str]:
    """One sentence a setting of arithmetic that differs; where a run was written before `auto` was settled, that."""
    left, right = (dict(_precision_leaves("", run.sources[0].settings or {})) for run in (baseline, candidate))
    return [
        f"{key} is {left[key]} in one run and {right[key]} in the other: answers and log-likelihoods differ by "
        "rounding."
        for key in sorted(left.keys() & right.keys())
        if left[key] != right[key]
    ]


def _precision_leaves(key: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            if name == "precision" and isinstance(inner, str):
                yield f"{key}{name}", inner
            else:
                yield from _precision_leaves(f"{key}{name}.", inner)


def _measured(run: Run, benchmarks: Iterable[str]) -> dict[str, Any]:
    """By key, all that how something is measured rests on; files by their content."""
    matrix: Mapping[str, Any] = run.sources[0].settings or {}
    sections = matrix.get("benchmarks") or {}
    found: dict[str, Any] = {
        "data.scale": (matrix.get("data") or {}).get("scale"),
        "chat_template_kwargs": matrix.get("chat_template_kwargs"),
    }
    for name in benchmarks:
        section = _with_defaults(name, sections.get(name) or {})
        if isinstance(section.get("judge"), dict):
            section["judge"] = _without_hints(section["judge"])
        found |= dict(_leaves(f"benchmarks.{name}", section))
    return {key: _content(run, value) for key, value in found.items()}


def _with_defaults(name: str, section: Mapping[str, Any]) -> dict[str, Any]:
    """A benchmark's section with the defaults of settings that radpo did not yet have when it was written."""
    from radpo.benchmarks.registry import benchmarks

    found = dict(section)
    if isinstance(found.get("judge"), str):
        found["judge"] = {"kind": found["judge"]}
    if name not in benchmarks():
        return found
    defaults = benchmarks()[name].Settings.model_construct().model_dump(mode="json", exclude_none=True, warnings=False)
    for key, value in defaults.items():
        given = found.get(key)
        if isinstance(value, dict) and isinstance(given, dict):
            found[key] = {**value, **given}
        elif given is None:
            found[key] = value
    return found


def _without_hints(judge: Mapping[str, Any] | str) -> dict[str, Any]:
    """A judge's settings but for those that cannot change a verdict: limits, prices, speed."""
    from radpo.core.errors import ConfigError
    from radpo.judges.lookup import find_judge_kind

    if isinstance(judge, str):
        return {"kind": judge}
    try:
        kind = find_judge_kind(str(judge["kind"]))
    except (KeyError, ConfigError):  # the package that the judge came from is not installed here: every setting counts
        return dict(judge)
    return {
        name: [_without_hints(member) for member in value] if name in kind.members else value
        for name, value in judge.items()
        if name not in kind.hints
    }


def _leaves(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            if name not in _CANNOT_MATTER:
                yield from _leaves(f"{key}.{name}", inner)
    else:
        yield key, value


def _content(run: Run, value: Any) -> Any:
    """A file that the manifest knows counts by its content, whatever it is called."""
    file = run.manifest.get("data", {}).get(value) if isinstance(value, str) else None
    return value if file is None else _hash(file)


def _files(manifest: Mapping[str, Any], values: Iterable[Any]) -> Iterator[str]:
    return (name for name, file in manifest.get("data", {}).items() if _hash(file) in values)


def _hash(file: Mapping[str, Any]) -> str:
    return str(file.get("sha256"))


def _short(file: Mapping[str, Any]) -> str:
    return _hash(file)[:19]


def _said(value: Any) -> str:
    return "not set" if value is None else repr(value)[:80]
