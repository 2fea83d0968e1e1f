"""`drorae fit`: laws from tables of runs that are already there."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from drorae.commands.options import Law, Number, Statuses, Words, flat, option
from drorae.commands.pairs import said
from drorae.commands.source import SizeOptions
from drorae.commands.terminal import say, working
from drorae.errors import UserError
from drorae.runtime.shell import portable_command
from drorae.storage.files import file_name


@dataclass(kw_only=True)
class Fit(SizeOptions):
    """Fit a law to finished runs: metric against log10(size) or size, with its intervals.

    In the JSON object, further metrics stand under "also".

    Example: drorae fit results/paper/capacity.csv --x params --y rfid --json
    """

    second: Annotated[str | None, option("COLUMN[:SCALE]", "default: one axis", "and")] = None
    """A second axis, such as layers: laws of both together, and what each adds beyond the other. SCALE: log or linear;
    without it both are tried."""
    compute: Annotated[tuple[float, ...], option("FLOPS", "with --and")] = ()
    """Budgets to split between the two axes where y = E + A N^-alpha + B D^-beta is least."""
    flops_per_pair: Number = 6.0
    """k of the compute C = k N D of two axes."""
    isoflop: Annotated[str | None, option("COLUMN", "with --and")] = None
    """Find the best size at every level of compute, which COLUMN (such as train_flops) holds; pairs: k N D."""
    y: Annotated[Words, option("COLUMN", "required")] = ()
    """Metrics to fit, such as rfd_dinov2 psnr."""
    law: Law = "log-linear"
    """log-linear: y = a + b log10(x); linear: y = a + b x."""
    include: Statuses = ()
    """Other statuses to fit as well: unconverged, pruned, diverged."""
    unit: Literal["configuration", "row"] = "configuration"
    """configuration: seeds of one configuration are averaged first; row: every row is a point."""
    track: bool = False
    """Write the fit back to the MLflow experiment it was read from."""

    def run(self) -> int:
        """Prints the fit; with --out writes its report, without it nothing."""
        names = flat(self.y)
        if not names:
            raise UserError("--y: expected at least one metric, such as --y rfd_dinov2 psnr")
        if self.track and self.experiment is None:
            raise UserError(f"--track: the runs come from {self.source}; expected a source such as mlflow:EXPERIMENT")
        command = portable_command(*sys.argv[1:])
        if self.second is not None:
            return self._both_axes(names, self.second, command)
        if self.compute or self.isoflop:
            raise UserError("--compute and --isoflop: are about two axes; expected --and COLUMN")
        from analysis.report.outcome import fit_table

        with working(f"fitting {self.source}"):
            outcome = fit_table(
                self.read(), self.x, names, self.law, flat(self.include), self.unit, self.out, command=command
            )
            if self.track and self.experiment is not None:
                from analysis.report.mlflow import write_fits

                write_fits(outcome.analyses, outcome.paths, self.uri(), self.experiment)
        self._answer(outcome.trees, outcome.text, [outcome.paths["html"]] if outcome.paths else [])
        return 0

    def _both_axes(self, names: list[str], second: str, command: str) -> int:
        """Prints laws of two axes; with --out writes a page for each metric."""
        from analysis.inference.axes import analyse_axes
        from analysis.inference.compute import buy
        from analysis.report.trees import joint_tree
        from analysis.report.write import write_joint_report

        if self.track or self.law != "log-linear" or self.unit != "configuration":
            raise UserError("--and: laws of two axes go without --track, --law and --unit; drop them")
        with working(f"fitting {self.source}"):
            frame = self.read()
            found = [analyse_axes(frame, self.x, second, name, flat(self.include)) for name in names]
            asked = (self.compute, self.flops_per_pair, self.isoflop, self.better)
            bought = [buy(item, *asked) for item in found]
        pages = []
        if self.out is not None:
            folders = [self.out if len(found) == 1 else self.out / file_name(item.y_name) for item in found]
            pages = [
                write_joint_report(item, folder, command, bought=spent)["html"]
                for item, spent, folder in zip(found, bought, folders, strict=True)
            ]
        trees = [joint_tree(item, bought=spent) for item, spent in zip(found, bought, strict=True)]
        words = [line for pair in zip(found, bought, strict=True) for line in (pair[0].text(), *said(*pair))]
        self._answer(trees, "\n".join(words), pages)
        return 0

    def _answer(self, trees: Sequence[dict[str, Any]], words: str, pages: Sequence[Path]) -> None:
        first, *others = trees
        self.answer(first | {"also": others} if others else first, words)
        for page in pages:
            say(f"report: {page}", keep=[page])
