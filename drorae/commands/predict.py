"""`drorae predict`: what the laws say of sizes nobody has run, and how registered predictions did."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from drorae.commands.options import Count, Law, Words, flat, option, write_new
from drorae.commands.source import SizeOptions
from drorae.commands.terminal import say, working
from drorae.errors import UserError
from drorae.storage.files import file_name

if TYPE_CHECKING:
    from analysis.inference.analysis import Analysis
    from analysis.inference.predict import Forecast, Reach


@dataclass(kw_only=True)
class Predict(SizeOptions):
    """Predict the metric at a size, or the size for a metric: an interval per plausible law and their envelope.

    Example: drorae predict results/paper/capacity.csv --y rfid --at 2e8 --target 0.40
    """

    y: Annotated[str, option("COLUMN", "required")] = ""
    """Metric, such as rfd_dinov2."""
    law: Law = "log-linear"
    """The line that the other laws are compared with: in log10(x) or x."""
    at: Annotated[Words, option("SIZE", "repeatable")] = ()
    """Sizes to predict the metric at, such as 2e8."""
    target: Annotated[Words, option("VALUE", "repeatable")] = ()
    """Values of the metric to find the size for."""
    seeds: Count = 1
    """Predict the mean of so many runs."""
    extrapolate: bool = False
    """Numbers beyond the trusted horizon too, marked as such."""
    register: bool = False
    """Keep the predictions for later scoring: in MLflow for an MLflow source, else as JSON in --out."""
    score: Annotated[Path | None, option("FILE")] = None
    """Score a registered prediction against the runs of that size in SOURCE."""

    def run(self) -> int:
        """Prints the predictions; refuses sizes beyond the horizon unless --extrapolate."""
        sizes, targets = _numbers("--at", flat(self.at)), _numbers("--target", flat(self.target))
        if not self.y and self.score is None:
            raise UserError("--y: expected a metric, such as --y rfd_dinov2")
        if self.score is not None:
            return self._score(self.score)
        if not sizes and not targets:
            raise UserError("nothing to predict: expected --at SIZE or --target VALUE")
        if self.register and not sizes:
            raise UserError("--register: expected sizes to predict, --at SIZE")
        if self.register and self.experiment is None and self.out is None:
            raise UserError(f"--register: the runs come from {self.source}; expected --out DIR to write to")
        from analysis.inference.analysis import analyse
        from analysis.report.trees import VERSION, finite, forecast_tree, reach_tree, remarks

        with working(f"fitting {self.source}"):
            found = analyse(self.read(), self.x, self.y, self.law)
            made = [found.predict(size, self.extrapolate, self.seeds) for size in sizes]
            reached = [found.target(value, self.extrapolate) for value in targets]
            records = self._register(found, made) if self.register else []
        tree = {
            "version": VERSION,
            "x": found.selection.x_name,
            "y": found.selection.y_name,
            "n": found.line.n,
            "n_configurations": found.line.sample.n,
            "horizon": {"low": found.horizon.low, "high": found.horizon.high, "rule": found.horizon.rule},
            "predictions": [forecast_tree(item) for item in made],
            "targets": [reach_tree(item) for item in reached],
            "registered": records,
            "verdicts": [item._asdict() for item in found.verdicts],
            **remarks(found),
        }
        words = [_forecast_text(found, item) for item in made] + [_reach_text(found, item) for item in reached]
        self.answer(finite(tree), "\n".join([*words, "of the fit", *found.remarks()]))
        for record in records:
            say(f"registered: {record}", keep=[record])
        return 0

    def _register(self, found: Analysis, made: list[Forecast]) -> list[str]:
        """Writes the predictions and returns where each is: a run id or a file."""
        from analysis.inference.predict import register

        records = [register(found.comparison, item) for item in made]
        if self.experiment is not None:
            from analysis.report.mlflow import write_predictions

            return write_predictions(records, self.uri(), self.experiment)
        assert self.out is not None
        written = []
        for record in records:
            name = f"prediction-{file_name(str(record['y']))}-{record['at']:g}-{record['data_sha256'][:8]}.json"
            written.append(str(write_new(self.out / name, record)))
        return written

    def _score(self, path: Path) -> int:
        from analysis.inference.predict import observed_value, score
        from analysis.table.selection import select

        try:
            record: dict[str, Any] = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: not readable as JSON ({error}); expected what --register wrote") from None
        if not isinstance(record, dict) or not {"x", "y", "at"} <= set(record):
            raise UserError(f"{path}: not a registered prediction; expected what --register wrote")
        chosen = select(self.read(), str(record["x"]), str(record["y"]))
        result = score(record, observed_value(record, chosen.x, chosen.y))
        tree = {
            "x": record["x"],
            "y": record["y"],
            "at": record["at"],
            "value": result.value,
            "prediction95": record["envelope"],
            "inside": result.inside,
            "interval_score": result.interval_score,
            "laws": [{"law": law, "error": off, "inside": inside} for law, off, inside in result.laws],
        }
        words = [f"  {law}: off by {off:+.4g}, {'inside' if inside else 'outside'}" for law, off, inside in result.laws]
        self.answer(tree, "\n".join([result.text, *words]))
        return 0


def _numbers(flag: str, words: Sequence[str]) -> list[float]:
    found = []
    for word in words:
        try:
            found.append(float(word))
        except ValueError:
            raise UserError(f"{flag} {word}: expected a number, such as 2e8") from None
    return found


def _forecast_text(found: Analysis, made: Forecast) -> str:
    from analysis.laws.digits import between, significant

    names = found.selection
    head = f"{names.y_name} at {names.x_name} = {made.x:.4g}"
    if made.decades_beyond:
        head += f", {made.decades_beyond:.3g} decades beyond the data"
    if not made.trusted:
        head += " [EXTRAPOLATED beyond the trusted horizon]"
    what = "a new run" if made.seeds == 1 else f"the mean of {made.seeds:g} new runs"
    lines = [
        head,
        f"  95% envelope of {what}: {between(*made.of_run)}; of the law: {between(*made.of_law)}",
    ]
    if made.on_new_images is not None:
        lines.append(f"  on new evaluation images: {between(*made.on_new_images)}")
    for item in made.laws:
        low, high = item.of_run
        lines.append(f"  {item.law}: {significant(item.value, high - low)}, {what} {between(low, high)}")
    return "\n".join([*lines, _trusted(found)])


def _reach_text(found: Analysis, item: Reach) -> str:
    names = found.selection
    lines = [f"{names.x_name} for {names.y_name} = {item.target:.4g}, 95% sets of sizes where the law is there"]
    for law, sizes, trusted in item.laws:
        estimate = "" if sizes.estimate is None else f"{sizes.estimate:.4g}; "
        beyond = "" if trusted or sizes.note else " [EXTRAPOLATED beyond the trusted horizon]"
        lines.append(f"  {law}: {estimate}{sizes.text}{beyond if sizes.pieces else ''}")
    return "\n".join([*lines, _trusted(found)])


def _trusted(found: Analysis) -> str:
    from analysis.laws.digits import between

    limits = found.horizon
    return f"  trusted: {between(limits.low, limits.high)} ({limits.rule})"
