"""`drorae fit` and `drorae report`: laws from tables of runs that are already there."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from drorae.commands.options import Listed, command_anywhere, flat, print_json, say, show, working
from drorae.errors import UserError
from drorae.storage.places import default_tracking_uri
from drorae.storage.remote import Remote, locate

if TYPE_CHECKING:
    import pandas as pd

MLFLOW = "mlflow:"
MLFLOW_RUN = "mlflow-run:"


@dataclass(kw_only=True)
class SourceOptions:
    """Where runs are read from."""

    source: Positional[Annotated[str, arg(metavar="SOURCE")]]
    """A .csv or .parquet table, a sweep's folder or URL, mlflow:EXPERIMENT, or mlflow-run:ID of its parent run."""
    out: Annotated[Path | None, arg(metavar="DIR")] = None
    """Folder for the report."""
    tracking_uri: Annotated[
        str | None, arg(metavar="URI", help_behavior_hint="(default: $MLFLOW_TRACKING_URI or ROOT/mlflow.db)")
    ] = None
    """MLflow store of mlflow:EXPERIMENT."""
    root: Annotated[Path, arg(metavar="DIR")] = Path("runs")
    """Folder of all sweeps."""
    filter: Annotated[str, arg(metavar="TEXT")] = ""
    """MLflow's own filter on the runs of an MLflow source, such as "metrics.psnr > 20"."""
    where: Annotated[Listed, arg(metavar="COLUMN=VALUE", help_behavior_hint="(default: all rows)")] = field(
        default_factory=list
    )
    """Rows to keep; several values: COLUMN=VALUE,VALUE; several conditions: all must hold."""
    roles: Annotated[Listed, arg(metavar="ROLE=COLUMN", help_behavior_hint="(default: a sweep's names)")] = field(
        default_factory=list
    )
    """What a foreign table's columns are: id, seed, n (evaluation images), status, variant, reason."""
    units: Annotated[Listed, arg(metavar="COLUMN=UNIT", help_behavior_hint="(default: plain numbers)")] = field(
        default_factory=list
    )
    """Units that columns stand in: K, M, G or %."""
    mix_decoders: bool = False
    """Let one law go through runs of different phase-1 decoders."""

    @property
    def experiment(self) -> str | None:
        """The experiment of an MLflow source."""
        return self.source.removeprefix(MLFLOW) if self.source.startswith(MLFLOW) else None

    def uri(self) -> str:
        """The MLflow store to read."""
        return self.tracking_uri or default_tracking_uri(self.root)

    def read(self) -> pd.DataFrame:
        """The table of runs.

        Raises:
            UserError: nothing readable there.
        """
        from analysis.table.columns import arrange
        from analysis.table.files import read_table
        from analysis.table.mlflow import read_mlflow
        from sweeps.folder.mirror import brought

        if self.experiment is not None:
            frame = read_mlflow(self.uri(), self.experiment, filter_string=self.filter)
        elif self.source.startswith(MLFLOW_RUN):
            frame = read_mlflow(self.uri(), parent_run=self.source.removeprefix(MLFLOW_RUN), filter_string=self.filter)
        elif self.filter:
            raise UserError(f"--filter: {self.source} is no MLflow source; narrow a table with --where COLUMN=VALUE")
        else:
            path = brought(self.source, ("trials.csv",))
            if path.is_dir():
                path = path / "trials.csv"
                if not path.is_file():
                    raise UserError(f"{self.source}: no trials.csv here; expected the folder of a sweep")
            frame = read_table(path)
        roles, units = pairs("--roles", self.roles), pairs("--units", self.units)
        return arrange(frame, flat(self.where), roles, units, self.mix_decoders)


def pairs(option: str, given: list[list[str]]) -> dict[str, str]:
    """An option's NAME=VALUE arguments.

    Raises:
        UserError: not NAME=VALUE, or a name given twice.
    """
    found: dict[str, str] = {}
    for text in flat(given):
        name, equals, value = text.partition("=")
        if not equals or not name or not value:
            raise UserError(f"{option} {text}: expected NAME=VALUE; see --help")
        if name in found:
            raise UserError(f"{option} {name}: given twice; give it once")
        found[name] = value
    return found


@dataclass(kw_only=True)
class Fit(SourceOptions):
    """Fit a law to finished runs: metric against log10(size) or size, with its intervals.

    Example: drorae fit results/paper/capacity.csv --x params --y rfid --json
    """

    x: Annotated[str, arg(metavar="COLUMN")] = "params"
    """Size: params, capacity, layers or a column."""
    second: Annotated[str | None, arg(name="and", metavar="COLUMN", help_behavior_hint="(default: one axis)")] = None
    """A second axis, such as layers: laws of both together, and what each adds beyond the other."""
    y: Annotated[Listed, arg(metavar="COLUMN", help_behavior_hint="(required)")] = field(default_factory=list)
    """Metrics to fit, such as rfd_dinov2 psnr."""
    law: Literal["log-linear", "linear"] = "log-linear"
    """log-linear: y = a + b log10(x); linear: y = a + b x."""
    include: Annotated[Listed, arg(metavar="STATUS", help_behavior_hint="(default: finished only)")] = field(
        default_factory=list
    )
    """Other statuses to fit as well: unconverged, pruned, diverged."""
    unit: Literal["configuration", "row"] = "configuration"
    """configuration: seeds of one configuration are averaged first; row: every row is a point."""
    track: bool = False
    """Write the fit back to the MLflow experiment it was read from."""
    as_json: Annotated[bool, arg(name="json")] = False
    """Print the fit as one JSON object; further metrics stand under "also"."""

    def run(self) -> int:
        """Prints the fit; with --out writes its report, without it nothing."""
        names = flat(self.y)
        if not names:
            raise UserError("--y: expected at least one metric, such as --y rfd_dinov2 psnr")
        if self.track and self.experiment is None:
            raise UserError(f"--track: the runs come from {self.source}; expected a source such as mlflow:EXPERIMENT")
        command = command_anywhere(*sys.argv[1:])
        if self.second is not None:
            return self._both_axes(names, self.second, command)
        from analysis.report.outcome import fit_table

        with working(f"fitting {self.source}"):
            outcome = fit_table(
                self.read(), self.x, names, self.law, flat(self.include), self.unit, self.out, command=command
            )
            if self.track and self.experiment is not None:
                from analysis.report.mlflow import write_fits

                write_fits(outcome.analyses, outcome.paths, self.uri(), self.experiment)
        if self.as_json:
            first, *others = outcome.trees
            print_json(first | {"also": others} if others else first)
        else:
            show(outcome.text)
        if outcome.paths:
            say(f"report: {outcome.paths['html']}", keep=[outcome.paths["html"]])
        return 0

    def _both_axes(self, names: list[str], second: str, command: str) -> int:
        """Laws of two axes; with --out a page for each metric."""
        from analysis.inference.axes import analyse_axes
        from analysis.report.trees import joint_tree
        from analysis.report.write import write_joint_report

        if self.track or self.law != "log-linear" or self.unit != "configuration":
            raise UserError("--and: laws of two axes go without --track, --law and --unit; drop them")
        with working(f"fitting {self.source}"):
            frame = self.read()
            found = [analyse_axes(frame, self.x, second, name, flat(self.include)) for name in names]
        if self.as_json:
            first, *others = (joint_tree(item) for item in found)
            print_json(first | {"also": others} if others else first)
        else:
            show("\n".join(item.text() for item in found))
        for item in found:
            if self.out is not None:
                paths = write_joint_report(item, self.out if len(found) == 1 else self.out / item.y_name, command)
                say(f"report: {paths['html']}", keep=[paths["html"]])
        return 0


@dataclass(kw_only=True)
class Report(SourceOptions):
    """Write the report of a sweep again: the laws of all its metrics as HTML, figures, JSON and CSV.

    Example: drorae report runs/quickstart
    """

    def run(self) -> int:
        """Writes the report and prints where it is."""
        from drorae.commands.sweep_report import fit_trials, trial_pictures
        from sweeps.folder.mirror import brought

        place = locate(self.source)
        if isinstance(place, Remote) and self.out is None:
            raise UserError(f"{place}: expected a folder for the report; name one with --out")
        with working(f"reading {self.source}"):
            frame = self.read()
        path = brought(self.source, ("trials.csv", "trials/*/grid.png")) if self.experiment is None else Path()
        if self.experiment is not None:
            title, out = self.experiment, self.root / self.experiment / "law"
        else:
            title, out = path.stem, (path if path.is_dir() else path.parent) / "law"
        pictures = trial_pictures(path, frame) if path.is_dir() and self.experiment is None else {}
        command = command_anywhere("report", self.source)
        with working(f"fitting {len(frame)} trials"):
            outcome = fit_trials(frame, self.out or out, f"{title}: {len(frame)} trials", command, pictures)
        plot, page = outcome.paths["png"], outcome.paths["html"]
        show("\n".join([outcome.text, "", f"plot:   {plot}", f"report: {page}"]), keep=[plot, page])
        return 0
