"""`drorae status`: what a sweep that somebody started is doing, from wherever its folder can be seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from drorae.commands.options import JsonOption, SweepOptions
from drorae.commands.terminal import print_table, show
from drorae.runtime.shell import command
from drorae.storage.remote import locate
from drorae.trial.folder import BROKEN, TrialStatus

if TYPE_CHECKING:
    from sweeps.driver.status import SweepState


@dataclass(kw_only=True)
class Status(SweepOptions, JsonOption):
    """Show what a sweep is doing: trials done, running, failed and missing, the time left, the cost so far.

    Example: drorae status quickstart
    """

    def run(self) -> int:
        """Prints the state; changes nothing."""
        from sweeps.driver.status import sweep_state

        state = sweep_state(self.root / self.name)
        self.answer(state.tree(), lambda: self._print(state))
        return 0

    def _print(self, state: SweepState) -> None:
        from sweeps.driver.console import PROGRESS_COLUMNS, duration, progress_cells

        counts = ", ".join(f"{number} {status}" for status, number in sorted(state.counts.items()))
        show(f"{state.name}: {state.total} trials: {counts}" if counts else f"{state.name}: no trial is begun yet")
        cost = f"{state.cost.gpu_hours:.2f} GPU hours, " if state.cost.gpu_hours else ""
        show(f"cost so far: {cost}{state.cost.cpu_hours:.2f} CPU hours")
        if state.seconds_left:
            show(f"about {duration(state.seconds_left)} left")
        if state.running:
            rows = map(progress_cells, state.running)
            print_table(PROGRESS_COLUMNS, rows, drop=("memory", "images/s", "loss"))
        damaged = [(label, reason, TrialStatus.MISSING) for label, reason in state.damaged]
        for label, reason, status in (*state.failed, *damaged):
            show(f"{status}: {label}: {reason}")
        unfinished = sum(state.counts.get(status, 0) for status in (*BROKEN, TrialStatus.MISSING))
        if state.decided:
            show(state.decided)
        if state.driven:
            print("a driver is at work on it")
        elif unfinished or state.running or not state.total:
            resume = command("resume", state.name, "--root", locate(self.root))
            show(f"no driver is at work on it: {resume}", keep=[resume])
