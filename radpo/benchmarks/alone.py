"""What the analyze commands measure by themselves, kept in a folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from radpo.core.errors import DataError
from radpo.core.progress import Progress
from radpo.models.samples import SampleConfig
from radpo.preferences.goals import Scale

if TYPE_CHECKING:
    import pandas as pd

    from radpo.preferences.streamed import StreamedPairs


def read_table(path: Path) -> pd.DataFrame:
    """A .parquet or .csv file.

    Raises:
        DataError: it is neither, or cannot be read.
    """
    import pandas as pd

    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        if path.suffix == ".csv":
            return pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    raise DataError(f"{path}: a table is a .parquet or .csv file")


@contextmanager
def kept_in(out: Path | None) -> Iterator[Path]:
    """The folder to keep measurements in; one that vanishes where nobody wants them kept."""
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        yield out
        return
    with TemporaryDirectory() as temporary:
        yield Path(temporary)


def measure_pairs(
    pairs: StreamedPairs,
    policy: str,
    reference: str,
    folder: Path,
    *,
    scale: Scale,
    max_length: int,
    progress: tuple[Progress, Progress],
) -> pd.DataFrame:
    """Log-likelihoods of scored pairs under both models, side by side (`likelihoods.parquet` in the folder).

    Args:
        progress: told of the reference's work, and of the policy's.
    """
    from radpo.models.heldout import side_by_side, write_heldout
    from radpo.models.loading import model_fingerprint, resolve_model

    written = []
    for name, model, told in zip(("reference", "policy"), (reference, policy), progress, strict=True):
        file = write_heldout(
            resolve_model(model),
            pairs,
            folder / f"{name}.parquet",
            total=pairs.total,
            scale=scale,
            max_length=max_length,
            precision="float32",
            made_by=f"{model_fingerprint(model)} {pairs.content}",
            progress=told,
        )
        written.append(file)
    frame = side_by_side(policy=written[1], reference=written[0])
    frame.to_parquet(folder / "likelihoods.parquet", index=False)
    return frame


def measure_ches(
    pairs: StreamedPairs, reference: str, folder: Path, *, max_length: int, progress: Progress
) -> pd.DataFrame:
    """CHES scores of scored pairs under the model that training starts from (`ches.parquet` in the folder)."""
    import pandas as pd

    from radpo.models.ches import write_ches
    from radpo.models.loading import model_fingerprint, resolve_model

    written = write_ches(
        resolve_model(reference),
        pairs,
        folder / "ches.parquet",
        total=pairs.total,
        max_length=max_length,
        made_by=f"{model_fingerprint(reference)} {pairs.content}",
        progress=progress,
    )
    return pd.read_parquet(written)


def sample_and_score(
    questions: Path,
    policy: str,
    reference: str | None,
    drawing: SampleConfig,
    folder: Path,
    *,
    progress: tuple[Progress, Progress],
) -> pd.DataFrame:
    """Samples of the policy (`samples.parquet` in the folder), scored by the verifier.

    Args:
        progress: told of the sampling, and of the scoring.
    """
    import pandas as pd

    from radpo.judges.samples import with_scores
    from radpo.judges.verifier import Verifier
    from radpo.models.loading import model_fingerprint, resolve_model
    from radpo.models.samples import write_samples
    from radpo.preferences.questions import load_questions

    asked = load_questions(questions)
    identity = [model_fingerprint(policy), reference and model_fingerprint(reference), repr(asked)]
    written = write_samples(
        resolve_model(policy),
        None if reference is None else resolve_model(reference),
        asked,
        folder / "samples.parquet",
        drawing,
        made_by=" ".join(map(str, identity)),
        progress=progress[0],
    )
    return with_scores(pd.read_parquet(written), asked, Verifier(), progress[1])
