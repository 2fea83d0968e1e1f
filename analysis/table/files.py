"""Tables of runs read from files and standard input: CSV and its kin, JSON lines, parquet, xlsx."""

from __future__ import annotations

import csv
import gzip
import importlib
import io
import re
import sys
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from analysis.table.decoders import DECODER
from analysis.table.influences import FOLDER
from analysis.table.trackers import adopt, is_identity
from drorae.errors import UserError

STDIN = "-"
"""Stands for standard input."""

_KINDS = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet", ".xlsx")
_TEXT_COLUMNS = ("config_hash", "status", "variant", "reason", "run_id", DECODER)
_SEPARATORS = (",", "\t", ";")


def read_table(path: str | Path) -> pd.DataFrame:
    """Reads a table with one row per run: CSV, TSV, JSON lines, parquet or xlsx, also with .gz, or "-", the input.

    Text is UTF-8, UTF-16 or, where it is neither, Latin-1 as Windows has it; lines that begin with # are comments, and
    a first line sep=; names the separator. What standard input holds is told by its content.

    Raises:
        UserError: no such file, of no such kind, unreadable, or empty.
    """
    content, kind = _content(path)
    try:
        frame = _parse(content, kind, str(path))
    except (ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        what = f"{path}: not readable as a table ({(str(error).splitlines() or ['empty'])[0]})"
        raise UserError(f"{what}; expected one header line, one row per run") from None
    except ImportError as error:
        reader = error.name or "openpyxl"
        raise UserError(f"{path}: reading {kind} needs {reader}; pip install {reader}, or save it as CSV") from None
    frame.columns = [str(name).strip() for name in frame.columns]
    if frame.empty:
        raise UserError(f"{path}: the table has no rows; expected one row per run")
    if str(path) != STDIN:
        frame.attrs[FOLDER] = str(Path(path).parent)
    return adopt(frame)


def _content(path: str | Path) -> tuple[bytes, str]:
    """A table's bytes, unzipped, and its kind by the name or, of standard input, by its first bytes."""
    path = Path(path)
    if str(path) == STDIN:
        content, kind = sys.stdin.buffer.read(), ""
    elif not path.is_file():
        raise UserError(f"{path}: no such file; expected a CSV or parquet table of runs, such as a sweep's trials.csv")
    else:
        kind = Path(path.name.removesuffix(".gz")).suffix.lower()
        if kind not in _KINDS:
            raise UserError(f"{path}: expected a name ending in {', '.join(_KINDS)}, or one of them and .gz")
        try:
            content = path.read_bytes()
        except OSError as error:
            raise UserError(f"{path}: not readable ({error.strerror}); expected a table of runs") from None
    if content.startswith(b"\x1f\x8b"):
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise UserError(f"{path}: not readable as gzip ({error}); expected a whole file; copy it again") from None
    return content, kind or _kind(content)


def _kind(content: bytes) -> str:
    starts = ((b"PAR1", ".parquet"), (b"PK\x03\x04", ".xlsx"), (b"{", ".jsonl"))
    return next((kind for start, kind in starts if content.lstrip().startswith(start)), ".csv")


def _parse(content: bytes, kind: str, name: str) -> pd.DataFrame:
    if kind == ".parquet":
        return pd.read_parquet(io.BytesIO(content))
    if kind == ".xlsx":
        importlib.import_module("openpyxl")
        return pd.read_excel(io.BytesIO(content), engine="openpyxl")
    text = _decode(content)
    if kind in (".jsonl", ".ndjson"):
        return pd.read_json(io.StringIO(text), lines=True, dtype=False, convert_dates=False)
    lines, separator = _lines(text, kind)
    header = _check(lines, separator, name)
    # A hash such as 12345678e901 is a number to pandas unless told otherwise.
    as_text = [column for column in header if column.strip() in _TEXT_COLUMNS or is_identity(column.strip())]
    return pd.read_csv(io.StringIO("".join(lines)), sep=separator, dtype=dict.fromkeys(as_text, str))


def _decode(content: bytes) -> str:
    """Text in the encoding that its mark or its bytes tell."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16")
    if b"\x00" in content[:200]:
        # Half of the bytes of plain UTF-16 are zero: the odd ones where the little end comes first.
        return content.decode("utf-16-le" if content[1:2] == b"\x00" else "utf-16-be")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252")


def _lines(text: str, kind: str) -> tuple[list[str], str]:
    """The lines of a table without comments, and its separator. Comments become empty lines, so that lines count."""
    lines, separator, quoted = text.splitlines(keepends=True), "", False
    for i, line in enumerate(lines):
        bare = line.strip()
        if not quoted and not separator and bare.lower().startswith("sep=") and len(bare) == 5:
            separator, lines[i] = bare[4], "\n"
        elif not quoted and bare.startswith("#"):
            lines[i] = "\n"
        else:
            quoted ^= line.count('"') % 2 == 1
    first = next((line for line in lines if line.strip()), "")
    most = max(_SEPARATORS, key=first.count)
    return lines, separator or ("\t" if kind == ".tsv" else most if most in first else ",")


def _check(lines: list[str], separator: str, name: str) -> list[str]:
    """Returns the header, and refuses what pandas would read without a word as something else than it is."""
    try:
        rows = csv.reader(iter(lines), delimiter=separator)
        filled: Iterator[list[str]] = (row for row in rows if row)
        header = [cell.strip() for cell in next(filled, [])]
        for row in filled:
            if len(row) > len(header):
                raise UserError(
                    f"{name}: line {rows.line_num} has {len(row)} cells under {len(header)} column names; "
                    'expected one per column; write a cell with a comma in quotes, as "1,5"'
                )
    except csv.Error as error:
        raise ValueError(str(error)) from None
    if header and all(re.fullmatch(r"[+-]?[\d.]+(e[+-]?\d+)?", cell) for cell in header):
        raise UserError(f"{name}: the first line holds numbers; expected the columns' names there, not in a comment")
    twice = [cell for cell, count in Counter(header).items() if count > 1 and cell]
    if twice:
        raise UserError(f"{name}: two columns are called {twice[0]}; expected each name once; rename one of them")
    return header
