"""`drorae compare`: which of several designs scales better."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from drorae.commands.options import Column, Law, Statuses, flat, option
from drorae.commands.source import SizeOptions
from drorae.commands.terminal import working


@dataclass(kw_only=True)
class Compare(SizeOptions):
    """Compare designs on one axis: their slopes, the interval of every difference, and a verdict for each claim.

    Example: drorae compare runs/variants --x params --y rfd_dinov2 --by variant
    """

    y: Column
    """Metric, such as rfd_dinov2."""
    by: Column = "variant"
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
        """Prints the comparison."""
        from analysis.inference.designs import compare_designs

        with working(f"comparing {self.source}"):
            found = compare_designs(
                self.read(),
                self.x,
                self.y,
                self.by,
                self.law,
                self.better,
                self.errors,
                self.paired,
                self.reference,
                flat(self.include),
            )
        self.answer(found.as_json(), found.text())
        return 0
