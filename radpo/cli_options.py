"""What the commands share: options with their help, and how outcomes are printed."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from radpo.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd

    from radpo.data.preferences import Preferences
    from radpo.results import Scores

Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON document on standard output and nothing else there.")
]
PairsFile = Annotated[
    Path, typer.Argument(metavar="PAIRS", help="Scored pairs: .jsonl, .jsonl.gz, .parquet, or a `datasets` folder.")
]
Scale = Annotated[tuple[float, float], typer.Option(help="The lowest and the highest score there can be.")]
OnErrorOption = Annotated[
    str, typer.Option("--on-error", help="raise: stop at the first bad row. skip: leave it out, and count.")
]
Swap = Annotated[bool, typer.Option("--swap", help="Let pairs whose chosen scores below its rejected change places.")]
Model = Annotated[str, typer.Option(help="A bundled model, a folder, a .gguf file, or a Hub id.")]
Out = Annotated[Path, typer.Option(help="Where the result goes.")]
Seed = Annotated[int, typer.Option(help="What chance begins with.")]


def load_pairs(path: Path, scale: tuple[float, float], on_error: str, swap: bool) -> Preferences:
    from radpo.data.preferences import load_preferences

    one_of("--on-error", on_error, ("raise", "skip"))
    return load_preferences(path, scale=scale, on_error=on_error, swap=swap)  # type: ignore[arg-type]


def one_of(option: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"{option} {value!r}: must be one of {', '.join(allowed)}")


def quiet_libraries() -> None:
    """The libraries' own bars and advice would run across ours; their errors still come through."""
    import warnings

    warnings.simplefilter("ignore", FutureWarning)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("LMEVAL_LOG_LEVEL", "ERROR")


def print_json(document: Any) -> None:
    print(json.dumps(document, indent=1, ensure_ascii=False))


def figures(scores: Scores) -> dict[str, Any]:
    """A benchmark's results as one document, by subset and metric."""
    named = {f"{r.subset}/{r.metric}": {"value": r.value, "stderr": r.stderr, "n": r.n} for r in scores.results}
    return {**named, "notes": list(scores.notes)}


def show(figures: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(figures)
        return
    for name, value in figures.items():
        if isinstance(value, dict) and {"value", "stderr", "n"} <= value.keys():
            error = "" if value["stderr"] is None else f" ± {value['stderr']:.4g} (standard error)"
            print(f"{name}: {value['value']:.6g}{error}, n = {value['n']}")
        elif isinstance(value, list | tuple):
            print(*value, sep="\n")
        else:
            print(f"{name}: {value:.6g}" if isinstance(value, float) else f"{name}: {value}")


def show_table(frame: pd.DataFrame, as_json: bool, out: Path | None = None) -> None:
    """Print a tidy frame, whole; missing values are null in JSON. Written to `out`, too, where there is one."""
    if out is None:
        pass
    elif out.suffix == ".json":
        frame.to_json(out, orient="records", indent=1)
    elif out.suffix == ".csv":
        frame.to_csv(out, index=False)
    elif out.suffix == ".parquet":
        frame.to_parquet(out, index=False)
    else:
        raise ConfigError(f"--out {out}: must end in .parquet, .csv or .json")
    if as_json:
        print_json(json.loads(frame.to_json(orient="records")))
    else:
        print(frame.to_string(index=False, na_rep="-", float_format=lambda value: f"{value:.4g}"))
