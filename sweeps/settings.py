"""How a sweep is run, apart from what it runs: what `run_sweep` is told, and sweep.json keeps."""

from __future__ import annotations

import math
from dataclasses import dataclass

from drorae.config import Runtime
from drorae.errors import UserError
from sweeps.resources import Resources
from sweeps.spec import Search

RUN_TRIAL = "drorae.trial.run:run_trial"
PREPARE = "drorae.trial.run:prepare"
PRUNERS = ("none", "median", "hyperband", "asha")


@dataclass(frozen=True)
class Asha:
    """Early stopping by asynchronous successive halving (Li et al., arXiv 1810.05934).

    It goes by the mean training loss of an epoch. Pruned trials are recorded as such and never fitted.
    """

    grace_epochs: int = 1
    """Epochs before the first decision."""
    reduction: int = 3
    """One in so many goes on at each decision; decisions come at grace_epochs times its powers."""


@dataclass(frozen=True)
class Settings:
    """How a sweep is run, as `run_sweep` is told."""

    runtime: Runtime
    resources: Resources
    max_failures: int
    asha: Asha | None
    budget_hours: float
    run_trial: str
    prepare: str
    pruner: str = "none"
    stall_minutes: float = 0.0
    pack: int = 0
    """Phase 2 of up to so many trials is trained together by one worker (`sweeps.packs`); below 2: of each alone."""
    until: str = ""
    """The verdict that ends the sweep once it is decided (`sweeps.driver.until`); empty: all trials are run."""

    def check(self) -> None:
        """Raises UserError for numbers that make no sense."""
        if self.max_failures < 0:
            raise UserError(f"max_failures: expected 0 or more, got {self.max_failures}")
        if self.budget_hours < 0:
            raise UserError(f"budget_hours: expected 0 (no limit) or more, got {self.budget_hours:g}")
        if self.pack < 0:
            raise UserError(f"pack: expected trials to train together, or 0 (each alone), got {self.pack}")
        if not 0 <= self.stall_minutes < math.inf:
            raise UserError(f"stall_minutes: expected 0 (by each trial's pace) or minutes, got {self.stall_minutes:g}")
        if self.pruner not in PRUNERS:
            raise UserError(f"pruner: expected one of {', '.join(PRUNERS)}, got {self.pruner!r}")

    def pruner_of(self, search: Search | None) -> str:
        """Returns the name of the pruner that ends trials early: the search's own, else the sweep's."""
        name = self.pruner if search is None or search.pruner == "none" else search.pruner
        return "asha" if name == "none" and self.asha is not None else name
