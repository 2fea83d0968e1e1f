"""`drorae report`, and the report that a sweep ends with: which law to fit to a table of trials."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from drorae.commands.options import Words, flat, option
from drorae.commands.record import RECORD, record_of
from drorae.commands.source import FigureOptions, SourceOptions
from drorae.commands.terminal import say, show, working
from drorae.errors import UserError
from drorae.metrics.registry import METRICS
from drorae.runtime.shell import portable_command
from drorae.storage.files import file_name
from drorae.storage.remote import Remote, locate
from drorae.trial.folder import CHECKS_CONVERGENCE, GRID, ROLE, TrialStatus

if TYPE_CHECKING:
    import pandas as pd

    from analysis.inference.analysis import Analysis
    from analysis.inference.record import Record
    from analysis.laws.line import Law
    from analysis.report.outcome import FitOutcome
    from analysis.report.style import Style

FITTED_METRICS = tuple(metric.name for metric in METRICS if metric.fitted)
SIZES = ("num_layers", "fusion.num_layers", "expert_hidden_dim", "params", "fusion_params")
"""Columns that show what a sweep varies."""


def choose_axis(frame: pd.DataFrame) -> tuple[str, Law] | None:
    """Returns the column of sizes in a table of trials and the law of it; None where no size varies.

    Fusion parameters, log-linear, where capacity varies; layers, linear, where only they do.
    """
    varying = {name for name in SIZES if name in frame.columns and frame[name].nunique() > 1}
    if varying & {"num_layers", "fusion.num_layers"} and "expert_hidden_dim" not in varying:
        return "layers", "linear"
    return ("params", "log-linear") if varying & {"expert_hidden_dim", "params", "fusion_params"} else None


def law_trials(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of a table of trials that a law may be of: those that check convergence are none."""
    return frame[frame[ROLE] != CHECKS_CONVERGENCE] if ROLE in frame.columns else frame


def counted(frame: pd.DataFrame) -> str:
    """Says how many trials a table holds: `12 trials, and 2 that check convergence`; `12 of 24 trials` were needed."""
    law = law_trials(frame)
    own, checks = len(law), len(frame) - len(law)
    left = int((law["status"] == TrialStatus.NOT_NEEDED).sum()) if "status" in law.columns else 0
    said = f"{own - left} of {own} trials" if left else f"{own} trials"
    return said + f", and {checks} that check{'s' * (checks == 1)} convergence" * (checks > 0)


def _analyses(frame: pd.DataFrame, note: Callable[[str], None]) -> list[Analysis]:
    """Every known metric of a table of trials that a law can be fitted to, in the registry's order.

    note: takes a line about each that none can be.

    Raises:
        UserError: nothing varies that a law could be of, or no metric can be fitted.
    """
    from analysis.inference.analysis import analyse

    axis = choose_axis(law_trials(frame))
    if axis is None:
        raise UserError("no law: neither capacity nor the number of layers varies; add --axis capacity=8,32,128,512")
    x, law = axis
    usable = []
    reason = f"no metric in the table; expected one of {', '.join(FITTED_METRICS)}"
    for name in FITTED_METRICS:
        if name in frame.columns and frame[name].notna().any():
            try:
                usable.append(analyse(frame, x, name, law))
            except UserError as error:
                reason = str(error)
                note(f"note: no law of {name}: {error}")
    if not usable:
        raise UserError(f"no law: {reason}")
    return usable


def leading_analysis(frame: pd.DataFrame) -> Analysis:
    """The analysis of a table of trials that its report begins with.

    Raises:
        UserError: nothing varies that a law could be of, or no metric can be fitted.
    """
    from analysis.report.outcome import in_order

    return in_order(_analyses(frame, lambda line: None))[0]


def fit_trials(
    frame: pd.DataFrame,
    out: Path,
    title: str,
    command: str,
    images: dict[str, Path] | None = None,
    record: Record | None = None,
    style: Style = "screen",
) -> FitOutcome:
    """Fits every known metric of a table of trials and writes the report to `out`.

    A metric that cannot be fitted is named on stderr and left out. Where trials have a generator, the report sets
    reconstruction against generation.

    Args:
        frame: a row for each trial.
        out: folder of the report.
        title: heads the report.
        command: the command that writes the report, for its foot.
        images: files of pictures to show, by caption; default: none.
        record: how registered predictions did, which is written to `out` as well; default: nothing.
        style: of the figures, screen or paper.

    Raises:
        UserError: nothing varies that a law could be of, or no metric can be fitted.
    """
    from analysis.inference.tradeoff import trade_offs
    from analysis.report.outcome import report_analyses
    from analysis.report.trees import finite
    from drorae.storage.files import write_json

    usable = _analyses(frame, say)
    lines = [] if record is None else record.lines()
    beside = trade_offs(frame, usable[0].selection.x_name, say)
    made = report_analyses(usable, out, title, images, command, lines, style, beside)
    if record is not None and lines:
        write_json(out / RECORD, finite(record.tree()))
    return made


def searched_pictures(frame: pd.DataFrame, objectives: Sequence[str], directory: Path) -> dict[str, Path]:
    """Prints what a search found, writes it to the sweep's folder, and returns the figures by caption.

    One objective: the law of the best against the law at fixed values (tuning.json). Several: their Pareto set
    (pareto.csv, pareto.png).
    """
    from analysis.inference.pareto import pareto_set
    from analysis.inference.tuning import compare_tuned
    from analysis.report.figures import pareto_figure
    from drorae.storage.files import write_json

    try:
        if len(objectives) > 1:
            best = pareto_set(frame, objectives)
            best.to_csv(directory / "pareto.csv", index=False)
            caption = f"Pareto set of {', '.join(objectives)}: {len(best)} of {len(frame)} trials"
            say(f"{caption}, {directory / 'pareto.csv'}", keep=[directory / "pareto.csv"])
            return {caption: pareto_figure(frame, objectives, directory)}
        axis = choose_axis(frame)
        if axis is not None:
            x, law = axis
            tuned = compare_tuned(frame, x, objectives[0], law)
            write_json(directory / "tuning.json", tuned.tree())
            say(tuned.text())
    except UserError as error:
        say(f"note: {error}")
    return {}


def trial_pictures(
    directory: Path, frame: pd.DataFrame, fetch: Callable[[str], None] = lambda name: None
) -> dict[str, Path]:
    """Returns reconstructions of the smallest and the largest finished trial of a sweep's folder, by caption.

    Args:
        directory: the sweep's folder.
        frame: a row for each trial.
        fetch: called with the name below `directory` of a trial's folder whose picture is needed.
    """
    import pandas as pd

    from sweeps.folder.sweep import trial_place

    if not {"config_hash", "fusion_params"} <= set(frame.columns):
        return {}
    frame = law_trials(frame)
    finished = frame.assign(size=pd.to_numeric(frame["fusion_params"], errors="coerce")).dropna(subset=["size"])
    found = {}
    finished = finished.sort_values("size", kind="stable")
    for key, size in finished[["config_hash", "size"]].iloc[[0, -1] if len(finished) else []].itertuples(index=False):
        fetch(trial_place(key))
        path = directory / trial_place(key) / GRID
        if path.is_file():
            found[f"{size:,.0f} fusion parameters: original, phase 1, fused"] = path
    return found


@dataclass(kw_only=True)
class Report(SourceOptions, FigureOptions):
    """Write the report of a sweep again: the laws of all its metrics as HTML, figures, JSON and CSV.

    Predictions that were registered for the sweep are scored as their runs come in, and the report ends with their
    record.

    Example: drorae report runs/quickstart
    """

    predictions: Annotated[Words, option("DIR", "default: in SOURCE")] = ()
    """Folders of further registered predictions: what predict --register --out wrote to."""

    def run(self) -> int:
        """Writes the report and prints where it is."""
        place = locate(self.source)
        if isinstance(place, Remote) and self.out is None:
            raise UserError(f"{place}: expected a folder for the report; name one with --out")
        with working(f"reading {self.source}"):
            frame = self.read()
        pictures: dict[str, Path] = {}
        source: Path | None = None
        if self.experiment is not None:
            title, out = self.experiment, self.root / file_name(self.experiment) / "law"
        else:
            from sweeps.folder.mirror import local_copy
            from sweeps.folder.sweep import TABLE, in_trials

            path = local_copy(self.source, (TABLE, *in_trials((GRID,))))
            title, out = path.stem, (path if path.is_dir() else path.parent) / "law"
            pictures = trial_pictures(path, frame)
            source = path
        command = portable_command("report", self.source, *(["--style", self.style] if self.style != "screen" else []))
        with working(f"fitting {len(frame)} trials"):
            record = record_of(self, source, [Path(name) for name in flat(self.predictions)])
            outcome = fit_trials(
                frame, self.out or out, f"{title}: {counted(frame)}", command, pictures, record, self.style
            )
        plot, page = outcome.paths["png"], outcome.paths["html"]
        show("\n".join([outcome.text, "", f"plot:   {plot}", f"report: {page}"]), keep=[plot, page])
        return 0
