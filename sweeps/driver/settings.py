"""How a sweep is run, apart from what it runs: what `run_sweep` is told, and sweep.json keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from drorae.config import Runtime, from_dict, to_dict
from drorae.errors import UserError, one_line
from sweeps.driver.pruning import Asha
from sweeps.resources import Resources
from sweeps.spec import Search

RUN_TRIAL = "drorae.trial.run:run_trial"
PREPARE = "drorae.trial.run:prepare"
PRUNERS = ("none", "median", "hyperband", "asha")


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

    def check(self) -> None:
        """Raises UserError for numbers that make no sense."""
        if self.max_failures < 0:
            raise UserError(f"max_failures: expected 0 or more, got {self.max_failures}")
        if self.budget_hours < 0:
            raise UserError(f"budget_hours: expected 0 (no limit) or more, got {self.budget_hours:g}")
        if self.pruner not in PRUNERS:
            raise UserError(f"pruner: expected one of {', '.join(PRUNERS)}, got {self.pruner!r}")

    def pruner_of(self, search: Search | None) -> str:
        """Returns the name of the pruner that ends trials early: the search's own, else the sweep's."""
        name = self.pruner if search is None or search.pruner == "none" else search.pruner
        return "asha" if name == "none" and self.asha is not None else name

    def tree(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self) | {"runtime": to_dict(self.runtime)}

    @staticmethod
    def from_tree(tree: Mapping[str, Any]) -> Settings:
        """The inverse of `tree`."""
        runtime, resources = from_dict(Runtime, tree["runtime"]), Resources.from_dict(tree["resources"])
        asha = Asha(**tree["asha"]) if tree["asha"] else None
        # Where drorae 0.1.0 had them.
        moved = {name: tree[name].replace("drorae.trial:", "drorae.trial.run:") for name in ("run_trial", "prepare")}
        try:
            return Settings(**{**tree, **moved, "runtime": runtime, "resources": resources, "asha": asha})
        except TypeError as error:
            raise UserError(f"sweep.json: {one_line(error)}; made by a newer drorae: update this one") from None
