"""Reading a run directory: its tables and manifest come in, one checked `Run` goes out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from radpo.errors import DataError
from radpo.results import EXAMPLE_DTYPES, RESULT_DTYPES

if TYPE_CHECKING:
    import pandas as pd

LIKELIHOODS = ("variant", "seed", "pair_id", "response", "goal", "score", "tokens", "logp_policy", "logp_reference")
TRAINING = ("variant", "seed", "step", "metric", "value")
TRAJECTORY = ("variant", "seed", "step", "id", "side", "goal", "logp", "tokens")
MANIFEST: Mapping[str, type | tuple[type, ...]] = {
    "name": str, "created": str, "radpo": str, "git_commit": (str, type(None)), "platform": dict, "packages": dict,
    "models": dict, "data": dict, "seeds": list, "baseline": str, "variants": dict, "notes": list, "stages": list,
    "wall_seconds": (int, float),
}  # fmt: skip
STAGE = ("name", "key", "seconds", "from_store", "peak_mib")


@dataclass(frozen=True)
class Run:
    """A run directory's tables and manifest; the optional tables are None where the run has none."""

    manifest: dict[str, Any]
    matrix: str | None
    results: pd.DataFrame
    examples: pd.DataFrame
    likelihoods: pd.DataFrame | None
    training: pd.DataFrame | None
    trajectory: pd.DataFrame | None

    @property
    def baseline(self) -> str:
        """The variant that the others are compared with."""
        return str(self.manifest["baseline"])

    @property
    def variants(self) -> list[str]:
        """The variants in the matrix's order, then those that only the results know."""
        return list(dict.fromkeys([*map(str, self.manifest["variants"]), *map(str, self.results["variant"])]))


def load_run(run_dir: Path) -> Run:
    """Read a run directory.

    Raises:
        DataError: a file that the report needs is missing or malformed, or a table lacks a column.
    """
    matrix = run_dir / "matrix.yaml"
    return Run(
        manifest=_manifest(run_dir / "manifest.json"),
        matrix=matrix.read_text(encoding="utf-8", errors="replace") if matrix.is_file() else None,
        results=_table(run_dir / "results.parquet", tuple(RESULT_DTYPES)),
        examples=_table(run_dir / "examples.parquet", tuple(EXAMPLE_DTYPES)),
        likelihoods=_optional(run_dir / "likelihoods.parquet", LIKELIHOODS),
        training=_optional(run_dir / "training.parquet", TRAINING),
        trajectory=_optional(run_dir / "trajectory.parquet", TRAJECTORY),
    )


def _manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            f"{path}: cannot be read ({error}), so its folder is no finished run; run the matrix"
        ) from error
    if not isinstance(manifest, dict):
        raise DataError(f"{path}: a manifest is a JSON object, this is {type(manifest).__name__}; run the matrix again")
    for key, kind in MANIFEST.items():
        if key not in manifest:
            raise DataError(f"{path}: key {key} is missing; run the matrix again")
        if not isinstance(manifest[key], kind):
            raise DataError(f"{path}: {key} is {str(manifest[key])[:60]!r}, of the wrong type; run the matrix again")
    for number, stage in enumerate(manifest["stages"]):
        lacking = [key for key in STAGE if not isinstance(stage, dict) or key not in stage]
        if lacking:
            raise DataError(f"{path}: stages[{number}] lacks {', '.join(lacking)}; run the matrix again")
    return manifest


def _table(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    import pandas as pd

    try:
        frame = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}); run the matrix again") from error
    lacking = [column for column in columns if column not in frame.columns]
    if lacking:
        raise DataError(f"{path}: lacks the column(s) {', '.join(lacking)}; run the matrix again")
    return frame.reset_index(drop=True)


def _optional(path: Path, columns: tuple[str, ...]) -> pd.DataFrame | None:
    if not path.exists():
        return None
    frame = _table(path, columns)
    return None if frame.empty else frame
