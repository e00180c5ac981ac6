"""Tables that people give as files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from radpo.core.errors import DataError

if TYPE_CHECKING:
    import pandas as pd


FORMULA = re.compile(r"(?=[=+\-@\t\r])(?![+-]?[0-9.]+(?:e[+-]?[0-9]+)?$)", re.IGNORECASE)
"""How a text begins that a spreadsheet would take for a formula and run; numbers are none."""


def spreadsheet_safe(frame: pd.DataFrame) -> pd.DataFrame:
    """A table for a CSV file: texts that a spreadsheet would run, in names of columns too, get a leading apostrophe."""

    def guarded(value: Any) -> Any:
        return f"'{value}" if isinstance(value, str) and FORMULA.match(value) else value

    numeric = frame.select_dtypes(include=["number", "bool", "datetime"]).columns
    safe = frame.assign(**{name: frame[name].map(guarded) for name in frame.columns if name not in numeric})
    return safe.rename(columns=guarded)


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
