"""`drorae resume`: a sweep that somebody started, finished."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from drorae.commands.options import JsonOption, SweepOptions
from drorae.commands.sweep import conclude, import_analysis


@dataclass(kw_only=True)
class Resume(SweepOptions, JsonOption):
    """Finish a sweep with the settings that it was started with, whatever became of the process that ran it.

    Example: drorae resume quickstart
    """

    no_fit: bool = False
    """Stop after the trials."""

    def run(self) -> int:
        """Runs what is missing; 0, or 1 where a trial failed."""
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
