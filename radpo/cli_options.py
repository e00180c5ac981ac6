"""What the commands share: options with their help, and how outcomes are printed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from radpo.errors import ConfigError

if TYPE_CHECKING:
    from radpo.data.preferences import Preferences

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
    from radpo.data.preferences import Reading, load_preferences

    one_of("--on-error", on_error, ("raise", "skip"))
    return load_preferences(path, Reading(scale, on_error, swap))  # type: ignore[arg-type]


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
