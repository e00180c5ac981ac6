"""A command for every benchmark, built from its settings: `radpo eval NAME` and `radpo analyze NAME`.

A benchmark of an installed package gets one as radpo's own do. What is asked for becomes a matrix of one cell; files of
judgments that there are already are scored without a model.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from typer.core import TyperGroup

from radpo.cli.options import need_one, one_of, parse_pairs, print_json, quiet_libraries, show, show_table
from radpo.core.errors import ConfigError
from radpo.core.yaml_text import value_of

if TYPE_CHECKING:
    from radpo.benchmarks.protocol import Benchmark

Kind = Literal["eval", "analyze"]
Place = tuple[str, ...]
"""Where an option's value goes: `settings`, `existing`, `data`, `training`, ... and the keys below it."""
ANSWERING, JUDGING, EXISTING, READING = "Model and answers", "Judge", "Existing judgments", "Scored pairs"


@dataclass(frozen=True)
class Option:
    """One option of a command.

    Args:
        kind: the type of its value, a list where it is repeatable.
        places: where its value goes; none where the command knows by itself.
        allowed: the only values, where they are few.
    """

    name: str
    kind: Any
    help: str
    places: tuple[Place, ...] = ()
    panel: str | None = None
    allowed: tuple[str, ...] = ()
    metavar: str | None = None
    default: Any = None
    argument: bool = False

    @property
    def written(self) -> str:
        """As people write it."""
        return (self.metavar or self.name.upper()) if self.argument else "--" + self.name.replace("_", "-")

    @property
    def parameter(self) -> str:
        """The name of the function's parameter."""
        return self.name.replace("-", "_")


class BenchmarkGroup(TyperGroup):
    """A group with a command for every registered benchmark of its kind, beside those of its own."""

    kind: Kind

    def list_commands(self, ctx: Any) -> list[str]:
        """The benchmarks in their order, then the other commands."""
        return [*_named(self.kind), *super().list_commands(ctx)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """One of them; None where there is none."""
        found = super().get_command(ctx, cmd_name)
        if found is not None or cmd_name not in (named := _named(self.kind)):
            return found
        app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        app.command(cmd_name, help=_help(named[cmd_name]), short_help=named[cmd_name].summary)(command(cmd_name))
        return typer.main.get_command(app)


class EvalGroup(BenchmarkGroup):
    """Benchmarks that score answers."""

    kind = "eval"


class AnalyzeGroup(BenchmarkGroup):
    """Benchmarks that measure what training did."""

    kind = "analyze"


def _named(kind: Kind) -> dict[str, Benchmark]:
    from radpo.benchmarks.registry import benchmarks

    return {name: benchmark for name, benchmark in benchmarks().items() if benchmark.command == kind}


def _help(benchmark: Benchmark) -> str:
    about = inspect.getdoc(benchmark.Settings) or ""
    existing = [] if benchmark.Existing is None else [inspect.getdoc(benchmark.Existing) or ""]
    how = "With --out DIR the run is kept, as `radpo run` keeps one; interrupted, the same command resumes."
    return "\n\n".join(" ".join(text.split()) for text in (benchmark.summary, about, *existing, how) if text)


def command(name: str) -> Callable[..., None]:
    """The function of a benchmark's command; its signature has the options."""
    from radpo.benchmarks.registry import benchmarks

    benchmark = benchmarks()[name]
    options = list(_options(benchmark))

    def run(**given: Any) -> None:
        _run(benchmark, options, given)

    parameters = []
    for option in options:
        about: Any
        if option.argument:
            about = typer.Argument(help=option.help, metavar=option.metavar)
        else:
            about = typer.Option(option.written, help=option.help, rich_help_panel=option.panel, metavar=option.metavar)
        kind = option.kind if option.default is not None or option.argument else option.kind | None
        kind = Annotated[kind, about]
        default = inspect.Parameter.empty if option.argument else option.default
        parameters.append(
            inspect.Parameter(option.parameter, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        )
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


# What options there are


def _options(benchmark: Benchmark) -> Iterator[Option]:
    """A benchmark's options: of existing judgments, its settings, who is scored, and where the run goes."""
    found: dict[str, Option] = {}
    own = [*_of_model(benchmark.Settings, ("settings",), None), *_of_others(benchmark)]
    existing = [] if benchmark.Existing is None else _of_model(benchmark.Existing, ("existing",), EXISTING)
    positional = _positional(benchmark)
    for option in (*positional, *existing, *own, *_common(benchmark)):
        if option.name not in found:
            found[option.name] = option
        elif option.places:
            known = found[option.name]
            found[option.name] = Option(
                **{**vars(known), "places": (*known.places, *option.places), "help": known.help or option.help}
            )
    ordered = sorted(found.values(), key=lambda option: not option.argument)
    yield from ordered


def _positional(benchmark: Benchmark) -> list[Option]:
    """What an analysis is of: prompts, or held-out pairs; or a run directory, where it can look at one."""
    if benchmark.command == "eval":
        return []
    runs = benchmark.Existing is not None and "run_dir" in benchmark.Existing.model_fields
    questions = benchmark.Settings.model_fields.get("questions")
    if questions is not None:
        about = "Questions: question_id, category, turns, constraints."
        return [
            Option(
                "questions", Path, about, (("settings", "questions", "path"),), None, metavar="PROMPTS", argument=True
            )
        ]
    about = "Held-out scored pairs: .jsonl, .jsonl.gz, .parquet, or a `datasets` folder"
    places: tuple[Place, ...] = (("data", "heldout", "path"), *((("existing", "run_dir"),) if runs else ()))
    about += "; or a run directory, as `radpo run` makes." if runs else "."
    metavar = "PAIRS|RUN_DIR" if runs else "PAIRS"
    return [Option("pairs", Path, about, places, metavar=metavar, argument=True)]


def _of_others(benchmark: Benchmark) -> Iterator[Option]:
    """Options that another benchmark takes in this one's place."""
    from radpo.benchmarks.registry import benchmarks

    for name, other in benchmark.elsewhere.items():
        if other in benchmarks():
            field = benchmarks()[other].Settings.model_fields[name]
            yield from _of_field(name, field, ("settings", name), None)


def _of_model(model: type[BaseModel], place: Place, panel: str | None) -> Iterator[Option]:
    for name, field in model.model_fields.items():
        if name != "run_dir":
            above = (getattr(base, "model_fields", {}).get(name) for base in model.__mro__[1:])
            inherited = next((each.description for each in above if each is not None and each.description), None)
            yield from _of_field(name, field, (*place, name), panel, inherited)


def _of_field(
    name: str, field: FieldInfo, place: Place, panel: str | None, inherited: str | None = None
) -> Iterator[Option]:
    """A setting's options: several for a section, a file of questions or a judge.

    Args:
        inherited: its description, where it has none of its own.
    """
    from radpo.benchmarks.settings import DataFile, JudgeSettings, SamplingSettings
    from radpo.benchmarks.settings import Option as Named

    called = next((each.name for each in field.metadata if isinstance(each, Named)), name)
    annotation = _bare(field.annotation)
    told = field.description or inherited or ""
    if isinstance(annotation, type) and issubclass(annotation, DataFile):
        yield Option(called, Path, told or "A file of questions.", ((*place, "path"),), panel)
        about = "Use only the first N; the result is then partial."
        yield Option("limit", int, about, ((*place, "limit"),), panel)
    elif isinstance(annotation, type) and issubclass(annotation, JudgeSettings):
        about = "The judge: openai, panel, reward-model, verifier, or an installed one."
        yield Option("judge", str, about, ((*place, "kind"),), JUDGING)
        about = "A setting of the judge, such as model=NAME; repeatable."
        yield Option("judge_set", list[str], about, ((*place, "*"),), JUDGING, metavar="KEY=VALUE")
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield from _of_model(annotation, place, ANSWERING if issubclass(annotation, SamplingSettings) else panel)
    else:
        kind, allowed = _kind(annotation)
        default = "" if field.is_required() or field.default in (None, ()) else f" Default: {field.default}."
        choices = f" One of {', '.join(allowed)}." if allowed else ""
        yield Option(called, kind, f"{told}{choices}{default}".strip(), (place,), panel, allowed)


def _bare(annotation: Any) -> Any:
    """A type without None and without what is annotated to it."""
    while True:
        if get_origin(annotation) is Annotated:
            annotation = get_args(annotation)[0]
        elif get_origin(annotation) in (Union, types.UnionType):
            parts = [part for part in get_args(annotation) if part is not type(None)]
            if len(parts) != 1:
                return annotation
            annotation = parts[0]
        else:
            return annotation


def _kind(annotation: Any) -> tuple[Any, tuple[str, ...]]:
    """The type that the command line reads a setting as, and its only values; a text where it is read as YAML is."""
    if get_origin(annotation) is Literal:
        return str, tuple(map(str, get_args(annotation)))
    if get_origin(annotation) in (tuple, list):
        inner, _ = _kind(_bare(get_args(annotation)[0]))
        return list[inner], ()  # type: ignore[valid-type]
    return (annotation if annotation in (int, float, str, bool, Path) else str), ()


def _common(benchmark: Benchmark) -> Iterator[Option]:
    """Who is scored, against what, and where the run goes."""
    if benchmark.command == "eval":
        yield Option(
            "model", str, "The model to score: a bundled model, a folder, a .gguf file, or a Hub id.", panel=ANSWERING
        )
    else:
        about = (
            "The trained checkpoint: a folder, a Hub id, or a bundled model, also as NAME=FOLDER; repeatable: several "
        )
        about += "are measured alike and compared with the first."
        yield Option("policy", list[str], about, metavar="[NAME=]POLICY")
        yield Option("reference", str, "The model it was trained from.", (("model",),))
        yield Option("scale", tuple[float, float], "The lowest and the highest possible score.", (("data", "scale"),))
        if "questions" not in benchmark.Settings.model_fields:
            yield from _of_reading()
        about = "Maximum tokens of prompt and response together; longer texts are cut."
        yield Option("max_length", int, about, (("training", "max_length"),))
    if benchmark.takes_answers:
        about = (
            "Or an OpenAI-compatible endpoint that answers, as model=NAME base_url=URL; repeatable. Others: version "
            "(replies are shared with other runs only if it says which checkpoint the name stands for), api_key_env, "
            "token_limit, sampling_options, reasoning_effort, chat_template_kwargs, extra_body, batch, max_unanswered, "
            "concurrency, requests_per_minute, timeout, attempts, "
            "price_in, price_out, max_cost, max_requests."
        )
        yield Option("endpoint", list[str], about, panel=ANSWERING, metavar="KEY=VALUE")
        about = "Or a file of existing answers, in the format of any of the benchmarks."
        yield Option("answers", Path, about, panel=ANSWERING)
    about = "A variable of the checkpoint's chat template, such as enable_thinking=false; repeatable."
    yield Option("chat_template_kwargs", list[str], about, panel=ANSWERING, metavar="KEY=VALUE")
    yield Option("name", str, "Its name in tables and report. Default: made from what is scored.", panel=ANSWERING)
    about = "The score to ask for; default: the checkpoint's own; none: no goal."
    yield Option("goal", str, about, panel=ANSWERING, default="default")
    yield Option("seed", int, "Random seed.", panel=ANSWERING, default=0)
    yield Option("out", Path, "The run directory: tables, report, scores.json, and the benchmark's own files.")
    yield Option("store", str, "The store of finished stages. Default: RADPO_STORE, else `store` beside --out.")
    yield Option("json", bool, "Print one JSON document on standard output and nothing else there.", default=False)


def _of_reading() -> Iterator[Option]:
    """How scored pairs are read, as the data commands have it."""
    from radpo.preferences.pairing import RULES
    from radpo.preferences.rows import FALSE_TENS

    about = "raise: stop at the first bad row. skip: leave bad rows out and count them."
    yield Option("on-error", str, about, (("data", "on_error"),), READING, ("raise", "skip"))
    about = "Swap the responses of pairs whose chosen response scores below the rejected one."
    yield Option("swap", bool, about, (("data", "swap"),), READING)
    about = "A column that has another name in the file: score_chosen=rating_a; repeatable."
    yield Option("columns", list[str], about, (("data", "columns", "*"),), READING, metavar="OURS=THEIRS")
    about = f"Which responses to pair where a prompt has several: {', '.join(RULES)}."
    yield Option("pairing", str, about, (("data", "pairing"),), READING, RULES)
    about = f"UltraFeedback's responses scored 10 overall whose ratings are all 1: {', '.join(FALSE_TENS)}."
    yield Option("false-tens", str, about, (("data", "false_tens"),), READING, FALSE_TENS)


# What a command does


def _run(benchmark: Benchmark, options: list[Option], given: dict[str, Any]) -> None:
    as_json, out = given["json"], given["out"]
    if _looks_at_existing(benchmark, given):
        _show_existing(benchmark, options, given, as_json)
        return
    from radpo import api

    values = _placed(options, given)
    settings = values.get("settings", {})
    chosen = next((other for name, other in benchmark.elsewhere.items() if settings.get(name)), benchmark.name)
    if benchmark.takes_answers or given.get("judge") or given.get("judge_set"):
        _choose_judge(benchmark, settings, given)
    variants = _variants(benchmark, given)
    quiet_libraries()
    try:
        documents = api.evaluate_each(
            chosen, settings, variants=variants, seed=given["seed"] or 0, model=values.get("model"),
            data=values.get("data"), training={"precision": "float32", **values.get("training", {})}, out=out,
            store=given["store"],
        )  # fmt: skip
    except ConfigError as error:
        raise ConfigError(_in_options(str(error), chosen, options, benchmark)) from error
    if len(variants) == 1:
        show(next(iter(documents.values())), as_json)
    elif as_json:
        print_json(documents)
    else:
        for name, document in documents.items():
            show({"policy": name, **document}, as_json)


def _looks_at_existing(benchmark: Benchmark, given: Mapping[str, Any]) -> bool:
    """Whether judgments, or a run, are to be looked at; a ConfigError where it is not clear."""
    if benchmark.Existing is None:
        return False
    if "run_dir" in benchmark.Existing.model_fields and (given["pairs"] / "manifest.json").is_file():
        return True
    sources = {f"--{name.replace('_', '-')}": given[name] or None for name in benchmark.Existing.sources}
    if sources:
        need_one({**sources, "--out": given["out"]})
    return any(value is not None for value in sources.values())


def _show_existing(benchmark: Benchmark, options: list[Option], given: Mapping[str, Any], as_json: bool) -> None:
    from radpo.core.plugins import check_settings

    assert benchmark.Existing is not None
    assert benchmark.score_existing is not None
    values = _placed(options, given).get("existing", {})
    found = benchmark.score_existing(
        check_settings(f"radpo {benchmark.command} {benchmark.name}", benchmark.Existing, values)
    )
    if isinstance(found, Mapping):
        show(found, as_json)
    else:
        show_table(found, as_json, given["out"])


def _placed(options: list[Option], given: Mapping[str, Any]) -> dict[str, Any]:
    """What was given, where it goes."""
    values: dict[str, Any] = {}
    for option in options:
        value = given[option.parameter]
        if value is None or value == [] or not option.places:
            continue
        if option.allowed:
            one_of(option.written, value, option.allowed)
        if isinstance(value, Path):
            value = str(value)
        elif isinstance(value, list):
            value = [str(item) if isinstance(item, Path) else item for item in value]
        for *folders, key in option.places:
            section = values
            for folder in folders:
                section = section.setdefault(folder, {})
            if key == "*":
                section |= parse_pairs(option.written, value)
            else:
                section[key] = value_of(value) if option.kind is str and value[:1] in "[{" else value
    return values


def _choose_judge(benchmark: Benchmark, settings: dict[str, Any], given: Mapping[str, Any]) -> None:
    """A benchmark's command asks an endpoint to judge by default; an analysis asks the verifier."""
    for name, field in benchmark.Settings.model_fields.items():
        if _is_judge(field):
            usual = "openai" if benchmark.command == "eval" else "verifier"
            settings[name] = {"kind": given["judge"] or usual, **settings.get(name, {})}


def _is_judge(field: FieldInfo) -> bool:
    from radpo.benchmarks.settings import JudgeSettings

    annotation = _bare(field.annotation)
    return isinstance(annotation, type) and issubclass(annotation, JudgeSettings)


def _variants(benchmark: Benchmark, given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Who is scored, by name, as a matrix describes variants."""
    from radpo.matrix.one_cell import name_of

    policies = given.get("policy") or [None]
    if len(policies) > 1 and given["name"] is not None:
        raise ConfigError("--name: several policies have names of their own: --policy NAME=FOLDER")
    found: dict[str, dict[str, Any]] = {}
    for policy in policies:
        called, sign, rest = (policy or "").partition("=")
        is_named = bool(sign and rest and called.strip(".")) and "/" not in called
        variant = _variant(benchmark, {**given, "policy": rest if is_named else policy})
        name = given["name"] or (called if is_named else name_of(variant))
        if name in found:
            raise ConfigError(
                f"--policy {policy}: {name!r} is there already; give it another name: --policy NAME=FOLDER"
            )
        found[name] = variant
    return found


def _variant(benchmark: Benchmark, given: Mapping[str, Any]) -> dict[str, Any]:
    """Who is scored, as a matrix describes a variant."""
    who = {"--model": given["model"]} if benchmark.command == "eval" else {"--policy": given["policy"]}
    if benchmark.takes_answers:
        who |= {"--endpoint": given["endpoint"] or None, "--answers": given["answers"]}
    need_one(who)
    if given.get("endpoint"):
        variant: dict[str, Any] = {"endpoint": parse_pairs("--endpoint", given["endpoint"])}
    elif given.get("answers") is not None:
        variant = {"answers": str(given["answers"])}
    else:
        variant = {"checkpoint": next(iter(who.values()))}
    if given.get("chat_template_kwargs"):
        variant["chat_template_kwargs"] = parse_pairs("--chat-template-kwargs", given["chat_template_kwargs"])
    goal = given["goal"]
    if not isinstance(goal, str) or goal == "default":
        return variant
    if goal != "none":
        try:
            goal = float(goal)
        except ValueError:
            raise ConfigError(f"--goal {goal!r}: must be a number, default or none") from None
    return {**variant, "goal": goal}


def _in_options(message: str, chosen: str, options: list[Option], benchmark: Benchmark) -> str:
    """A message about keys of a matrix, in the command's own words."""
    written = {"model": "--reference", "data.heldout": "PAIRS"} if benchmark.command == "analyze" else {}
    for option in options:
        for head, *rest in option.places:
            below = [part for part in rest if part != "*"]
            if head == "settings":
                written[".".join(["benchmarks", chosen, *below])] = option.written
            elif head != "existing":
                written[".".join([head, *below])] = option.written
    for name in [name for name in written if name.endswith(".path")]:
        written.setdefault(name.removesuffix(".path"), written[name])
    lines = []
    for line in message.splitlines():
        key = next(
            (key for key in sorted(written, key=len, reverse=True) if line.startswith((f"{key}:", f"{key}."))), None
        )
        if key is not None:
            line = written[key] + line[len(key) :]
        elif line.startswith("variants.") and ".endpoint." in line:
            line = "--endpoint " + line.partition(".endpoint.")[2]
        lines.append(line)
    return "\n".join(lines)
