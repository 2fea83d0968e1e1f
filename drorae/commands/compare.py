"""`drorae compare`: which of several designs scales better."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from drorae.commands.options import Column, Law, Statuses, flat, option
from drorae.commands.source import FigureOptions, SizeOptions
from drorae.commands.terminal import say, working
from drorae.runtime.shell import portable_command

if TYPE_CHECKING:
    pass


@dataclass(kw_only=True)
class Compare(SizeOptions, FigureOptions):
    """Compare designs on one axis: their slopes, the interval of every difference, and a verdict for each claim.

    Example: drorae compare runs/variants --x params --y rfd_dinov2 --by variant
    """

    y: Column
    """Metric, such as rfd_dinov2."""
    by: Annotated[str | None, option("COLUMN", "default: variant, or source with --with")] = None
    """Column that tells the designs apart."""
    law: Law = "log-linear"
    """log-linear: y = a + b log10(x); linear: y = a + b x."""
    errors: Literal["pooled", "separate"] = "pooled"
    """pooled: one residual variance for all designs; separate: each its own (Welch)."""
    paired: bool = False
    """Compare size by size: what all designs share at a size drops out."""
    reference: Annotated[str | None, option("DESIGN", "default: every pair")] = None
    """Compare each design with this one only."""
    include: Statuses = ()
    """Other statuses to use as well."""

    def run(self) -> int:
        """Prints the comparison; with --out writes its report."""
        from analysis.inference.designs import compare_designs
        from analysis.report.comparison import write_comparison
        from analysis.table.join import SOURCE

        by = self.by or (SOURCE if flat(self.other) else "variant")
        paths = {}
        with working(f"comparing {self.source}"):
            found = compare_designs(
                self.read_all([self.x, self.y, *([by] if by != SOURCE else [])], apart=by == SOURCE),
                self.x,
                self.y,
                by,
                self.law,
                self.better,
                self.errors,
                self.paired,
                self.reference,
                flat(self.include),
            )
            if self.out is not None:
                paths = write_comparison(found, self.out, portable_command(*sys.argv[1:]), self.style)
        self.answer(found.as_json(), found.text())
        if paths:
            say(f"report: {paths['html']}", keep=[paths["html"]])
        return 0
