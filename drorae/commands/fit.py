"""`drorae fit`: laws from tables of runs that are already there."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from drorae.commands.options import Number, Statuses, Words, flat, option
from drorae.commands.pairs import said
from drorae.commands.source import FigureOptions, SizeOptions
from drorae.commands.terminal import say, working
from drorae.errors import UserError
from drorae.runtime.shell import portable_command
from drorae.storage.files import file_name

if TYPE_CHECKING:
    from analysis.inference.asked import Asking


def _counting(note: Callable[[Mapping[str, Any]], None]) -> Callable[[int, int], None]:
    """Returns what says on the terminal how many resamples of a bootstrap are done."""
    return lambda done, total: note({"note": "resamples", "done": done, "total": total})


@dataclass(kw_only=True)
class Fit(SizeOptions, FigureOptions):
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
    law: Annotated[str, option("LAW")] = "log-linear"
    """The law that leads: log-linear, linear, power, power-offset, log-quadratic, shifted-power, broken-power; with
    --and: plane, interaction, log-plane, log-interaction, two-powers, two-powers-crossed, chinchilla."""
    method: Literal["ls", "huber"] = "ls"
    """ls: least squares; huber: a Huber loss, with bootstrap intervals."""
    residuals: Annotated[Literal["log", "plain"] | None, option(hint="default: log")] = None
    """Of huber: log y less the logarithm of the law, or y less the law."""
    delta: Annotated[float | None, option("N", "default: 0.001 of log residuals, 1.345 robust sds of plain ones")] = (
        None
    )
    """Of huber: the residual from which the loss is absolute."""
    resampling: Annotated[Literal["pairs", "residuals"] | None, option(hint="default: pairs")] = None
    """Of huber: what the bootstrap draws, configurations or their residuals."""
    resamples: Annotated[int | None, option("N", "default: 1000")] = None
    """Of huber: how often the bootstrap draws."""
    bootstrap_seed: Annotated[int | None, option("N", "default: 0")] = None
    """Of huber: seed of the draws."""
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
        if self.track and flat(self.other):
            raise UserError("--track: the fit of several sources belongs to none of their experiments; drop it")
        if self.track and self.experiment is None:
            raise UserError(f"--track: the runs come from {self.source}; expected a source such as mlflow:EXPERIMENT")
        command = portable_command(*sys.argv[1:])
        if self.second is not None:
            return self._both_axes(names, self.second, command)
        if self.compute or self.isoflop:
            raise UserError("--compute and --isoflop: are about two axes; expected --and COLUMN")
        from analysis.report.outcome import fit_table

        asking = self._asking()
        asking.check(1)
        with working(f"fitting {self.source}") as note:
            outcome = fit_table(
                self.read_all([self.x, *names]), self.x, names, asking, flat(self.include), self.unit, self.out,
                command=command, progress=_counting(note), style=self.style,
            )  # fmt: skip
            if self.track and self.experiment is not None:
                from analysis.report.mlflow import write_fits

                write_fits(outcome.analyses, outcome.paths, self.uri(), self.experiment)
        self._answer(outcome.trees, outcome.text, [outcome.paths["html"]] if outcome.paths else [])
        return 0

    def _asking(self) -> Asking:
        """Returns the law and the method asked for.

        Raises:
            UserError: options of huber without it.
        """
        from analysis.inference.asked import Asking
        from analysis.laws.curves import Huber

        loss = {"residuals": self.residuals, "delta": self.delta}
        draws = {"resampling": self.resampling, "resamples": self.resamples, "seed": self.bootstrap_seed}
        given = [f"--{name}" for name, value in {**loss, **draws}.items() if value is not None]
        if given and self.method != "huber":
            names = ", ".join(given).replace("--seed", "--bootstrap-seed")
            raise UserError(f"{names}: of --method huber alone; add it, or leave them out")
        chosen: dict[str, Any] = {name: value for name, value in draws.items() if value is not None}
        kept: dict[str, Any] = {name: value for name, value in loss.items() if value is not None}
        return Asking(self.law, self.method, Huber(**kept), **chosen)

    def _both_axes(self, names: list[str], second: str, command: str) -> int:
        """Prints laws of two axes, the one asked for first; with --out writes a page for each metric."""
        from analysis.inference.asked import ask_joint, joint_lines
        from analysis.inference.axes import analyse_axes
        from analysis.inference.compute import buy
        from analysis.report.trees import joint_tree
        from analysis.report.write import write_joint_report

        if self.track or self.unit != "configuration":
            raise UserError("--and: laws of two axes go without --track and --unit; drop them")
        asking = self._asking()
        chosen = self.law != "log-linear"
        if chosen:
            asking.check(2)
        elif asking.special:
            raise UserError("--method huber --and: fits one law; name it with --law, such as --law chinchilla")
        with working(f"fitting {self.source}") as note:
            frame = self.read_all([self.x, second.partition(":")[0], *names])
            found = [analyse_axes(frame, self.x, second, name, flat(self.include)) for name in names]
            asked = [ask_joint(item, asking, _counting(note)) if chosen else None for item in found]
            budgets = (self.compute, self.flops_per_pair, self.isoflop, self.better)
            bought = [buy(item, *budgets) for item in found]
        pages = []
        if self.out is not None:
            folders = [self.out if len(found) == 1 else self.out / file_name(item.y_name) for item in found]
            pages = [
                write_joint_report(item, folder, command, law, self.style, spent)["html"]
                for item, folder, law, spent in zip(found, folders, asked, bought, strict=True)
            ]
        trees, words = [], []
        for item, law, spent in zip(found, asked, bought, strict=True):
            trees.append(joint_tree(item, law, spent))
            words += [*joint_lines(law), item.text(), *said(item, spent)]
        self._answer(trees, "\n".join(words), pages)
        return 0

    def _answer(self, trees: Sequence[dict[str, Any]], words: str, pages: Sequence[Path]) -> None:
        first, *others = trees
        self.answer(first | {"also": others} if others else first, words)
        for page in pages:
            say(f"report: {page}", keep=[page])
