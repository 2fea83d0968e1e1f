"""Tables of runs read from CSV and parquet files."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import pandas as pd

from analysis.table.decoders import DECODER
from drorae.errors import UserError

_TEXT_COLUMNS = ("config_hash", "status", "variant", "reason", "run_id", DECODER)


def read_table(path: str | Path) -> pd.DataFrame:
    """Reads a CSV or parquet table with one row per run.

    Raises:
        UserError: no such file, neither CSV nor parquet, unreadable, or empty.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected a CSV or parquet table of runs, such as a sweep's trials.csv")
    if path.suffix not in (".csv", ".parquet"):
        raise UserError(f"{path}: expected a name ending in .csv or .parquet")
    try:
        if path.suffix == ".parquet":
            frame = pd.read_parquet(path)
        else:
            _check_csv(path)
            # A hash such as 12345678e901 is a number to pandas unless told otherwise.
            frame = pd.read_csv(path, dtype=dict.fromkeys(_TEXT_COLUMNS, str), encoding="utf-8-sig")
    except (ValueError, OSError) as error:
        what = f"{path}: not readable as a table ({str(error).splitlines()[0]})"
        raise UserError(f"{what}; expected one header line, one row per run") from None
    frame.columns = [str(name).strip() for name in frame.columns]
    if frame.empty:
        raise UserError(f"{path}: the table has no rows; expected one row per run")
    return frame


def _check_csv(path: Path) -> None:
    """Refuses what pandas would read without a word as something else than it is."""
    with path.open(newline="", encoding="utf-8-sig") as stream:
        try:
            rows = csv.reader(stream)
            header = [name.strip() for name in next(rows, [])]
            for row in rows:
                if len(row) > len(header):
                    raise UserError(
                        f"{path}: line {rows.line_num} has {len(row)} cells under {len(header)} column names; "
                        'expected one per column; write a cell with a comma in quotes, as "1,5"'
                    )
        except csv.Error as error:
            raise ValueError(str(error)) from None
    if len(header) == 1 and (";" in header[0] or "\t" in header[0]):
        separated = f"{path}: columns separated by {'semicolons' if ';' in header[0] else 'tabs'}"
        remedy = "expected commas, and points in decimal numbers; save the table as comma-separated"
        raise UserError(f"{separated}; {remedy}")
    twice = [name for name, count in Counter(header).items() if count > 1 and name]
    if twice:
        raise UserError(f"{path}: two columns are called {twice[0]}; expected each name once; rename one of them")
