"""`drorae compare`: which of several designs scales better."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from tyro.conf import arg

from drorae.commands.fit import SourceOptions
from drorae.commands.options import Listed, flat, print_json, show, working


@dataclass(kw_only=True)
class Compare(SourceOptions):
    """Compare designs on one axis: their slopes, the interval of every difference, and a verdict for each claim.

    Example: drorae compare runs/variants --x params --y rfd_dinov2 --by variant
    """

    y: Annotated[str, arg(metavar="COLUMN")]
    """Metric, such as rfd_dinov2."""
    x: Annotated[str, arg(metavar="COLUMN")] = "params"
    """Size: params, capacity, layers or a column."""
    by: Annotated[str, arg(metavar="COLUMN")] = "variant"
    """Column that tells the designs apart."""
    law: Literal["log-linear", "linear"] = "log-linear"
    """log-linear: y = a + b log10(x); linear: y = a + b x."""
    better: Annotated[Literal["lower", "higher"] | None, arg(help_behavior_hint="(default: by the metric's name)")] = (
        None
    )
    """Which direction of the metric is better."""
    errors: Literal["pooled", "separate"] = "pooled"
    """pooled: one residual variance for all designs; separate: each its own (Welch)."""
    paired: bool = False
    """Compare size by size: what all designs share at a size drops out."""
    reference: Annotated[str | None, arg(metavar="DESIGN", help_behavior_hint="(default: every pair)")] = None
    """Compare each design with this one only."""
    include: Annotated[Listed, arg(metavar="STATUS", help_behavior_hint="(default: finished only)")] = field(
        default_factory=list
    )
    """Other statuses to use as well."""
    as_json: Annotated[bool, arg(name="json")] = False
    """Print the comparison as one JSON object."""

    def run(self) -> int:
        """Prints the comparison."""
        from analysis.inference.designs import compare_designs

        with working(f"comparing {self.source}"):
            found = compare_designs(
                self.read(), self.x, self.y, self.by, self.law, self.better, self.errors, self.paired, self.reference,
                flat(self.include),
            )  # fmt: skip
        if self.as_json:
            print_json(found.as_json())
        else:
            show(found.text())
        return 0
