"""Length-controlled win rates: alpaca-eval's own GLM figures.

The win rate that a logistic regression predicts were both answers equally long (Dubois et al. 2024, arXiv 2404.04475).
The official GLM also knows how hard each of AlpacaEval's 805 instructions is, from df_gamed.csv on the Hub. For other
instructions, and without that file, there is radpo's own estimate from length alone, by this model's annotations. The
two differ by whole points, so they go by different names throughout.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from radpo.core.errors import DataError
from radpo.core.files import sha256
from radpo.core.quiet import quiet_package
from radpo.stats.equal_length import rate_at_equal_length

if TYPE_CHECKING:
    import pandas as pd

# The official GLM knows an instruction by its place alone: other instructions would silently get the difficulty of
# strangers. alpaca_instructions.txt holds the first 12 digits of every instruction's SHA-256, in order.
INSTRUCTIONS = 805
AT_LEAST = 790
"""With fewer of them the figure could not stand beside a leaderboard's, where the least complete row has 802."""
OFFICIAL_SHA256 = {
    "df_gamed.csv": "97aeec3f1c7de6dee6fd31fe66f1702623f4614c3efe1c6fc5f4927cd5fd674d",
    "instruction_difficulty.csv": "e28d875bb334f75e17acd1e4ed659b261860e3db379cf5de29060301bed0a18b",
}
GAMED = "df_gamed.csv"
"""What the official length-controlled win rate needs to know of the 805 instructions."""
ESTIMATE = "df_gamed_reconstructed.csv"
HUB = "tatsu-lab/alpaca_eval"


@dataclass(frozen=True)
class LengthControlled:
    """A length-controlled win rate in percent and its standard error, None where `note` says why there is none."""

    winrate: float | None
    standard_error: float | None
    note: str | None


@dataclass(frozen=True)
class EqualLength:
    """A win rate at equal length in percent, its standard error and 95% interval; None where `note` says why."""

    winrate: float | None
    standard_error: float | None
    low: float | None
    high: float | None
    note: str | None


@dataclass(frozen=True)
class Reference:
    """A reference file of the official GLM: where it is, and whether its content is the official one."""

    path: Path
    official: bool


def length_controlled(
    annotations: pd.DataFrame, reference_dir: Path | None, *, search_hub: bool = True
) -> LengthControlled:
    """The official length-controlled win rate (`length_controlled_v1`), computed by alpaca-eval itself.

    Args:
        annotations: as `radpo.benchmarks.alpaca_eval.load_annotations` gives; some of the 805 instructions may be
            missing, as they are for a few models of the leaderboard.
        reference_dir: df_gamed.csv or an estimate of it, or a folder that has it, the estimate under the name
            df_gamed_reconstructed.csv; None looks for the official file in the Hub's cache and then on the Hub.
        search_hub: whether it does so.

    Raises:
        DataError: the folder has no such file.
    """
    reason = _unsuited_reason(annotations)
    reference = None
    if reason is None:
        if search_hub or reference_dir is not None:
            reference = find_reference(GAMED, reference_dir)
        if reference is None:
            reason = (
                f"because df_gamed.csv (from {HUB} on the Hub) is neither given, nor in the Hub's cache, nor available"
            )
    if reason is not None or reference is None:
        return LengthControlled(None, None, f"alpaca-eval: the length-controlled win rate was not computed, {reason}.")
    notes = [] if reference.official else [_estimate_note(reference)]
    missing = INSTRUCTIONS - len(annotations)
    if missing:
        notes.append(
            f"alpaca-eval: {missing} of the {INSTRUCTIONS} instructions are missing; the length-controlled win rate "
            "takes an instruction's difficulty from its row, as the package and its leaderboard do."
        )
    return _fit(annotations, reference.path, "length_controlled_v1", notes)


def at_equal_length(annotations: pd.DataFrame) -> EqualLength:
    """The win rate at equal length, for any instructions and with no reference file; see `radpo.stats.equal_length`.

    No substitute for the official figure, which knows how hard each of its 805 instructions is. alpaca-eval's own GLM
    for other instructions (`length_controlled_minimal`) is none either: its L1 penalty, with a strength from
    cross-validation, sets both coefficients to 0 in a quarter of the samples where length has no effect, so that it
    says 50%, and its standard error is then 0.
    """
    import numpy as np

    first, second = lengths(annotations, 1), lengths(annotations, 2)
    if first is None or second is None:
        return EqualLength(None, None, None, None, None)
    judged = annotations["preference"].notna()
    preference = annotations.loc[judged, "preference"].to_numpy(dtype=float)
    wins = np.where(preference == 0, 0.5, preference - 1)
    try:
        found = rate_at_equal_length(wins, (second - first)[judged].to_numpy(dtype=float), rng=np.random.default_rng(0))
    except DataError as error:
        note = f"alpaca-eval: the win rate at equal length was not estimated, because {error}."
        return EqualLength(None, None, None, None, note)
    rate = 100 * found.value
    stderr, low, high = (None if end is None else 100 * end for end in (found.stderr, found.low, found.high))
    note = (
        f"alpaca-eval: the win rate at equal length is {rate:.1f}% (95% bootstrap interval over instructions "
        f"{low:.1f} to {high:.1f}). It is radpo's own estimate and stands beside no leaderboard's."
    )
    return EqualLength(rate, stderr, low, high, note)


def from_weights(weights: Path, model: str, baseline: str, reference_dir: Path | None) -> LengthControlled:
    """The length-controlled win rate that published GLM weights give, by alpaca-eval's own prediction.

    Args:
        weights: the package's table of weights (length_controlled_v1/baseline_*.csv), a row a model.
        reference_dir: a folder with instruction_difficulty.csv or instruction_difficulty_reconstructed.csv; None as in
            `length_controlled`.

    Returns:
        The rate with a note where the difficulties are estimates; weights come with no standard error.

    Raises:
        DataError: the table has no such model, or the difficulties are unavailable.
    """
    import pandas as pd

    reference = find_reference("instruction_difficulty.csv", reference_dir)
    if reference is None:
        raise DataError(
            f"instruction_difficulty.csv (from {HUB} on the Hub) is neither in the Hub's cache nor available; "
            "give a folder that holds it"
        )
    try:
        table = pd.read_csv(weights, index_col=0)
    except (OSError, ValueError) as error:
        raise DataError(f"{weights}: cannot be read as a table of GLM weights: {error}") from error
    wanted = {"instruction_difficulty", "not_gamed_baseline.astype(float)"}
    if not wanted <= set(table.columns):
        raise DataError(f"{weights}: a table of GLM weights has the columns {', '.join(sorted(wanted))}")
    for name in (model, baseline):
        if name not in table.index:
            raise DataError(f"{weights}: no weights of {name!r} in it")
        if (table.index == name).sum() > 1:
            raise DataError(f"{weights}: several weights of {name!r} in it; keep one row")
    with quiet_package():
        from alpaca_eval.metrics import glm_winrate
    with quiet_package(), _local_lookup(glm_winrate, reference.path):
        share = float(glm_winrate.predict_winrate(model, baseline, weights=table))
    note = None if reference.official else _estimate_note(reference)
    return LengthControlled(100 * share, None, note)


def is_official(instructions: Sequence[str]) -> bool:
    """Whether these are AlpacaEval's own instructions in their order, and enough of them for the official figure."""
    official = _instruction_hashes()
    return AT_LEAST <= len(instructions) <= INSTRUCTIONS and all(
        _instruction_hash(text) == official[place] for place, text in enumerate(instructions)
    )


def find_reference(name: str, folder: Path | None, *, cached: bool = False) -> Reference | None:
    """A reference file by its official name: in the folder (there an estimate will do), else in the Hub's cache or Hub.

    Args:
        folder: may be the file itself.
        cached: look in the Hub's cache alone.

    Raises:
        DataError: a folder is given and holds neither the file nor an estimate of it.
    """
    if folder is not None and folder.is_file():
        return Reference(folder, sha256(folder) == OFFICIAL_SHA256[name])
    if folder is not None:
        for candidate in (folder / name, folder / name.replace(".csv", "_reconstructed.csv")):
            if candidate.is_file():
                return Reference(candidate, sha256(candidate) == OFFICIAL_SHA256[name])
        raise DataError(f"{folder}: no {name} there; fetch it from the data set {HUB} on the Hub")
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        found = Path(hf_hub_download(HUB, name, repo_type="dataset", etag_timeout=5, local_files_only=cached))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError):
        return None
    return Reference(found, sha256(found) == OFFICIAL_SHA256[name])


def lengths(annotations: pd.DataFrame, side: int) -> pd.Series[int] | None:
    """The outputs' lengths in characters, None where the annotations have neither outputs nor lengths."""
    if f"output_{side}" in annotations.columns:
        return annotations[f"output_{side}"].str.len()
    if f"len_{side}" in annotations.columns:
        return annotations[f"len_{side}"]
    return None


def _fit(annotations: pd.DataFrame, gamed: Path, glm: str, notes: list[str]) -> LengthControlled:
    import sklearn

    with quiet_package():
        from alpaca_eval.metrics import glm_winrate

    first, second = lengths(annotations, 1), lengths(annotations, 2)
    assert first is not None
    assert second is not None
    # The package reads only the outputs' lengths, so texts of the right length stand in where lengths are all there is.
    frame = annotations[["index", "instruction", "preference", "generator_1", "generator_2"]].assign(
        output_1=["x" * length for length in first], output_2=["x" * length for length in second], annotator="any"
    )
    # alpaca-eval's own files have no index: it takes every row's number for one, also where rows are missing before it.
    frame = frame.sort_values("index").assign(index=range(len(frame))).reset_index(drop=True)
    with quiet_package(), sklearn.config_context(), _local_lookup(glm_winrate, gamed):
        metrics = glm_winrate.get_length_controlled_winrate(
            frame, glm_name=glm, save_weights_dir=None, is_warn_extreme_changes=False
        )
    rate, plain = float(metrics["length_controlled_winrate"]), float(metrics["win_rate"])
    if glm_winrate.get_is_extreme_changes(plain, rate):
        notes = [
            *notes,
            "alpaca-eval: the length-controlled win rate "
            f"({rate:.1f}%) is far from the plain one ({plain:.1f}%), which may mean that its regression failed.",
        ]
    error = float(metrics["lc_standard_error"])
    return LengthControlled(rate, None if math.isnan(error) else error, " ".join(notes) or None)


def _unsuited_reason(annotations: pd.DataFrame) -> str | None:
    official = _instruction_hashes()
    places = annotations["index"]
    known = (
        places.is_unique
        and places.between(0, INSTRUCTIONS - 1).all()
        and all(
            _instruction_hash(str(text)) == official[place]
            for place, text in zip(places, annotations["instruction"], strict=True)
        )
    )
    if not known:
        return f"because it is defined for AlpacaEval's own {INSTRUCTIONS} instructions, and some of these are others"
    if len(annotations) < AT_LEAST:
        return (
            f"because it is defined for AlpacaEval's own {INSTRUCTIONS} instructions, and here are {len(annotations)}"
        )
    if lengths(annotations, 1) is None or lengths(annotations, 2) is None:
        return "because the annotations have neither both outputs nor their lengths"
    if not {"generator_1", "generator_2"} <= set(annotations.columns):
        return "because the annotations do not name generator_1 and generator_2"
    return None


def _estimate_note(reference: Reference) -> str:
    name = reference.path.name
    return f"alpaca-eval: the length-controlled win rate is an estimate, because {name} is not the official file."


def _instruction_hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]


@cache
def _instruction_hashes() -> list[str]:
    return files("radpo.benchmarks").joinpath("alpaca_instructions.txt").read_text(encoding="ascii").split()


@contextmanager
def _local_lookup(module: Any, reference: Path) -> Iterator[None]:
    """Have the package's look-up of a file on the Hub find the local one, for as long as the block runs."""
    original = module.hf_hub_download
    module.hf_hub_download = lambda **_: str(reference)
    try:
        yield
    finally:
        module.hf_hub_download = original
