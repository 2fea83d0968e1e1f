"""Where the results of a sweep are, for those who called for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from drorae.trial.folder import GRID
from sweeps.folder.mirror import Mirror


@dataclass(frozen=True)
class SweepOutcome:
    """Where a sweep's results are."""

    directory: Path
    """Of a sweep in a store: this machine's copy."""
    trials_csv: Path
    counts: dict[str, int]
    """Trials per status (`TrialStatus`)."""
    parent_run_id: str
    tracking_uri: str
    charts: str = ""
    """Address below the MLflow UI's of every metric's chart against capacity."""
    mirror: Mirror | None = None
    """Sends what is added to `directory` to the store; None where the folder is on a disk."""
    decided: str = ""
    """What ended the sweep where its law may: the verdict, or that all trials have left it undecided."""

    @property
    def place(self) -> str:
        """The sweep's folder as everybody knows it: its path or URL."""
        return str(self.directory if self.mirror is None else self.mirror.remote)

    def fetch_picture(self, under: str) -> None:
        """Brings a trial's picture here, where the sweep's folder is in a store; `under`: `trials/HASH`."""
        if self.mirror is not None:
            self.mirror.pull(under, (GRID,))
