"""`drorae status` and `drorae resume`: a sweep that somebody started, from wherever its folder can be seen."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from drorae.commands.options import print_json, print_table, show
from drorae.runtime.shell import command
from drorae.storage.remote import locate

if TYPE_CHECKING:
    from sweeps.driver.status import SweepState


@dataclass(kw_only=True)
class _Named:
    """The sweep that a command is about."""

    name: Positional[Annotated[str, arg(metavar="NAME")]]
    """Name of the sweep."""
    root: Annotated[Path, arg(metavar="DIR")] = Path("runs")
    """Folder or URL of all sweeps."""


@dataclass(kw_only=True)
class Status(_Named):
    """Show what a sweep is doing: trials done, running, failed and missing, the time left, the cost so far.

    Example: drorae status quickstart
    """

    as_json: Annotated[bool, arg(name="json")] = False
    """Print one JSON object."""

    def run(self) -> int:
        """Prints the state; changes nothing."""
        from sweeps.driver.status import sweep_state

        state = sweep_state(self.root / self.name)
        if self.as_json:
            print_json(state.tree())
        else:
            self._print(state)
        return 0

    def _print(self, state: SweepState) -> None:
        from sweeps.driver.console import PROGRESS_COLUMNS, duration, progress_cells

        counts = ", ".join(f"{number} {status}" for status, number in sorted(state.counts.items()))
        lines = [f"{state.name}: {state.total} trials: {counts}"]
        cost = f"{state.cost.gpu_hours:.2f} GPU hours, " if state.cost.gpu_hours else ""
        lines.append(f"cost so far: {cost}{state.cost.cpu_hours:.2f} CPU hours")
        if state.seconds_left:
            lines.append(f"about {duration(state.seconds_left)} left")
        show("\n".join(lines))
        if state.running:
            rows = map(progress_cells, state.running)
            print_table(PROGRESS_COLUMNS, rows, drop=("memory", "images/s", "loss"))
        for what, trials in (("failed", state.failed), ("missing", state.damaged)):
            for label, reason in trials:
                show(f"{what}: {label}: {reason}")
        unfinished = state.counts.get("missing", 0) + state.counts.get("failed", 0)
        if state.driven:
            print("a driver is at work on it")
        elif unfinished or state.running:
            resume = command("resume", state.name, "--root", locate(self.root))
            show(f"no driver is at work on it: {resume}", keep=[resume])


@dataclass(kw_only=True)
class Resume(_Named):
    """Finish a sweep with the settings that it was started with, whatever became of the process that ran it.

    Example: drorae resume quickstart
    """

    no_fit: bool = False
    """Stop after the trials."""
    as_json: Annotated[bool, arg(name="json")] = False
    """Print the outcome as one JSON object."""

    def run(self) -> int:
        """Runs what is missing; 0, or 1 where a trial failed."""
        from drorae.commands.sweep import conclude, import_analysis
        from sweeps.driver.run import resume_sweep
        from sweeps.folder.mirror import brought
        from sweeps.folder.status import read_spec
        from sweeps.spec import SweepSpec

        directory = self.root / self.name
        spec = SweepSpec.from_dict(read_spec(brought(directory, ("sweep.json",)))["spec"])
        if not self.no_fit:
            threading.Thread(target=import_analysis, daemon=True).start()
        outcome = resume_sweep(directory)
        return conclude(spec, outcome, self.root, self.no_fit, self.as_json)
