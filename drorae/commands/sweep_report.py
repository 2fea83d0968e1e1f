"""What a sweep's end and `drorae report` share: which law to fit to a table of trials, and its report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from drorae.commands.options import say
from drorae.errors import UserError
from drorae.metrics.registry import METRICS

if TYPE_CHECKING:
    import pandas as pd

    from analysis.laws.line import Law
    from analysis.report.outcome import FitOutcome

FITTED = tuple(metric.name for metric in METRICS if metric.fitted)


@dataclass(frozen=True)
class Axis:
    """What a law is a law of."""

    x: str
    law: Law


def choose_axis(frame: pd.DataFrame) -> Axis | None:
    """Fusion parameters, log-linear, where capacity varies; layers, linear, where only they do; else None."""

    def varies(*names: str) -> bool:
        return any(name in frame.columns and frame[name].nunique() > 1 for name in names)

    if varies("num_layers", "fusion.num_layers") and not varies("expert_hidden_dim"):
        return Axis("layers", "linear")
    return Axis("params", "log-linear") if varies("expert_hidden_dim", "params", "fusion_params") else None


def fit_trials(
    frame: pd.DataFrame, out: Path, title: str, command: str, images: dict[str, Path] | None = None
) -> FitOutcome:
    """Fits every known metric of a table of trials and writes the report to `out`.

    A metric that cannot be fitted is named on stderr and left out.

    Raises:
        UserError: nothing varies that a law could be of, or no metric can be fitted.
    """
    from analysis.inference.analysis import analyse
    from analysis.report.outcome import report_analyses

    axis = choose_axis(frame)
    if axis is None:
        raise UserError("no law: neither capacity nor the number of layers varies; add --axis capacity=8,32,128,512")
    usable = []
    reason = f"no metric in the table; expected one of {', '.join(FITTED)}"
    for name in FITTED:
        if name in frame.columns and frame[name].notna().any():
            try:
                usable.append(analyse(frame, axis.x, name, axis.law))
            except UserError as error:
                reason = str(error)
                say(f"note: no law of {name}: {error}")
    if not usable:
        raise UserError(f"no law: {reason}")
    return report_analyses(usable, out, title, images, command)


def searched_pictures(frame: pd.DataFrame, objectives: Sequence[str], directory: Path) -> dict[str, Path]:
    """What a search found, printed and written to the sweep's folder; the figures by caption.

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
            tuned = compare_tuned(frame, axis.x, objectives[0], axis.law)
            write_json(directory / "tuning.json", tuned.tree())
            say(tuned.text())
    except UserError as error:
        say(f"note: {error}")
    return {}


def trial_pictures(
    directory: Path, frame: pd.DataFrame, fetch: Callable[[str], None] = lambda name: None
) -> dict[str, Path]:
    """Reconstructions of the smallest and the largest finished trial of a sweep's folder, by caption.

    `fetch` is called with the name below `directory` of a trial's folder whose picture is needed.
    """
    import pandas as pd

    if not {"config_hash", "fusion_params"} <= set(frame.columns):
        return {}
    finished = frame.assign(size=pd.to_numeric(frame["fusion_params"], errors="coerce")).dropna(subset=["size"])
    if finished.empty:
        return {}
    finished = finished.sort_values("size", kind="stable")
    found = {}
    for key, size in zip(finished["config_hash"].iloc[[0, -1]], finished["size"].iloc[[0, -1]], strict=True):
        fetch(f"trials/{key}")
        path = directory / "trials" / str(key) / "grid.png"
        if path.is_file():
            found[f"{size:,.0f} fusion parameters: original, phase 1, fused"] = path
    return found
