"""The record of registered predictions: found beside a sweep or on its tracking server, and scored as runs come in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drorae.commands.options import flat
from drorae.commands.source import MLFLOW, SourceOptions
from drorae.commands.terminal import say
from drorae.errors import UserError
from drorae.storage.files import file_name

if TYPE_CHECKING:
    import pandas as pd

    from analysis.inference.record import Entry, Record
    from analysis.report.mlflow import Kept

TABLE_OPTIONS = ("roles", "units", "configuration", "best_of")
"""Options of a table, several words each, that a prediction is scored with as it was registered."""
_SINGLE = ("better", "mix_decoders")

_REGISTERS = "prediction-*.json"

RECORD = "predictions.json"
"""The record in a report's folder."""


def register_name(record: Mapping[str, Any]) -> str:
    """Returns the name of the file that keeps a prediction in a folder."""
    stem = _REGISTERS.removesuffix("*.json")
    runs = f"-{record['seeds']:g}-runs" if record["seeds"] > 1 else ""
    return f"{stem}{file_name(str(record['y']))}-{record['at']:g}{runs}-{record['data_sha256'][:8]}.json"


def origin_of(options: SourceOptions) -> dict[str, Any]:
    """Returns where a prediction's runs come from and how they were read, as plain values."""
    from drorae import __version__

    how = {name: flat(getattr(options, name)) for name in TABLE_OPTIONS}
    how |= {name: getattr(options, name) for name in _SINGLE}
    where = flat(options.where)
    return {"source": options.source, "filter": options.filter, "where": where, "drorae": __version__, "options": how}


def as_registered(options: SourceOptions, record: Mapping[str, Any]) -> SourceOptions:
    """Returns options that read runs as a record's were: its filter and conditions, and its options of the table.

    Options of a table that are given stay.
    """
    origin = record.get("origin") or {}
    if not origin:
        return options
    where, how = origin.get("where", []), origin.get("options", {})
    changes: dict[str, Any] = {"where": (tuple(where),) if where else (), "filter": str(origin.get("filter", ""))}
    for name in TABLE_OPTIONS:
        if how.get(name) and not getattr(options, name):
            changes[name] = (tuple(how[name]),)
    for name in _SINGLE:
        if how.get(name) and not getattr(options, name):
            changes[name] = how[name]
    return replace(options, **changes)


@dataclass
class _Reader:
    """Reads each table once, however many predictions are of it."""

    options: SourceOptions

    def __post_init__(self) -> None:
        self._tables: dict[str, pd.DataFrame | UserError] = {}

    def judge(self, place: str, sweep: str, record: Mapping[str, Any], source: str, since: str = "") -> Entry:
        """Returns a record as the runs of a source score it.

        Args:
            place: of the record.
            sweep: that it was registered for.
            record: the prediction.
            source: where runs are looked for.
            since: MLflow's condition on runs of a sweep other than that, which have to say all that the record does.
        """
        from analysis.inference.record import judged, unscored
        from analysis.table.selection import select

        try:
            chosen = as_registered(replace(self.options, source=source), record)
            condition = " and ".join(filter(None, (chosen.filter, since)))
            frame = self._read(replace(chosen, filter=condition))
            selection = select(frame, str(record["x"]), str(record["y"]))
            return judged(place, sweep, record, selection, strict=bool(since))
        except UserError as error:
            return unscored(place, sweep, record, error)

    def _read(self, options: SourceOptions) -> pd.DataFrame:
        key = repr(options)
        if key not in self._tables:
            try:
                self._tables[key] = options.read()
            except UserError as error:
                self._tables[key] = error
        found = self._tables[key]
        if isinstance(found, UserError):
            raise found
        return found


def record_of(options: SourceOptions, place: Path | None, registers: Sequence[Path] = ()) -> Record:
    """Returns the record of the predictions that were registered for a source.

    They are in files beside it and in folders next below, in `registers`, and in the MLflow experiment that the source
    is or that a sweep's folder in --root has. Then all others of that store are scored beside them. A store that does
    not answer is a note where the source is not in it.

    Args:
        options: the source.
        place: the sweep's folder or the table's file; None of a source that has none.
        registers: further folders with registered predictions.

    Raises:
        UserError: a folder of registers that is not there, or a store that does not answer.
    """
    from analysis.inference.record import Record

    reader = _Reader(options)
    name = options.experiment or (options.source if place is None else place.name)
    own = [_of_file(reader, path, name) for path in _files(place, registers)]
    try:
        everywhere = _of_store(reader, place)
    except UserError as error:
        if options.experiment is not None:
            raise
        say(f"note: predictions registered in MLflow are not in the record: {error}")
        everywhere = []
    mine = [entry for entry in everywhere if entry.sweep == name]
    return Record((*own, *mine), (*own, *everywhere) if everywhere else ())


def _of_store(reader: _Reader, place: Path | None) -> list[Entry]:
    """Returns the predictions of the store that the source, or its sweep, is in; none where it is in none."""
    from analysis.table.mlflow import keeps_predictions

    options = reader.options
    if options.experiment is None:
        of_root = place is not None and place.is_dir() and place.resolve().parent == Path(options.root).resolve()
        if not of_root or not keeps_predictions(options.uri()):
            return []
    from analysis.report.mlflow import read_predictions

    kept, experiments = read_predictions(options.uri())
    return [_of_run(reader, item, experiments) for item in kept]


def _files(place: Path | None, registers: Sequence[Path]) -> list[Path]:
    """Returns the files of registered predictions, of a table beside its file those alone that were made from it."""
    for path in registers:
        if not path.is_dir():
            raise UserError(f"{path}: no such folder; expected one that predict --register --out wrote to")
    found = {path.resolve(): path for base in registers for path in base.glob(_REGISTERS)}
    if place is not None:
        base = place if place.is_dir() else place.parent
        near = [path for pattern in (_REGISTERS, f"*/{_REGISTERS}") for path in base.glob(pattern)]
        found |= {path.resolve(): path for path in near if place.is_dir() or _made_from(path, place)}
    return sorted(found.values(), key=lambda path: (path.stat().st_mtime, path))


def _made_from(path: Path, table: Path) -> bool:
    from analysis.inference.record import load

    try:
        source = load(path).get("origin", {}).get("source", "")
    except UserError:
        return False
    return Path(str(source)).name == table.name


def _of_file(reader: _Reader, path: Path, sweep: str) -> Entry:
    from analysis.inference.record import load, unscored

    try:
        record = load(path)
    except UserError as error:
        return unscored(str(path), sweep, {}, error)
    return reader.judge(str(path), sweep, record, reader.options.source)


def _of_run(reader: _Reader, kept: Kept, experiments: Sequence[str]) -> Entry:
    """Returns a prediction as its own experiment scores it, else another one's newer runs of the very same kind."""
    from analysis.inference.record import checked, unscored

    experiment, run_id, record = kept
    try:
        checked(run_id, record)
    except UserError as error:
        return unscored(run_id, experiment, record, error)
    own = reader.judge(run_id, experiment, record, MLFLOW + experiment)
    if own.score is not None or not own.awaited or not any("." in name for name in record.get("of", {})):
        return own
    # The date is cut to its second.
    start = 1000 * (datetime.fromisoformat(record["date"]).timestamp() + 1)
    for other in experiments:
        if other != experiment:
            found = reader.judge(run_id, experiment, record, MLFLOW + other, f"attributes.start_time > {start:.0f}")
            if found.score is not None:
                return found
    return own
