"""Runs a sweep's trials on Ray Tune: the driver. What its workers do stands in workers.py.

What is done is read from the trials' folders, not from Ray: the same command run again does what is missing and
nothing else, whatever became of the process that ran it before.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from drorae.config import Runtime, TrialConfig, canonical_json, config_hash, phase1_key, to_dict
from drorae.errors import UserError, one_line
from drorae.files import write_json
from sweeps import workers
from sweeps.progress import SweepProgress, duration
from sweeps.resources import Resources, Share, check_shares
from sweeps.spec import SweepSpec, expand, read_field, short_name, varied_fields
from sweeps.table import read_outcome, write_table
from sweeps.tracking import SweepTracker
from sweeps.workers import Work

RUN_TRIAL = "drorae.trial:run_trial"
PREPARE = "drorae.trial:prepare"
DONE = ("finished", "unconverged", "diverged", "pruned")
"""Statuses that a rerun leaves alone."""
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
    trials_csv: Path
    counts: dict[str, int]
    """Trials per status: finished, unconverged, diverged, pruned, failed, missing."""
    parent_run_id: str
    tracking_uri: str


@dataclass
class _Session:
    """What the driver knows while trials run."""

    configs: dict[str, TrialConfig]
    trials: Path
    varied: list[str]
    progress: SweepProgress
    started: dict[str, float] = field(default_factory=dict)

    def label(self, key: str) -> str:
        """`capacity=8 seed=0`."""
        names = self.varied or ["fusion.expert_hidden_dim"]
        return " ".join(f"{short_name(name)}={read_field(self.configs[key], name)}" for name in names)


def run_sweep(
    spec: SweepSpec,
    *,
    root: Path = Path("runs"),
    runtime: Runtime | None = None,
    resources: Resources | None = None,
    max_failures: int = 3,
    asha: Asha | None = None,
    tracking_uri: str | None = None,
    quiet: bool = False,
    run_trial: str = RUN_TRIAL,
    prepare: str = PREPARE,
) -> SweepOutcome:
    """Runs what is missing of a sweep, and records everything in MLflow and in `<root>/<name>/trials.csv`.

    A trial that raises, or whose process dies, is tried again from its checkpoint up to `max_failures` times and
    then recorded as failed, while the sweep goes on; a later call tries it again. A UserError in a trial is
    recorded at once.

    Args:
        spec: the trials.
        root: folder of all sweeps. This one's folder is `<root>/<name>`.
        runtime: device, threads, cache; with threads 0 a trial uses its CPUs.
        resources: per trial and in all.
        max_failures: retries per trial.
        asha: early stopping; None: every trial runs to its end.
        tracking_uri: MLflow store; None: MLFLOW_TRACKING_URI, else `<root>/mlflow.db`.
        quiet: print nothing.
        run_trial: `module:function` to call instead of drorae's, for tests and other tokenizers.
        prepare: the same for what trials share; called with (config, runtime, report).

    Raises:
        UserError: an unusable spec; another sweep of this name with other trials; another process at work on it;
            resources that the machine lacks; an MLflow store that does not answer; or nothing can be prepared.
    """
    configs = {config_hash(config): config for config in expand(spec)}
    runtime = _absolute(runtime or Runtime())
    resources = resources or Resources()
    if max_failures < 0:
        raise UserError(f"max_failures: expected 0 or more, got {max_failures}")
    directory = Path(root).resolve() / spec.name
    existed = directory.exists()
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{directory}: cannot be created ({error.strerror}); choose another folder") from None
    lock = FileLock(directory / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(
            f"{directory}: another drorae sweep is running here; wait for it, or give this one another --name"
        ) from None
    with lock:
        try:
            sweep_id = _check_spec(directory, configs)
            trials = directory / "trials"
            missing = [key for key in configs if read_outcome(trials / key)["status"] not in DONE]
            with (
                SweepProgress(len(configs), quiet) as progress,
                ray_session(resources.address) if missing else contextlib.nullcontext(),
            ):
                session = _Session(configs, trials, varied_fields(list(configs.values())), progress)
                shares = _shares(configs, missing, resources, runtime)
                preparation = _Preparation(session, missing, runtime, shares, prepare, directory)
                preparation.start()
                # Making an MLflow store takes as long as the first worker's imports, and goes on beside them.
                progress.doing("opening MLflow")
                _require_tune()
                tracker = SweepTracker(spec.name, sweep_id, Path(root), tracking_uri)
                failed, rows = preparation.finish()
                address = tracker.open_parent(f"{len(configs)} trials")
                _write_spec(directory, spec, sweep_id, configs)
                for key in missing:
                    write_json(trials / key / "config.json", to_dict(configs[key]))
                    (trials / key / "failure.json").unlink(missing_ok=True)
                for key, reason in failed.items():
                    write_json(trials / key / "failure.json", {"reason": reason})
                runnable = [key for key in missing if key not in failed]
                everything = list(configs.values())
                counts: dict[str, int] = {}
                try:
                    tracker.log_preparation(rows)
                    tracker.settle(everything, trials, progress.line, frozenset(runnable))
                    progress.begin_trials(len(configs) - len(runnable))
                    if len(configs) > len(missing):
                        progress.line(f"{len(configs) - len(missing)} of {len(configs)} trials are done already")
                    if runnable:
                        work = Work(str(trials), runtime, address, run_trial, asha is not None)
                        _tune(session, runnable, work, resources, shares, max_failures, asha, directory / "ray")
                finally:
                    tracker.settle(everything, trials, progress.line)
                    counts = write_table(directory / "trials.csv", everything, trials)
                    tracker.close(counts, [directory / "trials.csv", directory / "sweep.json"], progress.line)
        except UserError:
            # A mistake in the very first call leaves no folder behind.
            if not existed and not (directory / "sweep.json").exists():
                shutil.rmtree(directory, ignore_errors=True)
            raise
        return SweepOutcome(directory, directory / "trials.csv", counts, tracker.parent_run_id, tracker.uri)


def status(name: str, root: Path = Path("runs")) -> dict[str, int]:
    """How many trials of a sweep have each status, from its folder alone.

    Raises:
        UserError: no such sweep.
    """
    directory = Path(root) / name
    return dict(Counter(read_outcome(directory / "trials" / key)["status"] for key in _read_spec(directory)["trials"]))


def _read_spec(directory: Path) -> dict[str, Any]:
    path = directory / "sweep.json"
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{directory}: no sweep here; expected the sweep.json that a sweep writes") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable as JSON ({error}); delete the folder or choose another --name") from None


def _check_spec(directory: Path, configs: Mapping[str, TrialConfig]) -> str:
    """The sweep's id: that of the folder if its trials are all among these, a new one in an empty folder."""
    if not (directory / "sweep.json").exists():
        return uuid.uuid4().hex
    known = _read_spec(directory)
    lost = set(known["trials"]) - set(configs)
    if lost:
        raise UserError(
            f"{directory}: holds another sweep ({len(lost)} of its {len(known['trials'])} trials are not in this one); "
            "give this one another --name, or delete the folder"
        )
    return known["id"]


def _write_spec(directory: Path, spec: SweepSpec, sweep_id: str, configs: Mapping[str, TrialConfig]) -> None:
    write_json(directory / "sweep.json", {"id": sweep_id, "spec": spec.to_dict(), "trials": list(configs)})


def _absolute(runtime: Runtime) -> Runtime:
    return replace(runtime, cache_dir=str(Path(runtime.cache_dir).expanduser().resolve()))


def _shares(
    configs: Mapping[str, TrialConfig], keys: Sequence[str], resources: Resources, runtime: Runtime
) -> dict[str, Share]:
    """What each of the trials gets, once the cluster is known to have it.

    Raises:
        UserError: it has not, or the numbers make no sense.
    """
    if not keys:
        return {}
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus_seen = runtime.device in ("auto", "cuda") and any(node.get("GPU", 0) >= 1 for node in nodes)
    shares = {key: resources.share(configs[key], gpus_seen) for key in keys}
    if not resources.autoscaling:
        check_shares(list(shares.values()), nodes, runtime.device)
    return shares


@contextlib.contextmanager
def ray_session(address: str) -> Iterator[None]:
    """A Ray session: the one there is, the cluster at `address`, or a local one that ends with the sweep."""
    settings = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AIR_NEW_OUTPUT": "0",
        "RAY_CHDIR_TO_TRIAL_DIR": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
        "TUNE_DISABLE_SIGINT_HANDLER": "1",
        # Tune's own result files and TensorBoard logs: nobody reads them here.
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    # Workers import the project from where it is, installed or not.
    source = str(Path(__file__).resolve().parent.parent)
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if source not in paths:
        os.environ["PYTHONPATH"] = os.pathsep.join([source, *filter(None, paths)])
    try:
        import ray
    except ImportError:
        raise UserError("a sweep needs Ray; pip install 'ray[tune]'") from None
    if ray.is_initialized():
        yield
        return
    common: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
    try:
        if address:
            environment = {name: os.environ[name] for name in (*settings, "PYTHONPATH")}
            ray.init(address=address, runtime_env={"env_vars": environment}, **common)
        else:
            ray.init(address="local", include_dashboard=False, object_store_memory=2**28, **common)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        where = f"at {address} " if address else ""
        raise UserError(f"Ray {where}did not start ({one_line(error)[:200]})") from None
    try:
        yield
    finally:
        ray.shutdown()


def _require_tune() -> None:
    try:
        from ray import tune  # noqa: F401
    except ImportError:
        raise UserError("a sweep needs Ray Tune; pip install 'ray[tune]'") from None


def _preparation_key(config: TrialConfig) -> str:
    """Trials with equal keys share everything that `prepare` makes: phase 1 and the reference statistics."""
    return config_hash(phase1_key(config) | {"evaluation": to_dict(config.evaluation)})


class _Preparation:
    """Makes what the missing trials share, one preparation after the other, each with a whole node's CPUs."""

    def __init__(
        self,
        session: _Session,
        missing: Sequence[str],
        runtime: Runtime,
        shares: Mapping[str, Share],
        function: str,
        directory: Path,
    ) -> None:
        self.session, self.runtime, self.function, self.directory = session, runtime, function, directory
        self.shares = shares
        self.groups: dict[str, list[str]] = {}
        for key in missing:
            self.groups.setdefault(_preparation_key(session.configs[key]), []).append(key)
        self._jobs: dict[str, Any] = {}

    def start(self) -> None:
        """Sends all preparations to Ray, which runs them as nodes come free."""
        if not self.groups:
            return
        import ray

        for group, keys in self.groups.items():
            share = self._whole_node(min(1.0, max(self.shares[key].gpus for key in keys)))
            remote = ray.remote(workers.prepare).options(num_cpus=share.cpus, num_gpus=share.gpus, max_retries=2)
            config = canonical_json(self.session.configs[keys[0]])
            runtime = workers.threads(self.runtime, share)
            self._jobs[group] = remote.remote(config, runtime, str(self._log(group)), self.function)

    def _whole_node(self, gpus: float) -> Share:
        """All CPUs of the largest node that has the GPUs; where nodes start on demand, what a trial gets."""
        import ray

        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        fitting = [node.get("CPU", 0.0) for node in nodes if node.get("GPU", 0.0) >= gpus]
        one = max(share.one()["CPU"] for share in self.shares.values())
        return Share(max([one, *fitting]), gpus)

    def finish(self) -> tuple[dict[str, str], list[dict[str, float | str]]]:
        """Waits for the preparations, showing how they get on.

        Returns the trials that cannot run with the reason, and the reported rows of the only preparation (none
        where there were several).

        Raises:
            UserError: no preparation succeeded, and each for a reason the user can mend.
        """
        failed: dict[str, str] = {}
        mendable = 0
        rows: list[dict[str, float | str]] = []
        progress = self.session.progress
        for number, (group, keys) in enumerate(self.groups.items(), 1):
            title = "prepare" if len(self.groups) == 1 else f"prepare {number}/{len(self.groups)}"
            started = time.monotonic()
            tail = _Tail(self._log(group), title, progress)
            problem = self._wait(group, tail)
            rows = tail.show()
            self._log(group).unlink(missing_ok=True)
            if problem is None:
                progress.line(f"{title}: ready in {duration(time.monotonic() - started)}")
            else:
                mendable += bool(problem["user"])
                reason = problem["reason"] if problem["user"] else f"preparation failed: {problem['reason']}"
                failed |= dict.fromkeys(keys, reason)
                progress.line(f"{title}: {reason}")
        if self.groups and mendable == len(self.groups):
            raise UserError(next(iter(failed.values())))
        return failed, rows if len(self.groups) == 1 else []

    def _log(self, group: str) -> Path:
        return self.directory / f"prepare-{group}.jsonl"

    def _wait(self, group: str, tail: _Tail) -> dict[str, Any] | None:
        """None, or what went wrong."""
        import ray

        job = self._jobs[group]
        while not ray.wait([job], timeout=0.5)[0]:
            tail.show()
        try:
            return ray.get(job)
        except Exception as error:
            return {"reason": _last_line(error), "user": False}


class _Tail:
    """Follows the rows that a preparation writes to a file, and prints some of them."""

    def __init__(self, path: Path, title: str, progress: SweepProgress) -> None:
        self.path, self.title, self.progress = path, title, progress
        self.rows: list[dict[str, float | str]] = []
        self._position = 0
        self._said = ""
        self._next = 0.0

    def show(self) -> list[dict[str, float | str]]:
        if not self.path.is_file():
            return self.rows
        before = len(self.rows)
        with self.path.open() as file:
            file.seek(self._position)
            # Text mode cannot tell after iteration, so lines are read one by one.
            while (line := file.readline()).endswith("\n"):
                self.rows.append(json.loads(line))
                self._position = file.tell()
        if len(self.rows) > before:
            self._say(self.rows[-1])
        return self.rows

    def _say(self, row: Mapping[str, float | str]) -> None:
        if "loss" in row:
            what = str(row.get("phase", ""))
            where = f"step {float(row['step']):.0f}" + (
                f" of {float(row['total_steps']):.0f}" if "total_steps" in row else ""
            )
            text = f"{self.title}: {what}, {where}, loss {float(row['loss']):.4f}"
        else:
            what = str(row.get("note", ""))
            text = f"{self.title}: {what}"
            if float(row.get("total", 0)) > 1:
                text += f", {float(row['done']):.0f} of {float(row['total']):.0f}"
        self.progress.doing(text)
        if what != self._said or time.monotonic() > self._next:
            self._said, self._next = what, time.monotonic() + 15
            self.progress.line(text)


def _last_line(error: BaseException) -> str:
    """What an exception that came through Ray says, as one line."""
    if type(error).__name__ in ("ActorDiedError", "WorkerCrashedError", "OutOfMemoryError", "ActorUnavailableError"):
        return "the worker process died (killed, or out of memory)"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__


def _reason(directory: Path) -> str:
    """Why the last attempt at a trial ended without a result."""
    path = directory / "error.txt"
    if not path.is_file():
        return "the worker process died (killed, or out of memory)"
    lines = [line.strip() for line in path.read_text().splitlines() if line.strip()]
    return lines[-1][:300] if lines else "unknown error"


def _tune(
    session: _Session,
    keys: Sequence[str],
    work: Work,
    resources: Resources,
    shares: Mapping[str, Share],
    max_failures: int,
    asha: Asha | None,
    storage: Path,
) -> None:
    """Runs the trials; what became of each is then in its folder."""
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler, FIFOScheduler

    shutil.rmtree(storage, ignore_errors=True)

    def trainable(point: dict[str, Any]) -> None:
        workers.run_one(work, point["config_hash"], shares[point["config_hash"]])

    def request(point: dict[str, Any]) -> tune.PlacementGroupFactory:
        share = shares[point["config_hash"]]
        # Ray Train asks for the processes itself; around them is one that only waits, and Tune wants a request for it.
        return tune.PlacementGroupFactory([share.one() if share.processes == 1 else {"memory": WAITING_BYTES}])

    together = any(shares[key].processes > 1 for key in keys)
    reuse = not together and all(share.gpus == 0 for share in shares.values())
    if resources.reuse_workers is not None:
        reuse = resources.reuse_workers
    scheduler = FIFOScheduler()
    if asha is not None:
        scheduler = ASHAScheduler(
            "epoch", metric="loss", mode="min", grace_period=asha.grace_epochs, reduction_factor=asha.reduction,
            max_t=10**6,
        )  # fmt: skip
    tuner = tune.Tuner(
        tune.with_resources(trainable, request),
        param_space={"config_hash": tune.grid_search(list(keys))},
        tune_config=tune.TuneConfig(
            scheduler=scheduler,
            reuse_actors=reuse,
            max_concurrent_trials=resources.max_concurrent or (_fitting(list(shares.values())) if together else None),
            trial_name_creator=lambda trial: trial.config["config_hash"],
            trial_dirname_creator=lambda trial: trial.config["config_hash"],
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(storage),
            failure_config=tune.FailureConfig(max_failures=max_failures),
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


def _fitting(shares: Sequence[Share]) -> int:
    """How many trials the cluster has room for if all are of the smallest kind.

    Tune cannot count trials whose processes Ray Train asks for: it would start them all, to wait in processes.
    """
    import ray

    seen = ray.cluster_resources()
    smallest = min(share.cpus for share in shares)
    return max(1, int(seen.get("CPU", 0.0) / smallest + 1e-6))


def _watcher(session: _Session) -> Any:
    """A Tune callback, in the driver: prints events and leaves failure.json or pruned.json where there is no result."""
    # Where no TrialProgressCallback is given, Tune adds one that prints whatever the verbosity.
    from ray.tune.progress_reporter import TrialProgressCallback

    def ended(key: str, died: bool) -> None:
        directory = session.trials / key
        outcome = read_outcome(directory)
        if outcome["status"] == "missing" and died:
            write_json(directory / "failure.json", {"reason": _reason(directory)})
        elif outcome["status"] == "missing":
            reason = "pruned by ASHA; delete this trial's pruned.json and sweep without it to run it to its end"
            write_json(directory / "pruned.json", {"reason": reason})
        outcome = read_outcome(directory)
        if outcome["status"] in ("failed", "pruned", "diverged"):
            said = f"{outcome['status']}: {outcome.get('reason', '')}"
        else:
            shown = {name: outcome.get("metrics", {}).get(name) for name in ("psnr", "rfd_dinov2")}
            said = " ".join(f"{name}={value:.4g}" for name, value in shown.items() if value is not None)
            if outcome["status"] != "finished":
                said += f" {outcome['status']}"
        seconds = duration(time.monotonic() - session.started.get(key, time.monotonic()))
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
            session.started[trial.config["config_hash"]] = time.monotonic()

        def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            key = trial.config["config_hash"]
            session.progress.line(f"{session.label(key)}: tried again ({_reason(session.trials / key)})")

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            ended(trial.config["config_hash"], died=False)

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            ended(trial.config["config_hash"], died=True)

    return Watcher()
