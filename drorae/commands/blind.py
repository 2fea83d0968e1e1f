"""`drorae plan --blind`: what a design could show, before any run."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from drorae.commands.options import JsonOption, Number, Words, flat, option, require
from drorae.commands.terminal import print_table, show
from drorae.errors import UserError

if TYPE_CHECKING:
    from analysis.inference.blind import Outlook, Supposed

HEEDED = ("x", "y", "as_json", "seeds")
"""Options of `drorae plan` that --blind heeds beside its own."""


@dataclass(kw_only=True)
class BlindOptions(JsonOption):
    """A design, and what is supposed of its runs."""

    blind: bool = False
    """Say what a design could show before any run, from --slope and --seed-sd alone; no SOURCE."""
    slope: Annotated[float | None, option("N", "with --blind")] = None
    """The slope supposed, per decade of size."""
    seed_sd: Annotated[float | None, option("N", "with --blind")] = None
    """Standard deviation of runs that differ in seed alone."""
    configuration_sd: Number = 0.0
    """Standard deviation of configurations beyond that of their seeds."""
    sizes: Annotated[Words, option("SIZE", "with --blind")] = ()
    """Sizes of the design, such as 1e6 1e7 1e8; or --levels over --decades."""
    levels: Annotated[int | None, option("N", "with --blind")] = None
    """Number of sizes, evenly spaced in their logarithm."""
    decades: Annotated[float | None, option("D", "with --levels")] = None
    """From the smallest size to the largest."""
    beyond: Annotated[float | None, option("D", "default: 0.3")] = None
    """Predict a new run so many decades above the largest size."""
    loss: Annotated[float | None, option("SHARE", "default: 0.5")] = None
    """Share of its slope that a law loses over the design and that should be seen as a bend."""

    def run_blind(self, seeds: tuple[int, ...], x: str, y: str) -> int:
        """Prints what the design, and others of no more runs, could show."""
        from analysis.inference.blind import outlooks
        from analysis.inference.evidence import HORIZON
        from analysis.report.trees import VERSION, finite

        require(len(seeds) == 1, f"--seeds {' '.join(map(str, seeds))}", "one number with --blind")
        supposed, sizes = self._supposed(), self._sizes()
        beyond = HORIZON if self.beyond is None else self.beyond
        require(0 <= beyond <= 100, f"--beyond {beyond:g}", "decades, 0 or more")
        found = outlooks(supposed, sizes, seeds[0], beyond)
        tree = {
            "version": VERSION,
            "supposed": dataclasses.asdict(supposed),
            "beyond": beyond,
            "designs": [_tree(item) for item in found],
        }
        self.answer(finite(tree), lambda: _print(supposed, found, beyond, x, y))
        return 0

    def refuse_others(self) -> None:
        """Refuses options that mean nothing: those of a plan from runs beside --blind, and --blind's own without it."""
        own = {field.name for field in dataclasses.fields(BlindOptions)} - {"blind", *HEEDED}
        for field in dataclasses.fields(self):
            useless = field.name not in own.union(HEEDED, ["blind"]) if self.blind else field.name in own
            if useless and getattr(self, field.name) != field.default:
                flag = "SOURCE" if field.name == "source" else f"--{field.name.replace('_', '-')}"
                where = "beside --blind, which knows no runs" if self.blind else "without --blind"
                raise UserError(f"{flag}: means nothing {where}; leave it out")

    def _supposed(self) -> Supposed:
        from analysis.inference.blind import Supposed

        slope, seed_sd, own = self.slope, self.seed_sd, self.configuration_sd
        if slope is None or seed_sd is None:
            missing = "--slope" if slope is None else "--seed-sd"
            raise UserError(f"{missing}: expected what to suppose, such as --slope -0.06 --seed-sd 0.01")
        require(0 < abs(slope) < float("inf"), f"--slope {slope:g}", "a number other than 0")
        require(0 < seed_sd < float("inf"), f"--seed-sd {seed_sd:g}", "a number above 0")
        require(0 <= own < float("inf"), f"--configuration-sd {own:g}", "0 or more")
        if self.loss is None:
            return Supposed(slope, seed_sd, own)
        require(0 < self.loss < 1, f"--loss {self.loss:g}", "a share between 0 and 1")
        return Supposed(slope, seed_sd, own, self.loss)

    def _sizes(self) -> list[float]:
        import numpy as np

        from analysis.table.design import LEAST_CONFIGURATIONS as LEAST

        words = flat(self.sizes)
        if bool(words) == (self.levels is not None or self.decades is not None):
            raise UserError("--sizes or --levels: expected one of them, such as --levels 6 --decades 2")
        if not words:
            levels, decades = self.levels or 0, self.decades or 0.0
            require(LEAST <= levels <= 10_000, f"--levels {levels}", f"{LEAST} or more sizes")
            require(0 < decades <= 100, f"--decades {decades:g}", "a span above 0, such as --decades 2")
            return [float(size) for size in np.logspace(0, decades, levels)]
        try:
            sizes = [float(word) for word in words]
        except ValueError:
            raise UserError(f"--sizes {' '.join(words)}: expected numbers, such as 1e6 1e7 1e8") from None
        usable = len(sizes) == len(set(sizes)) >= LEAST and min(sizes) > 0 and max(sizes) < float("inf")
        expected = f"{LEAST} or more distinct sizes above 0; runs of one size are --seeds"
        require(usable, f"--sizes {' '.join(words)}", expected)
        return sizes


def _tree(item: Outlook) -> dict[str, Any]:
    """Returns a design as plain values; nan where its sizes cannot show a bend."""
    plain = dataclasses.asdict(item)
    del plain["design"]
    return {**item.design._asdict(), "runs": item.design.runs, "decades": item.decades, **plain}


def _print(supposed: Supposed, found: tuple[Outlook, ...], beyond: float, x: str, y: str) -> None:
    own = f", configurations by {supposed.own_sd:g} beyond them" if supposed.own_sd else ""
    show(
        f"supposed: {y or 'the metric'} changes by {supposed.slope:g} per decade of {x}; seeds scatter by "
        f"{supposed.seed_sd:g} (sd){own}\n"
        "  slope seen: how often its 95% interval leaves out zero; least: the slope that 80% of sweeps see\n"
        f"  prediction: width of a new run's 95% interval by the line, {beyond:g} decades above the first design\n"
        f"  bend seen: how often a law that loses {supposed.loss:.0%} of its slope over the first design is no line"
    )
    header = ("design", "sizes x seeds", "decades", "slope seen", "least", "slope width", "prediction", "bend seen")
    rows = []
    for item in found:
        _, sizes, seeds = item.design
        bent = "-" if item.bend_power != item.bend_power else f"{item.bend_power:.0%}"
        widths = (f"{item.least_slope:.3g}", f"{item.slope_width:.3g}", f"{item.prediction_width:.3g}", bent)
        rows.append((item.design.name, f"{len(sizes)} x {seeds}", f"{item.decades:.2g}", f"{item.power:.0%}", *widths))
    print_table(header, rows, drop=("least", "decades", "slope width"))
    if not supposed.own_sd:
        show("  where configurations scatter by themselves, seeds buy less than sizes: --configuration-sd")
