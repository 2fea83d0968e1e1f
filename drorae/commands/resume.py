"""`drorae resume`: a sweep that somebody started, finished."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Annotated

from drorae.commands.options import JsonOption, SweepOptions, option
from drorae.commands.sweep import conclude, import_analysis
from drorae.commands.until import decided, verdict_name


@dataclass(kw_only=True)
class Resume(SweepOptions, JsonOption):
    """Finish a sweep with the settings that it was started with, whatever became of the process that ran it.

    Example: drorae resume quickstart
    """

    no_fit: bool = False
    """Stop after the trials."""

    notify: Annotated[str | None, option("COMMAND", "default: none")] = None
    """The same as of drorae sweep, whose own is not kept: it may hold a token."""

    until: Annotated[str | None, option("END", "default: as it was started")] = None
    """all: also run the trials that --until decided has left out; decided: see drorae sweep."""

    def run(self) -> int:
        """Runs what is missing; 0, or 1 where a trial failed."""
        from sweeps.driver.run import resume_sweep
        from sweeps.folder.mirror import local_copy
        from sweeps.folder.sweep import RECORD, read_record

        until = None if self.until is None else verdict_name(self.until)
        directory = self.root / self.name
        spec = read_record(local_copy(directory, (RECORD,))).spec
        if not self.no_fit:
            threading.Thread(target=import_analysis, daemon=True).start()
        outcome = resume_sweep(directory, notify=self.notify, until=until, decided=decided)
        return conclude(spec, outcome, self.root, self.no_fit, self.as_json)
