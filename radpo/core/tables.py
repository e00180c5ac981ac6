"""Tables that people give as files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from radpo.core.errors import DataError

if TYPE_CHECKING:
    import pandas as pd


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
