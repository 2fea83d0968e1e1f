"""Runs a sweep's trials on Ray Tune: the driver. What its workers do stands in workers.py.

What is done is read from the trials' folders, not from Ray: the same command run again does what is missing and
nothing else, whatever became of the process that ran it before.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from drorae.config import Runtime, TrialConfig, config_hash, from_dict, to_dict
from drorae.errors import UserError, last_line
from drorae.files import full_disk, has_room, naming_full_disk, write_json
from drorae.remote import Remote, absolute, locate, patiently
from sweeps import workers
from sweeps.cluster import alive_nodes, ray_session, require_tune
from sweeps.lease import Lease, is_live, read_lease
from sweeps.mirror import TOLD, Mirror, brought, check_store, in_trials
from sweeps.preparation import DIED, Preparation
from sweeps.progress import SweepProgress, duration
from sweeps.resources import Resources, Share, check_shares, times
from sweeps.search import Studies
from sweeps.spec import Search, SweepSpec, expand, field_name, point_label, varied_fields
from sweeps.state import DRIVER_LEASE, Cost, read_cost, read_spec
from sweeps.table import measured, read_outcome, ready_trial, table_rows, write_table
from sweeps.tracking import ARTIFACTS, RunAddress, SweepTracker, check_nodes
from sweeps.workers import Work

RUN_TRIAL = "drorae.trial:run_trial"
PREPARE = "drorae.trial:prepare"
DONE = ("finished", "unconverged", "diverged", "pruned")
"""Statuses that a rerun leaves alone."""
DEATHS = 10
"""Times that a trial may lose its process, beyond `max_failures`: machines are preempted, and it goes on from its
checkpoint."""
AWAIT_STORE_SECONDS = 120.0
"""After the last trial, a tracking server that is away is waited for so long."""
DRIVER_FILES = ("sweep.json", "trials.csv", "studies.db", *in_trials(TOLD))
"""What a driver needs of a sweep whose folder is in a store; weights and checkpoints stay there."""
RECORDED = (*TOLD, *ARTIFACTS, "samples.npz", "*.png")
"""What recording a trial's end needs."""
AWAY = "drorae.remote.RemoteError: ", "drorae.errors.UserError: "
"""How the line of a traceback begins that says why a worker could not begin or end."""
WAITING_BYTES = 2**28
"""Memory of the process around a trial of several, which waits for them."""


@dataclass(frozen=True)
class Asha:
    """Early stopping by asynchronous successive halving (Li et al., arXiv 1810.05934) on the mean training loss of
    an epoch. Pruned trials are recorded as such and never fitted."""

    grace_epochs: int = 1
    """Epochs before the first decision."""
    reduction: int = 3
    """One in so many goes on at each decision; decisions come at grace_epochs times its powers."""


@dataclass(frozen=True)
class SweepOutcome:
    """Where a sweep's results are."""

    directory: Path
    """Of a sweep in a store: this machine's copy."""
    trials_csv: Path
    counts: dict[str, int]
    """Trials per status: finished, unconverged, diverged, pruned, failed, missing."""
    parent_run_id: str
    tracking_uri: str
    charts: str = ""
    """Address below the MLflow UI's of every metric's chart against capacity."""
    mirror: Mirror | None = None
    """Sends what is added to `directory` to the store; None where the folder is on a disk."""

    @property
    def place(self) -> str:
        """The sweep's folder as everybody knows it: its path or URL."""
        return str(self.directory if self.mirror is None else self.mirror.remote)

    def fetch_picture(self, under: str) -> None:
        """Brings a trial's picture here, where the sweep's folder is in a store; `under`: `trials/HASH`."""
        if self.mirror is not None:
            self.mirror.pull(under, ("grid.png",))


def run_sweep(
    spec: SweepSpec,
    *,
    root: Path | str = Path("runs"),
    runtime: Runtime | None = None,
    resources: Resources | None = None,
    max_failures: int = 3,
    asha: Asha | None = None,
    tracking_uri: str | None = None,
    budget_hours: float = 0.0,
    quiet: bool = False,
    run_trial: str = RUN_TRIAL,
    prepare: str = PREPARE,
) -> SweepOutcome:
    """Runs what is missing of a sweep, and records everything in MLflow and in `<root>/<name>/trials.csv`.

    A trial that raises is tried again from its checkpoint up to `max_failures` times and then recorded as failed,
    while the sweep goes on; a later call tries it again. One whose process or machine dies is given `DEATHS` more
    (none where `max_failures` is 0). A UserError in a trial is recorded at once.

    Args:
        spec: the trials.
        root: folder of all sweeps, or a URL such as `s3://bucket/runs` where no disk is shared. This one's folder is
            `<root>/<name>`.
        runtime: device, threads, cache; with threads 0 a trial uses its CPUs.
        resources: per trial and in all.
        max_failures: retries per trial.
        asha: early stopping; None: every trial runs to its end.
        tracking_uri: MLflow store; None: MLFLOW_TRACKING_URI, else `<root>/mlflow.db`.
        budget_hours: no trial is started once the sweep has cost so many GPU hours (CPU hours where trials have no
            GPU), all attempts of all calls counted; 0: no limit.
        quiet: print nothing.
        run_trial: `module:function` to call instead of drorae's, for tests and other tokenizers.
        prepare: the same for what trials share; called with (config, runtime, report).

    Raises:
        UserError: an unusable spec; another sweep of this name with other trials; another process at work on it;
            resources that the machine lacks; an MLflow store that does not answer; or nothing can be prepared.
        DiskFull: there is no room for what the driver itself writes.
        RemoteError: the store that holds the sweep's folder stays away.
    """
    basis = {config_hash(config): config for config in expand(spec)}
    runtime = _absolute(runtime or Runtime())
    resources = resources or Resources()
    if max_failures < 0:
        raise UserError(f"max_failures: expected 0 or more, got {max_failures}")
    if budget_hours < 0:
        raise UserError(f"budget_hours: expected 0 (no limit) or more, got {budget_hours:g}")
    settings = {
        "runtime": to_dict(runtime),
        "resources": asdict(resources),
        "max_failures": max_failures,
        "asha": None if asha is None else asdict(asha),
        "budget_hours": budget_hours,
        "run_trial": run_trial,
        "prepare": prepare,
    }
    place = locate(root)
    mirror = Mirror(place / spec.name, "driver") if isinstance(place, Remote) else None
    home = Path(absolute(root)) if mirror is None else mirror.local.parent
    directory = home / spec.name
    lease = (directory if mirror is None else mirror.remote) / DRIVER_LEASE
    existed = directory.exists()
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{directory}: cannot be created ({error.strerror}); choose another folder") from None
    if mirror is not None:
        check_store(mirror.remote)
    held = Lease(lease)
    if not quiet and not is_live(lease) and read_lease(lease) is not None:
        print(f"{spec.name}: its last driver left no word; waiting to see whether it lives", flush=True)
    with naming_full_disk(directory):
        acquired = held.acquire(wait=False)
    if not acquired:
        raise UserError(
            f"{lease.parent}: another drorae sweep is running here; wait for it, or give this one another --name"
        )
    with held, naming_full_disk(directory):
        try:
            if mirror is not None:
                pull = mirror.pull
                patiently(lambda: pull(patterns=DRIVER_FILES))
            sweep_id = _check_spec(directory, spec, basis)
            trials = directory / "trials"
            studies = None if spec.search is None else Studies(directory / "studies.db", spec, trials)
            configs = basis if studies is None else studies.configs
            if studies is None:
                missing = [key for key in configs if read_outcome(trials / key)["status"] not in DONE]
            else:
                missing = [] if studies.finished else list(basis)
            total = len(configs) if studies is None else studies.total
            with (
                SweepProgress(total, quiet) as progress,
                ray_session(resources.address) if missing else contextlib.nullcontext(),
            ):
                varied = varied_fields(list(basis.values()))
                varied += [field_name(item.name) for item in spec.search.ranges] if spec.search else []
                session = _Session(configs, trials, list(dict.fromkeys(varied)), progress, mirror)
                share_of = _sharing(basis, missing, resources, runtime, apart=mirror is not None)
                groups = {key: basis[key] for key in missing}
                preparation = Preparation(groups, progress, runtime, share_of, prepare, directory, mirror)
                preparation.start()
                # Making an MLflow store takes as long as the first worker's imports, and goes on beside them.
                progress.doing("opening MLflow")
                require_tune()
                tracker = SweepTracker(spec.name, sweep_id, home, tracking_uri, _known_address(directory))
                check_nodes(tracker.uri, [node["NodeManagerAddress"] for node in alive_nodes()] if missing else ())
                failed, prepared = preparation.finish()
                address = tracker.open_parent(f"{total} trials", progress.line)
                _write_spec(directory, spec, sweep_id, configs, settings, address)
                runnable: list[str] = []
                if studies is None:
                    for key in missing:
                        ready_trial(trials / key, configs[key])
                    for key, reason in failed.items():
                        write_json(trials / key / "failure.json", {"reason": reason})
                    runnable = [key for key in missing if key not in failed]
                session.send()
                counts: dict[str, int] = {}
                charts, patience = "", 0.0
                try:
                    tracker.log_preparation(prepared)
                    tracker.settle(list(configs.values()), trials, progress.line, frozenset(runnable), session.fetch)
                    known = sum(read_outcome(trials / key)["status"] in DONE for key in configs)
                    progress.begin_trials(total - len(runnable) if studies is None else known)
                    if known:
                        progress.line(f"{known} of {total} trials are done already")
                    if runnable or (studies is not None and missing):
                        reports = asha is not None or (spec.search is not None and spec.search.pruner != "none")
                        remote = "" if mirror is None else mirror.remote.url
                        work = Work(str(trials), runtime, address, run_trial, reports, max_failures, remote)
                        asker = Listed(runnable) if studies is None else studies
                        plan = _Plan(asker, share_of, resources, max_failures, asha, budget_hours)
                        # Hidden, it is not sent to a store.
                        _tune(session, plan, work, directory / ("ray" if mirror is None else ".ray"))
                    patience = AWAIT_STORE_SECONDS
                finally:
                    everything = list(configs.values())
                    roles = {} if studies is None else studies.roles()
                    rows = table_rows(everything, trials, roles)
                    counts = write_table(directory / "trials.csv", rows)
                    _write_spec(directory, spec, sweep_id, configs, settings, address)
                    tracker.await_store(patience, progress.line)
                    tracker.settle(everything, trials, progress.line, fetch=session.fetch)
                    tracker.tag_tuning(roles, progress.line)
                    charts = tracker.share_view(measured(rows), progress.line)
                    tracker.close(counts, [directory / "trials.csv", directory / "sweep.json"], progress.line)
                    session.send()
        except UserError:
            # A mistake in the very first call leaves no folder behind.
            if not existed and not (directory / "sweep.json").exists():
                shutil.rmtree(directory, ignore_errors=True)
            raise
        table = directory / "trials.csv"
        return SweepOutcome(directory, table, counts, tracker.parent_run_id, tracker.uri, charts, mirror)


def _check_spec(directory: Path, spec: SweepSpec, configs: Mapping[str, TrialConfig]) -> str:
    """The sweep's id: that of the folder if its trials are all among these, a new one in an empty folder."""
    if not (directory / "sweep.json").exists():
        return uuid.uuid4().hex
    known = read_spec(directory)
    before = set(known["trials"])
    search = None
    if known["spec"].get("search"):
        earlier = SweepSpec.from_dict(known["spec"])
        before, search = {config_hash(config) for config in expand(earlier)}, earlier.search
    lost = before - set(configs)
    remedy = "give this one another --name, or delete the folder"
    if lost:
        raise UserError(
            f"{directory}: holds another sweep ({len(lost)} of its {len(before)} trials are not in this one); {remedy}"
        )
    # More trials of the same search go on with its studies.
    if _but_trials(search) != _but_trials(spec.search):
        raise UserError(f"{directory}: holds a sweep with another search, or with none; {remedy}")
    return known["id"]


def _but_trials(search: Search | None) -> Search | None:
    return None if search is None else replace(search, trials=0)


def _write_spec(
    directory: Path,
    spec: SweepSpec,
    sweep_id: str,
    configs: Mapping[str, TrialConfig],
    settings: Mapping[str, Any],
    address: RunAddress,
) -> None:
    tree = {"id": sweep_id, "spec": spec.to_dict(), "settings": settings, "tracking": asdict(address),
            "trials": list(configs)}  # fmt: skip
    write_json(directory / "sweep.json", tree)


def _known_address(directory: Path) -> RunAddress | None:
    """Where the sweep was recorded before; None where it never was."""
    tree = read_spec(directory).get("tracking") if (directory / "sweep.json").exists() else None
    return None if tree is None else RunAddress(**tree)


def resume_sweep(directory: Path | str, *, tracking_uri: str | None = None, quiet: bool = False) -> SweepOutcome:
    """Finishes a sweep from its folder or URL, with the settings it was started with; arguments as for `run_sweep`.

    Raises:
        UserError: no sweep there, and what `run_sweep` refuses.
    """
    tree = read_spec(brought(directory, ("sweep.json",)))
    spec = SweepSpec.from_dict(tree["spec"])
    settings = dict(tree.get("settings", {}))
    if settings:
        settings["runtime"] = from_dict(Runtime, settings["runtime"])
        settings["resources"] = Resources.from_dict(settings["resources"])
        settings["asha"] = Asha(**settings["asha"]) if settings["asha"] else None
    place = locate(directory)
    root = place.parent.url if isinstance(place, Remote) else place.parent
    return run_sweep(spec, root=root, tracking_uri=tracking_uri, quiet=quiet, **settings)


def _absolute(runtime: Runtime) -> Runtime:
    return replace(runtime, cache_dir=absolute(runtime.cache_dir))


def _sharing(
    configs: Mapping[str, TrialConfig], keys: Sequence[str], resources: Resources, runtime: Runtime, apart: bool
) -> Callable[[TrialConfig], Share]:
    """What a trial gets, once the cluster is known to have it for those of `keys`; `apart`: nodes share no disk.

    Raises:
        UserError: it has not, or the numbers make no sense.
    """
    nodes = [node["Resources"] for node in alive_nodes()] if keys else []
    gpus_seen = runtime.device in ("auto", "cuda") and any(node.get("GPU", 0) >= 1 for node in nodes)
    shares = [resources.share(configs[key], gpus_seen) for key in keys]
    if apart and any(share.processes > 1 for share in shares):
        raise UserError(
            "--root: trials of several processes need a folder on a disk that all nodes share; give a path, or "
            "--processes 1"
        )
    if not resources.autoscaling:
        check_shares(shares, nodes, runtime.device)
    return lambda config: resources.share(config, gpus_seen)


@dataclass
class _Session:
    """What the driver knows while trials run."""

    configs: dict[str, TrialConfig]
    trials: Path
    varied: list[str]
    progress: SweepProgress
    mirror: Mirror | None
    started: dict[str, float] = field(default_factory=dict)
    """When each trial that runs was started."""
    costs: dict[str, Cost] = field(default_factory=dict)
    raised: dict[str, int] = field(default_factory=dict)
    """Errors that each trial has left, as far as they were looked at."""
    tune_trials: dict[str, Any] = field(default_factory=dict)

    def fetch(self, key: str, names: Sequence[str] = RECORDED) -> None:
        """Brings files of a trial here, where the sweep's folder is in a store."""
        if self.mirror is not None:
            pull = self.mirror.pull
            patiently(lambda: pull(f"trials/{key}", names))

    def send(self, under: str = "") -> None:
        """Sends what changed in the sweep's folder, where that is in a store."""
        if self.mirror is not None:
            push = self.mirror.push
            patiently(lambda: push(under))

    def label(self, key: str) -> str:
        """`capacity=8 seed=0`."""
        return point_label(self.configs[key], self.varied or ["fusion.expert_hidden_dim"])

    def over_budget(self, hours: float) -> bool:
        """Whether the sweep has cost so many GPU hours, or CPU hours where no trial had a GPU; 0 is no limit."""
        if not hours:
            return False
        for key in self.configs:
            # This is asked before every trial: files of those that nobody works on are read once.
            if key in self.started or key not in self.costs:
                if key in self.started:
                    self.fetch(key, ("progress.json",))
                self.costs[key] = read_cost(self.trials / key)
        gpu_hours = sum(cost.gpu_hours for cost in self.costs.values())
        return (gpu_hours or sum(cost.cpu_hours for cost in self.costs.values())) >= hours

    def reason(self, key: str) -> str:
        """Why the last attempt at a trial ended without a result."""
        errors = workers.errors(self.trials / key)
        before, self.raised[key] = self.raised.get(key, 0), len(errors)
        if len(errors) > before:
            return last_line(errors[-1].read_text()) or "unknown error"
        # A worker that a store keeps from the trial's folder cannot leave a word there.
        told = getattr(self.tune_trials.get(key), "error_file", None)
        lines = Path(told).read_text().splitlines() if told and Path(told).is_file() else []
        away = next((line.partition(": ")[2] for line in reversed(lines) if line.startswith(AWAY)), "")
        if away:
            return away
        # An attempt that left no word of what it raised had no time to, or no room.
        directory = self.trials / key
        return DIED if has_room(directory, workers.ROOM_BYTES) else full_disk(directory)

    def conclude(self, key: str, died: bool) -> None:
        """Leaves failure.json or pruned.json where a trial that Tune has ended left no result."""
        directory = self.trials / key
        if read_outcome(directory)["status"] == "missing":
            self.fetch(key, TOLD)
        if read_outcome(directory)["status"] != "missing":
            return
        name, reason = "failure.json", self.reason(key) if died else ""
        if not died:
            name = "pruned.json"
            reason = "stopped early by the scheduler; delete this trial's pruned.json and sweep without it to run it"
        try:
            write_json(directory / name, {"reason": reason})
            self.send(f"trials/{key}")
        except OSError as error:
            # It stays missing, and the next call tries it again.
            self.progress.line(f"{self.label(key)}: {reason}; not recorded ({error.strerror or error})")


class Asker(Protocol):
    """What is run next: a list, or Optuna's studies."""

    @property
    def total(self) -> int:
        """Trials that will have been run, as far as is known."""

    @property
    def finished(self) -> bool:
        """Whether nothing is left to ask for and nothing runs."""

    def ask(self) -> str | None:
        """The config hash of the next trial, its folder ready; None while there is none, or for good."""

    def tell(self, key: str) -> None:
        """A trial has ended."""


class Listed:
    """The trials of a sweep without a search, in order."""

    def __init__(self, keys: Sequence[str]) -> None:
        self.total = len(keys)
        self._left = deque(keys)
        self._running: set[str] = set()

    @property
    def finished(self) -> bool:
        """Whether all have ended."""
        return not self._left and not self._running

    def ask(self) -> str | None:
        """The next one."""
        if not self._left:
            return None
        key = self._left.popleft()
        self._running.add(key)
        return key

    def tell(self, key: str) -> None:
        """One has ended."""
        self._running.discard(key)


@dataclass(frozen=True)
class _Plan:
    """What is to be run, and how."""

    asker: Asker
    share_of: Callable[[TrialConfig], Share]
    resources: Resources
    max_failures: int
    asha: Asha | None
    budget_hours: float


def _tune(session: _Session, plan: _Plan, work: Work, storage: Path) -> None:
    """Runs the trials; what became of each is then in its folder."""
    from ray import tune

    shutil.rmtree(storage, ignore_errors=True)

    def point(key: str) -> dict[str, Any]:
        return {"config_hash": key, "share": asdict(plan.share_of(session.configs[key]))}

    def trainable(given: dict[str, Any]) -> None:
        workers.run_one(work, given["trial"]["config_hash"], Share(**given["trial"]["share"]))

    def request(given: dict[str, Any]) -> tune.PlacementGroupFactory:
        share = Share(**given["trial"]["share"])
        # Ray Train asks for the processes itself; around them is one that only waits, and Tune wants a request for it.
        return tune.PlacementGroupFactory([share.one() if share.processes == 1 else {"memory": WAITING_BYTES}])

    resources = plan.resources
    shares = [plan.share_of(config) for config in session.configs.values()] or [plan.share_of(TrialConfig())]
    together = any(share.processes > 1 for share in shares)
    reuse = not together and all(share.gpus == 0 for share in shares)
    if resources.reuse_workers is not None:
        reuse = resources.reuse_workers
    at_once = resources.max_concurrent or (_fitting(shares) if together else None)
    tuner = tune.Tuner(
        tune.with_resources(trainable, request),
        tune_config=tune.TuneConfig(
            scheduler=_scheduler(plan),
            reuse_actors=reuse,
            max_concurrent_trials=at_once,
            trial_name_creator=_key,
            trial_dirname_creator=_key,
            # Trials are asked for one by one: the driver's memory does not grow with a list of them.
            search_alg=_asking(session, plan, point),
            num_samples=-1,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(storage),
            failure_config=tune.FailureConfig(max_failures=plan.max_failures + DEATHS if plan.max_failures else 0),
            callbacks=[_watcher(session)],
            verbose=0,
        ),
    )
    # What Tune logs about a failed trial is said by the watcher, in one line.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    try:
        tuner.fit()
    finally:
        # Trials keep what matters in their own folders.
        shutil.rmtree(storage, ignore_errors=True)


def _key(trial: Any) -> str:
    """The config hash of a Tune trial."""
    return trial.config["trial"]["config_hash"]


def _scheduler(plan: _Plan) -> Any:
    from ray.tune.schedulers import ASHAScheduler, FIFOScheduler

    if plan.asha is not None:
        return ASHAScheduler(
            "epoch", metric="loss", mode="min", grace_period=plan.asha.grace_epochs,
            reduction_factor=plan.asha.reduction, max_t=10**6,
        )  # fmt: skip
    if not isinstance(plan.asker, Studies) or plan.asker.search.pruner == "none":
        return FIFOScheduler()
    studies: Studies = plan.asker

    class Pruning(FIFOScheduler):
        def on_trial_result(self, controller: Any, trial: Any, result: dict[str, Any]) -> str:
            hopeless = "loss" in result and studies.prunes(_key(trial), int(result["epoch"]), float(result["loss"]))
            return FIFOScheduler.STOP if hopeless else FIFOScheduler.CONTINUE

    return Pruning()


def _asking(session: _Session, plan: _Plan, point: Callable[[str], dict[str, Any]]) -> Any:
    """A search algorithm of Tune's that asks `plan` what to run; `point` makes a trial's parameters of its hash."""
    from ray.tune.search import Searcher

    asker = plan.asker

    class Asking(Searcher):
        def __init__(self) -> None:
            super().__init__()
            self.keys: dict[str, str] = {}
            self.spent = False

        def suggest(self, trial_id: str) -> Any:
            if not self.spent and session.over_budget(plan.budget_hours):
                self.spent = True
                session.progress.line(f"the budget of {plan.budget_hours:g} hours is spent: no more trials are started")
            key = None if self.spent else asker.ask()
            if key is None:
                return Searcher.FINISHED if asker.finished or (self.spent and not self.keys) else None
            session.send(f"trials/{key}")
            session.send("studies.db")
            session.progress.total = max(asker.total, session.progress.total)
            self.keys[trial_id] = key
            return {"trial": point(key)}

        def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
            if trial_id in self.keys:
                key = self.keys.pop(trial_id)
                session.conclude(key, error)
                session.tune_trials.pop(key, None)
                asker.tell(key)
                session.send("studies.db")

        def save(self, checkpoint_path: str) -> None:
            """What is done stands in the trials' folders, what a search asked for in its file."""

        def restore(self, checkpoint_path: str) -> None:
            """See `save`."""

    return Asking()


def _fitting(shares: Sequence[Share]) -> int:
    """How many trials the cluster has room for if all are of the smallest kind.

    Tune cannot count trials whose processes Ray Train asks for: it would start them all, to wait in processes.
    """
    import ray

    seen = ray.cluster_resources()
    smallest = min(share.cpus for share in shares)
    return max(1, times(seen, "CPU", smallest))


def _watcher(session: _Session) -> Any:
    """A Tune callback, in the driver: prints events and leaves failure.json or pruned.json where there is no result."""
    # Where no TrialProgressCallback is given, Tune adds one that prints whatever the verbosity.
    from ray.tune.progress_reporter import TrialProgressCallback

    def ended(key: str, died: bool) -> None:
        session.conclude(key, died)
        directory = session.trials / key
        outcome = read_outcome(directory)
        if outcome["status"] in ("failed", "pruned", "diverged"):
            said = f"{outcome['status']}: {outcome.get('reason', '')}"
        else:
            shown = {name: outcome.get("metrics", {}).get(name) for name in ("psnr", "rfd_dinov2")}
            said = " ".join(f"{name}={value:.4g}" for name, value in shown.items() if value is not None)
            if outcome["status"] != "finished":
                said += f" {outcome['status']}"
        seconds = duration(time.monotonic() - session.started.pop(key, time.monotonic()))
        session.costs.pop(key, None)
        session.progress.ended(f"{session.label(key)} {said} {seconds}")
        warnings = directory / "warnings.txt"
        if warnings.is_file():
            for line in dict.fromkeys(warnings.read_text().splitlines()):
                session.progress.line(f"{session.label(key)}: {line}")
            warnings.unlink()

    class Watcher(TrialProgressCallback):
        def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: Any, **info: Any) -> None:
            pass

        def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            session.started[_key(trial)] = time.monotonic()
            session.tune_trials[_key(trial)] = trial

        def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            key = _key(trial)
            session.fetch(key, TOLD)
            session.progress.line(f"{session.label(key)}: tried again ({session.reason(key)})")

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            ended(_key(trial), died=False)

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            ended(_key(trial), died=True)

    return Watcher()
