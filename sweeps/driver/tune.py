"""The adapter to Ray Tune: trials are asked for one by one, watched, and said to have ended."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from ray import cluster_resources, kill, tune

# Where no TrialProgressCallback is given, Tune adds one that prints whatever the verbosity.
from ray.tune.progress_reporter import TrialProgressCallback
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from drorae.config import TrialConfig
from drorae.errors import ClusterLostError
from sweeps.driver.deaths import taken_for_deaths
from sweeps.driver.pruning import Pruning
from sweeps.driver.queue import Listed
from sweeps.driver.search import Studies
from sweeps.driver.session import Session
from sweeps.driver.until import Until
from sweeps.folder.lease import LeaseLostError
from sweeps.folder.sweep import STUDIES, trial_place
from sweeps.resources import Share, times
from sweeps.settings import Settings
from sweeps.worker import entry as workers
from sweeps.worker.attempt import Work

WAITING_BYTES = 2**28
"""Memory of the process around a trial of several, which waits for them."""

Asker = Listed | Studies | Until
"""Says what is run next."""
T = TypeVar("T")


class Here(Generic[T]):
    """Holds something that stays in this process: Tune pickles what it is given, and this pickles as nothing.

    No copy is ever worked with. What a driver holds (its screen, locks, a store's connections) cannot be pickled.
    """

    def __init__(self, *held: T) -> None:
        self._held = held

    def __call__(self) -> T:
        """What it holds.

        Raises:
            RuntimeError: this is a copy.
        """
        if not self._held:
            raise RuntimeError("a copy that Tune pickled holds nothing of the driver's")
        return self._held[0]

    def __reduce__(self) -> tuple[type[Here[T]], tuple[()]]:
        return Here, ()


@dataclass(frozen=True)
class TunePlan:
    """What Tune is to run, and how."""

    asker: Asker
    share_of: Callable[[TrialConfig], Share]
    settings: Settings
    pruning: Pruning | None
    """Ends hopeless trials early; None: every trial runs to its end."""
    check: Callable[[], None] = lambda: None
    """Called at every step of Tune's and before anything is written; what it raises ends the trials."""
    lost: Callable[[], bool] = lambda: False
    """Whether the sweep is another driver's by now."""

    def checked(self) -> None:
        """Ends Tune where `check` raises."""
        try:
            self.check()
        except (ClusterLostError, LeaseLostError) as error:
            raise _End(error) from None


class _End(BaseException):
    """Carries an error through Tune, which for an Exception would first wait for workers that may be gone."""

    def __init__(self, error: ClusterLostError | LeaseLostError) -> None:
        super().__init__(str(error))
        self.error = error


def run_trials(session: Session, plan: TunePlan, work: Work, storage: Path) -> None:
    """Runs the trials; what became of each is then in its folder.

    Raises:
        ClusterLostError: the Ray cluster is gone.
        LeaseLostError: the sweep is another driver's by now.
    """
    shutil.rmtree(storage, ignore_errors=True)
    tuner = make_tuner(session, plan, work, storage)
    # What Tune logs about a failed trial is said by the watcher, in one line.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    try:
        with taken_for_deaths():
            tuner.fit()
    except _End as end:
        raise end.error from None
    finally:
        # Trials keep what matters in their own folders; what lies here may be of the other driver's Tune.
        if not plan.lost():
            shutil.rmtree(storage, ignore_errors=True)


def make_tuner(session: Session, plan: TunePlan, work: Work, storage: Path) -> tune.Tuner:
    """The Tuner of a plan. It holds nothing of the driver's that cannot be pickled."""

    def trainable(given: dict[str, Any]) -> None:
        workers.run_one(work, given["trial"]["config_hash"], Share(**given["trial"]["share"]))

    resources = plan.settings.resources
    shares = [plan.share_of(config) for config in session.configs.values()] or [plan.share_of(TrialConfig())]
    together = any(share.processes > 1 for share in shares)
    reuse = resources.reuse_workers
    if reuse is None:
        reuse = not together and all(share.gpus == 0 for share in shares)
    return tune.Tuner(
        tune.with_resources(trainable, _request),
        tune_config=tune.TuneConfig(
            scheduler=FIFOScheduler() if plan.pruning is None else _Pruner(session, plan),
            reuse_actors=reuse,
            max_concurrent_trials=resources.max_concurrent or (_count_fitting(shares) if together else None),
            trial_name_creator=_key,
            trial_dirname_creator=_key,
            # Trials are asked for one by one: the driver's memory does not grow with a list of them.
            search_alg=_Asking(session, plan),
            num_samples=-1,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(storage),
            failure_config=tune.FailureConfig(max_failures=-1 if plan.settings.max_failures else 0),
            callbacks=[_Watcher(session, plan)],
            progress_reporter=_Mute(),
            verbose=0,
        ),
    )


def _request(given: dict[str, Any]) -> tune.PlacementGroupFactory:
    share = Share(**given["trial"]["share"])
    # Ray Train asks for the processes itself; around them is one that only waits, and Tune wants a request for it.
    return tune.PlacementGroupFactory([share.one() if share.processes == 1 else {"memory": WAITING_BYTES}])


def _key(trial: Any) -> str:
    """The config hash of a Tune trial."""
    return str(trial.config["trial"]["config_hash"])


def _count_fitting(shares: Sequence[Share]) -> int:
    """How many trials the cluster has room for if all are of the smallest kind.

    Tune cannot count trials whose processes Ray Train asks for: it would start them all, to wait in processes.
    """
    return max(1, times(cluster_resources(), "CPU", min(share.cpus for share in shares)))


class _Pruner(FIFOScheduler):
    """Ends hopeless trials."""

    def __init__(self, session: Session, plan: TunePlan) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Ray's own
        self._session, self._plan = Here(session), Here(plan)

    def on_trial_result(self, controller: Any, trial: Any, result: dict[str, Any]) -> str:
        plan = self._plan()
        plan.checked()
        if "loss" not in result or plan.pruning is None:
            return FIFOScheduler.CONTINUE
        if not plan.pruning.prunes(_key(trial), result["epoch"], result["loss"]):
            return FIFOScheduler.CONTINUE
        self._session().stopped.add(_key(trial))
        return FIFOScheduler.STOP


class _Asking(Searcher):
    """A search algorithm of Tune's that asks a plan what to run."""

    def __init__(self, session: Session, plan: TunePlan) -> None:
        super().__init__()
        self._session, self._plan = Here(session), Here(plan)
        self._keys: dict[str, str] = {}
        self._spent = False

    def suggest(self, trial_id: str) -> Any:
        session, plan = self._session(), self._plan()
        asker, budget = plan.asker, plan.settings.budget_hours
        plan.checked()
        if not self._spent and session.over_budget(budget):
            self._spent = True
            session.screen.line(f"the budget of {budget:g} hours is spent: no more trials are started")
        key = None if self._spent else asker.ask()
        if key is None:
            return Searcher.FINISHED if asker.finished or (self._spent and not self._keys) else None
        session.send(trial_place(key))
        session.send(STUDIES)
        session.screen.total = max(asker.total, session.screen.total)
        self._keys[trial_id] = key
        return {"trial": {"config_hash": key, "share": asdict(plan.share_of(session.configs[key]))}}

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        if trial_id not in self._keys:
            return
        self._plan().checked()
        session, asker, pruning = self._session(), self._plan().asker, self._plan().pruning
        key = self._keys.pop(trial_id)
        session.conclude(key, error)
        session.tune_trials.pop(key, None)
        asker.tell(key)
        if pruning is not None:
            pruning.tell(key)
        session.send(STUDIES)

    def save(self, checkpoint_path: str) -> None:
        """What is done stands in the trials' folders, what a search asked for in its file."""

    def restore(self, checkpoint_path: str) -> None:
        """See `save`."""


class _Mute(tune.ProgressReporter):
    """Says nothing. Without a reporter, Tune takes one of its own, which in a notebook clears the cell's output."""

    def should_report(self, trials: list[Any], done: bool = False) -> bool:
        return False

    def report(self, trials: list[Any], done: bool, *sys_info: str) -> None:
        pass


class _Watcher(TrialProgressCallback):
    """Tells the session what becomes of trials, in the driver."""

    def __init__(self, session: Session, plan: TunePlan) -> None:
        super().__init__()
        self._held, self._plan = Here(session), Here(plan)

    def _session(self) -> Session:
        self._plan().checked()
        return self._held()

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self._plan().checked()
        for stalled in self._session().find_stalled():
            # Tune takes it for a worker that died, as it is.
            kill(stalled.temporary_state.ray_actor)

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: Any, **info: Any) -> None:
        pass

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._session().begin(_key(trial), trial)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        session, key = self._session(), _key(trial)
        # One whose worker died before it began has not been begun here.
        session.tune_trials.setdefault(key, trial)
        if not session.goes_on(key):
            # The worker that Tune is about to start finds it given up, and ends it; one that fails even so is the last.
            trial.max_failures = 0

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._session().end(_key(trial), died=False)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._session().end(_key(trial), died=True)
