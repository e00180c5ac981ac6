"""What the commands share: options with their help, and how outcomes are printed."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from radpo.core.errors import ConfigError
from radpo.core.messages import printable_json
from radpo.core.results import known_stderr
from radpo.core.say import say, shows
from radpo.core.tables import spreadsheet_safe
from radpo.core.yaml_text import value_of

if TYPE_CHECKING:
    import pandas as pd

    from radpo.preferences.preferences import Reading

Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON document on standard output and nothing else there.")
]
PairsFile = Annotated[
    Path, typer.Argument(metavar="PAIRS", help="Scored pairs: .jsonl, .jsonl.gz, .parquet, or a `datasets` folder.")
]
Source = Annotated[
    str,
    typer.Argument(
        metavar="PAIRS",
        help="Scored pairs, or prompts with scored responses (as UltraFeedback and HelpSteer have them): "
        ".jsonl, .csv (both also .gz), .parquet, a `datasets` folder, an address such as s3://…, or a data set "
        "of the Hub, hub:NAME[@CONFIG]:SPLIT[#REVISION] (stream:… to read it as it comes).",
    ),
]
Columns = Annotated[
    list[str],
    typer.Option(
        "--columns",
        metavar="OURS=THEIRS",
        help="A column that has another name in the set: score_chosen=rating_a. Repeatable.",
    ),
]
Pairing = Annotated[
    str,
    typer.Option(
        help="Which responses to pair where a prompt has several: best-other (UltraFeedback's way: the best against a "
        "random other), best-random (a random worse one), best-worst, adjacent (each with the next), all."
    ),
]
Scale = Annotated[tuple[float, float], typer.Option(help="The lowest and the highest possible score.")]
OnErrorOption = Annotated[
    str, typer.Option("--on-error", help="raise: stop at the first bad row. skip: leave bad rows out and count them.")
]
Swap = Annotated[
    bool,
    typer.Option("--swap", help="Swap the responses of pairs whose chosen response scores below the rejected one."),
]
FalseTens = Annotated[
    str,
    typer.Option(
        "--false-tens",
        help="UltraFeedback's responses scored 10 overall whose ratings are all 1, which is the score that was meant: "
        "keep, drop, or repair them.",
    ),
]
Model = Annotated[str, typer.Option(help="A bundled model, a folder, a .gguf file, or a Hub id.")]
Out = Annotated[Path, typer.Option(help="The output file or folder.")]
Seed = Annotated[int, typer.Option(help="Random seed.")]


def reading(
    scale: tuple[float, float],
    on_error: str,
    swap: bool,
    columns: list[str],
    pairing: str,
    seed: int,
    false_tens: str = "keep",
) -> Reading:
    """The options that say how a set is read, checked."""
    from radpo.preferences.pairing import RULES
    from radpo.preferences.preferences import Reading
    from radpo.preferences.rows import FALSE_TENS

    one_of("--on-error", on_error, ("raise", "skip"))
    one_of("--pairing", pairing, RULES)
    one_of("--false-tens", false_tens, FALSE_TENS)
    if not scale[0] < scale[1]:
        raise ConfigError(f"--scale {scale[0]:g} {scale[1]:g}: the lowest score must be below the highest")
    named = {ours.strip(): theirs for ours, _, theirs in (item.partition("=") for item in columns)}
    if bad := next((item for item in columns if not all(item.partition("="))), None):
        raise ConfigError(f"--columns {bad}: write OURS=THEIRS, such as score_chosen=rating_a")
    return Reading(
        scale=scale,
        on_error=on_error,  # type: ignore[arg-type]
        swap=swap,
        columns=named,
        pairing=pairing,  # type: ignore[arg-type]
        seed=seed,
        false_tens=false_tens,  # type: ignore[arg-type]
    )


def one_of(option: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raise a ConfigError where an option's value is not among the allowed ones."""
    if value not in allowed:
        raise ConfigError(f"{option} {value!r}: must be one of {', '.join(allowed)}")


def quiet_libraries() -> None:
    """The libraries' own bars and advice would run across ours; their errors still come through."""
    import warnings

    if shows("debug"):
        return
    warnings.simplefilter("ignore", FutureWarning)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("LMEVAL_LOG_LEVEL", "ERROR")


def print_json(document: Any) -> None:
    """Print one JSON document on standard output."""
    say(printable_json(json.dumps(document, indent=1, ensure_ascii=False)))


def print_counts(word: str, counts: Mapping[str, int], stream: TextIO | None = None) -> None:
    """A line for each reason, with how often; on standard output unless another stream is given."""
    for reason, count in counts.items():
        say(f"  {word} {count}: {reason}", file=stream)


def need_one(options: Mapping[str, Any]) -> None:
    """Raise a ConfigError unless exactly one of these options is given."""
    given = [name for name, value in options.items() if value is not None]
    if len(given) != 1:
        said = f"{' and '.join(given)} together" if given else "none of them"
        raise ConfigError(
            f"give one of {', '.join(options)}; here is {said}" if len(options) > 1 else f"give {next(iter(options))}"
        )


def parse_pairs(option: str, pairs: list[str]) -> dict[str, Any]:
    """KEY=VALUE texts as a mapping; values are read as YAML does, so that 3 is a number and [0, 1] a list."""
    found: dict[str, Any] = {}
    for pair in pairs:
        key, sign, value = pair.partition("=")
        if not sign or not key:
            raise ConfigError(f"{option} {pair!r}: must be KEY=VALUE")
        found[key] = value_of(value)
    return found


def show(figures: Mapping[str, Any], as_json: bool) -> None:
    """Print a document as JSON, or as lines for people; a standard error of 0 tells nothing, and is none."""
    figures = {
        name: known_stderr(value) if name in ("stderr", "standard_error") else value for name, value in figures.items()
    }
    if as_json:
        print_json(figures)
        return
    for name, value in figures.items():
        if isinstance(value, dict) and {"value", "stderr", "n"} <= value.keys():
            error = "" if value["stderr"] is None else f" ± {value['stderr']:.4g} (standard error)"
            say(f"{name}: {value['value']:.6g}{error}, n = {value['n']}")
        elif isinstance(value, dict):
            say(f"{name}:")
            for inner, of in value.items():
                say(f"  {inner}: {_plain(of)}")
        elif isinstance(value, list | tuple):
            if value:
                say(*value, sep="\n")
        else:
            say(f"{name}: {_plain(value)}")


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_plain(of)}" for name, of in value.items())
    return str(value)


def show_table(frame: pd.DataFrame, as_json: bool, out: Path | None = None) -> None:
    """Print a tidy frame, whole; missing values are null in JSON. Written to `out`, too, where there is one."""
    if out is not None:
        try:
            _save(frame, out)
        except OSError as error:
            raise ConfigError(f"--out {out}: cannot be written ({error.strerror or error})") from error
    if as_json:
        print_json(json.loads(frame.to_json(orient="records")))
    else:
        say(frame.to_string(index=False, na_rep="-", float_format=lambda value: f"{value:.4g}"))


def _save(frame: pd.DataFrame, out: Path) -> None:
    if out.suffix == ".json":
        frame.to_json(out, orient="records", indent=1)
    elif out.suffix == ".csv":
        spreadsheet_safe(frame).to_csv(out, index=False)
    elif out.suffix == ".parquet":
        frame.to_parquet(out, index=False)
    else:
        raise ConfigError(f"--out {out}: must end in .parquet, .csv or .json")
