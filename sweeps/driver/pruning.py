"""Early stopping, of grids and searches alike: Optuna's pruners on the mean training loss of an epoch."""

from __future__ import annotations

import functools
import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from drorae.storage.places import sqlite_uri
from drorae.trial.folder import MEASURED, TrialStatus, read_outcome
from sweeps.settings import Asha

if TYPE_CHECKING:
    import optuna


def quiet_optuna() -> None:
    """Keeps Optuna, and what makes its tables, from logging what is no error."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    logging.getLogger("alembic").setLevel(logging.ERROR)


class Pruning:
    """Decides which running trials are hopeless.

    The losses stand in the sweep's SQLite file, in studies of their own that minimise them, whatever a search is for:
    the next driver goes on from there. Only trials of one group are compared, which in a search is a configuration.

    Args:
        path: the SQLite file.
        trials: the folder that holds one folder per trial, named by config hash.
        group_of: the group of a trial by its config hash; None for one that is never pruned.
        pruner: its name, not "none".
        asha: the rungs of that one.
    """

    def __init__(
        self, path: Path, trials: Path, group_of: Callable[[str], str | None], pruner: str, asha: Asha
    ) -> None:
        import optuna

        quiet_optuna()
        self._storage = optuna.storages.get_storage(sqlite_uri(path))
        self._trials, self._group_of = trials, group_of
        self._make_pruner = functools.partial(_make_pruner, pruner, asha)
        self._studies: dict[str, optuna.Study] = {}
        self._running: dict[str, optuna.Trial] = {}

    def prunes(self, key: str, epoch: int, loss: float) -> bool:
        """Returns whether a running trial ends after this epoch.

        Args:
            key: its config hash.
            epoch: the number of the epoch, from 1.
            loss: its mean training loss.
        """
        trial = self._trial(key)
        if trial is None:
            return False
        # A later attempt goes through epochs again that an earlier one reported.
        with warnings.catch_warnings(action="ignore"):
            trial.report(loss, epoch)
        return trial.should_prune()

    def tell(self, key: str) -> None:
        """Takes note of how a trial ended, from its folder."""
        from optuna.trial import TrialState

        trial = self._running.pop(key, None)
        if trial is None:
            return
        status = read_outcome(self._trials / key)["status"]
        if status in MEASURED:
            losses = trial.study.trials[trial.number].intermediate_values
            trial.study.tell(trial, losses[max(losses)])
        else:
            trial.study.tell(trial, state=TrialState.PRUNED if status == TrialStatus.PRUNED else TrialState.FAIL)

    def _trial(self, key: str) -> optuna.Trial | None:
        """Returns Optuna's trial for one of ours, that of an earlier driver where it had begun it."""
        import optuna

        group = self._group_of(key)
        if group is None:
            return None
        if key not in self._running:
            if group not in self._studies:
                name = f"{group} losses"
                self._studies[group] = optuna.create_study(
                    storage=self._storage, study_name=name, pruner=self._make_pruner(), load_if_exists=True
                )
            study = self._studies[group]
            begun = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,))
            known = [trial for trial in begun if trial.user_attrs.get("config_hash") == key]
            trial = optuna.trial.Trial(study, known[0]._trial_id) if known else study.ask()
            trial.set_user_attr("config_hash", key)
            self._running[key] = trial
        return self._running[key]


def _make_pruner(name: str, asha: Asha) -> optuna.pruners.BasePruner:
    import optuna

    if name == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=3, n_warmup_steps=1)
    if name == "hyperband":
        return optuna.pruners.HyperbandPruner()
    return optuna.pruners.SuccessiveHalvingPruner(asha.grace_epochs, asha.reduction)
