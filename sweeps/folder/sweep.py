"""A sweep's folder: its files, and sweep.json, which says what the sweep is, how it is run and where it is recorded."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from drorae.config import from_dict, to_dict
from drorae.errors import UserError
from drorae.storage.files import write_json
from drorae.storage.layout import stamp, unstamp
from sweeps.settings import Settings
from sweeps.spec import SweepSpec

RECORD = "sweep.json"
TABLE = "trials.csv"
STUDIES = "studies.db"
"""Optuna's studies, of searches and of early stopping."""
DRIVER_LOG = "driver.log"
DRIVER_LEASE = "driver.lease"
"""Held by the process that runs the sweep."""
TRIALS = "trials"
"""Holds a folder for every trial, named by its config hash (`drorae.trial.folder`)."""
SCHEMA = 2
"""Version of sweep.json's layout. 1, without the number: drorae 0.1.0."""


def trial_place(key: str) -> str:
    """Returns the place of a trial's folder in the sweep's."""
    return f"{TRIALS}/{key}"


def in_trials(names: Sequence[str]) -> tuple[str, ...]:
    """Returns patterns of these files in every trial of a sweep's folder."""
    return tuple(trial_place(f"*/{name}") for name in names)


@dataclass(frozen=True)
class RunAddress:
    """Where a sweep's trials are recorded in MLflow: everything a worker needs to find or create its run."""

    tracking_uri: str
    experiment_id: str
    parent_run_id: str


@dataclass(frozen=True)
class SweepRecord:
    """What sweep.json says."""

    id: str
    spec: SweepSpec
    trials: tuple[str, ...]
    """Config hashes of all trials known so far."""
    settings: Settings | None = None
    tracking: RunAddress | None = None
    """None until the sweep is recorded."""
    former_hashes: Mapping[str, str] = field(default_factory=dict)
    """Today's hashes of trials that an earlier version knew by another."""

    def write(self, directory: Path) -> None:
        """Writes the file atomically."""
        tree = {
            **stamp(SCHEMA),
            "id": self.id,
            "spec": self.spec.to_dict(),
            "settings": self.settings and to_dict(self.settings),
            "tracking": self.tracking and asdict(self.tracking),
            "trials": list(self.trials),
            "former_hashes": dict(self.former_hashes),
        }
        write_json(directory / RECORD, tree)


def read_record(directory: Path) -> SweepRecord:
    """Reads the sweep.json of a sweep's folder, also one of an earlier version.

    Raises:
        UserError: no such file, not readable, or a newer drorae's.
    """
    path = directory / RECORD
    try:
        tree = _migrated(json.loads(path.read_text()))
        return SweepRecord(
            str(tree["id"]),
            SweepSpec.from_dict(tree["spec"]),
            tuple(tree["trials"]),
            from_dict(Settings, tree["settings"], "settings.") if tree["settings"] else None,
            RunAddress(**tree["tracking"]) if tree["tracking"] else None,
            tree["former_hashes"],
        )
    except FileNotFoundError:
        others = sorted(item.parent.name for item in directory.parent.glob(f"*/{RECORD}"))
        there = f"; sweeps in {directory.parent}: {', '.join(others)}" if others else ""
        raise UserError(f"{directory}: no sweep here; expected the {RECORD} that a sweep writes{there}") from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not readable ({error!r}); rename the folder, or choose another --name") from None


def _migrated(tree: dict[str, Any]) -> dict[str, Any]:
    """The content of a sweep.json of any version so far, in the layout of this one.

    Raises:
        UserError: a newer drorae wrote it.
    """
    version = unstamp(tree, SCHEMA)
    tree = {"settings": None, "tracking": None, "former_hashes": {}} | tree
    if version == 1 and tree["settings"]:
        # Where drorae 0.1.0 had the functions.
        moved = {
            name: str(tree["settings"][name]).replace("drorae.trial:", "drorae.trial.run:")
            for name in ("run_trial", "prepare")
        }
        tree["settings"] = tree["settings"] | moved
    return tree
