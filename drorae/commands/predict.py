"""`drorae predict`: what the laws say of sizes nobody has run, and how registered predictions did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from drorae.commands.options import Count, Law, Words, flat, option, write_new
from drorae.commands.pairs import of_runs, predict_pairs, sizes_of_pairs
from drorae.commands.record import as_registered, origin_of, register_name
from drorae.commands.source import SizeOptions
from drorae.commands.terminal import say, working
from drorae.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from analysis.inference.analysis import Analysis
    from analysis.inference.predict import Forecast, Reach


@dataclass(kw_only=True)
class Predict(SizeOptions):
    """Predict the metric at a size, or the size for a metric: an interval per plausible law and their envelope.

    Example: drorae predict results/paper/capacity.csv --y rfid --at 2e8 --target 0.40
    """

    second: Annotated[str | None, option("COLUMN[:SCALE]", "default: one axis", "and")] = None
    """A second axis, as in drorae fit: every --at then takes two sizes, --at 1e8 2e10."""
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
        if self.second is not None:
            if not self.y:
                raise UserError("--y: expected a metric, such as --y rfd_dinov2")
            if self.target or self.register or self.score or self.law != "log-linear":
                raise UserError("--and: a pair is predicted without --target, --register, --score and --law; drop them")
            pairs = sizes_of_pairs("--at", self.at)
            return predict_pairs(self, self.second, self.y, pairs, self.extrapolate, self.seeds)
        sizes, targets = _numbers("--at", flat(self.at)), _numbers("--target", flat(self.target))
        if not self.y and self.score is None:
            raise UserError("--y: expected a metric, such as --y rfd_dinov2")
        if self.score is not None:
            return self._score(self.score)
        if not sizes and not targets:
            raise UserError("nothing to predict: expected --at SIZE or --target VALUE")
        if self.register and not sizes:
            raise UserError("--register: expected sizes to predict, --at SIZE")
        if flat(self.other) and (self.register or self.score is not None):
            raise UserError("--with: a registered prediction is of one source; drop it")
        if self.register and self.experiment is None and self.out is None:
            raise UserError(f"--register: the runs come from {self.source}; expected --out DIR to write to")
        from analysis.inference.analysis import analyse
        from analysis.report.trees import VERSION, finite, forecast_tree, reach_tree, remarks

        with working(f"fitting {self.source}"):
            frame = self.read_all([self.x, self.y])
            found = analyse(frame, self.x, self.y, self.law)
            made = [found.predict(size, self.extrapolate, self.seeds) for size in sizes]
            reached = [found.target(value, self.extrapolate) for value in targets]
            records = self._register(frame, found, made) if self.register else []
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

    def _register(self, frame: pd.DataFrame, found: Analysis, made: list[Forecast]) -> list[str]:
        """Writes the predictions and returns where each is: a run id or a file."""
        from analysis.inference.predict import constants, register
        from analysis.inference.record import runs_there

        origin, of = origin_of(self), constants(found.selection)
        records = [
            register(found.comparison, item, of, origin, runs_there(frame, found.selection, item.x)) for item in made
        ]
        if self.experiment is not None:
            from analysis.report.mlflow import write_predictions

            return write_predictions(records, self.uri(), self.experiment)
        assert self.out is not None
        written = []
        for record in records:
            path = self.out / register_name(record)
            if path.exists():
                say(f"note: {path}: registered before, and left as it was", keep=[path])
            else:
                write_new(path, record)
            written.append(str(path))
        return written

    def _score(self, path: Path) -> int:
        from analysis.inference.predict import score
        from analysis.inference.record import arrived, load
        from analysis.table.selection import select

        record = load(path)
        self._check_asked(record)
        chosen = select(as_registered(self, record).read(), str(record["x"]), str(record["y"]))
        result = score(record, arrived(record, chosen))
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

    def _check_asked(self, record: dict[str, Any]) -> None:
        """Refuses to score a record of another metric, size, filter or condition than is asked for."""
        origin = record.get("origin", {})
        where, chosen = list(origin.get("where", [])), str(origin.get("filter", ""))
        asked = (
            ("--y", self.y, record["y"], ""),
            ("--x", self.x, record["x"], "params"),
            ("--where", " ".join(flat(self.where)), " ".join(where), ""),
            ("--filter", self.filter, chosen, ""),
        )
        for flag, given, registered, default in asked if record.get("origin") else asked[:2]:
            if given not in (default, registered):
                was = registered or "none"
                raise UserError(f"{flag} {given}: the prediction was registered with {was}; leave {flag} out")


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
    head = f"{names.y_said} at {names.x_name} = {made.x:.4g}"
    if made.decades_beyond:
        head += f", {made.decades_beyond:.3g} decades beyond the data"
    if not made.trusted:
        head += " [EXTRAPOLATED beyond the trusted horizon]"
    what = of_runs(made.seeds)
    lines = [
        head,
        f"  95% envelope of {what}{found.draws.here}: {between(*made.of_run)}; of the law: {between(*made.of_law)}",
    ]
    if made.on_new_images is not None:
        lines.append(f"  on new evaluation images: {between(*made.on_new_images)}")
    if made.on_new_decoders is not None:
        lines.append(f"  from a new decoder: {between(*made.on_new_decoders)}")
    for item in made.laws:
        low, high = item.of_run
        lines.append(f"  {item.law}: {significant(item.value, high - low)}, {what} {between(low, high)}")
    return "\n".join([*lines, _trusted(found)])


def _reach_text(found: Analysis, item: Reach) -> str:
    names = found.selection
    lines = [f"{names.x_name} for {names.y_said} = {item.target:.4g}, 95% sets of sizes where the law is there"]
    for law, sizes, trusted in item.laws:
        estimate = "" if sizes.estimate is None else f"{sizes.estimate:.4g}; "
        beyond = "" if trusted or sizes.note else " [EXTRAPOLATED beyond the trusted horizon]"
        lines.append(f"  {law}: {estimate}{sizes.text}{beyond if sizes.pieces else ''}")
    return "\n".join([*lines, _trusted(found)])


def _trusted(found: Analysis) -> str:
    from analysis.laws.digits import between

    limits = found.horizon
    return f"  trusted: {between(limits.low, limits.high)} ({limits.rule})"
