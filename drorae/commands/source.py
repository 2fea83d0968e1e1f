"""Where the analysing commands read runs from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional

from drorae.commands.options import Column, Folder, JsonOption, Words, assignments, flat, option, require
from drorae.errors import UserError
from drorae.storage.places import tracking_uri

if TYPE_CHECKING:
    import pandas as pd

MLFLOW = "mlflow:"
MLFLOW_RUN = "mlflow-run:"


@dataclass(kw_only=True)
class SourceOptions:
    """Where runs are read from."""

    source: Positional[Annotated[str, option("SOURCE")]]
    """A table or - (one on stdin), a sweep's folder or URL, mlflow:EXPERIMENT, or mlflow-run:ID of its parent run."""
    out: Annotated[Path | None, option("DIR")] = None
    """Folder for the report."""
    tracking_uri: Annotated[str | None, option("URI", "default: $MLFLOW_TRACKING_URI or ROOT/mlflow.db")] = None
    """MLflow store of mlflow:EXPERIMENT."""
    root: Folder = Path("runs")
    """Folder of all sweeps."""
    filter: Annotated[str, option("TEXT")] = ""
    """MLflow's own filter on the runs of an MLflow source, such as "metrics.psnr > 20"."""
    where: Annotated[Words, option("COLUMN=VALUE", "default: all rows")] = ()
    """Rows to keep; several values: COLUMN=VALUE,VALUE; several conditions: all must hold."""
    roles: Annotated[Words, option("ROLE=COLUMN", "default: a sweep's names")] = ()
    """What a foreign table's columns are: id, seed, n (evaluation images), status, variant, reason."""
    units: Annotated[Words, option("COLUMN=UNIT", "default: plain numbers")] = ()
    """Units that columns stand in: K, M, G or %."""
    mix_decoders: bool = False
    """Let one law go through runs of different phase-1 decoders."""
    configuration: Annotated[Words, option("COLUMN", "default: the fields of drorae's config")] = ()
    """Further columns that tell configurations apart, such as lr schedule; runs that agree in all differ in seed."""
    best_of: Annotated[Words, option("COLUMN", "default: none")] = ()
    """Settings, such as lr, of which the best run at every size and seed is taken."""
    better: Annotated[Literal["lower", "higher"] | None, option(hint="default: by the metric's name")] = None
    """Which direction of the metric is better."""

    @property
    def experiment(self) -> str | None:
        """The experiment of an MLflow source."""
        return self.source.removeprefix(MLFLOW) if self.source.startswith(MLFLOW) else None

    def uri(self) -> str:
        """Returns the MLflow store to read."""
        return tracking_uri(self.root, self.tracking_uri)

    def read(self) -> pd.DataFrame:
        """Returns the table of runs.

        Raises:
            UserError: nothing readable there.
        """
        from analysis.table.columns import arrange
        from analysis.table.files import read_table
        from analysis.table.mlflow import read_mlflow

        if self.experiment is not None:
            frame = read_mlflow(self.uri(), self.experiment, filter_string=self.filter)
        elif self.source.startswith(MLFLOW_RUN):
            frame = read_mlflow(self.uri(), parent_run=self.source.removeprefix(MLFLOW_RUN), filter_string=self.filter)
        elif self.filter:
            raise UserError(f"--filter: {self.source} is no MLflow source; narrow a table with --where COLUMN=VALUE")
        else:
            frame = read_table(self._table())
        roles, units = _columns("--roles", self.roles), _columns("--units", self.units)
        return arrange(
            frame, flat(self.where), roles, units, self.mix_decoders, flat(self.configuration), flat(self.best_of),
            self.better,
        )  # fmt: skip

    def _table(self) -> Path:
        from analysis.table.files import STDIN
        from sweeps.folder.mirror import local_copy
        from sweeps.folder.sweep import TABLE

        if self.source == STDIN:
            return Path(STDIN)
        path = local_copy(self.source, (TABLE,))
        if not path.is_dir():
            return path
        if not (path / TABLE).is_file():
            raise UserError(f"{self.source}: no trials.csv here; expected the folder of a sweep")
        return path / TABLE


def _columns(flag: str, groups: Sequence[Sequence[str]]) -> dict[str, str]:
    """Returns an option's NAME=VALUE words, each name given once and none without a value."""
    found: dict[str, str] = {}
    for name, value in assignments(flag, groups, "; see --help"):
        require(bool(value), f"{flag} {name}=", "NAME=VALUE; see --help")
        if name in found:
            raise UserError(f"{flag} {name}: given twice; give it once")
        found[name] = value
    return found


@dataclass(kw_only=True)
class SizeOptions(SourceOptions, JsonOption):
    """What a metric is related to."""

    x: Column = "params"
    """Size: params, capacity, layers or a column."""
    other: Annotated[Words, option("SOURCE", "repeatable", "with")] = ()
    """Further sources of runs: tables, sweeps' folders or mlflow:EXPERIMENT. A trial that several have counts once,
    unless sources are what is compared."""

    def read_all(self, columns: Sequence[str], apart: bool = False) -> pd.DataFrame:
        """Returns the runs of all sources, joined where there are several.

        Args:
            columns: what is asked of them; every source has to have them.
            apart: whether sources are designs of their own, so that a run of one is no copy of a like one of another.

        Raises:
            UserError: a source is given twice or holds nothing readable.
        """
        from analysis.table.join import join_tables

        sources = [self.source, *flat(self.other)]
        if len(sources) == 1:
            return self.read()
        if len(set(sources)) < len(sources):
            raise UserError(f"--with {sources[-1]}: given twice; expected sources that differ")
        short = [Path(source.rstrip("/")).stem for source in sources]
        names = short if len(set(short)) == len(short) else sources
        tables = {name: replace(self, source=source).read() for name, source in zip(names, sources, strict=True)}
        return join_tables(tables, columns, apart)


@dataclass(kw_only=True)
class FigureOptions:
    """How figures are drawn."""

    style: Literal["screen", "paper"] = "screen"
    """Figures for a screen, or as wide as a paper's column (3.25 inches)."""
