"""What trials share, made before them: features, phase 1 and reference statistics, as tasks of the cluster."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from drorae.config import Runtime, TrialConfig, canonical_json, config_hash, phase1_key, to_dict
from drorae.errors import UserError, last_line
from drorae.files import write_atomic
from drorae.remote import Remote, RemoteError
from sweeps import workers
from sweeps.cluster import alive_nodes
from sweeps.mirror import Mirror
from sweeps.progress import SweepProgress, duration
from sweeps.resources import Share

DIED = (
    "the worker process died (killed, or out of memory: if again, lower --micro-batch, or run fewer at once with "
    "--max-concurrent or more --cpus-per-trial)"
)


def _preparation_key(config: TrialConfig) -> str:
    """Trials with equal keys share everything that `prepare` makes: phase 1 and the reference statistics."""
    return config_hash(phase1_key(config) | {"evaluation": to_dict(config.evaluation)})


class Preparation:
    """Makes what the missing trials share, one preparation after the other, each with a whole node's CPUs."""

    def __init__(
        self,
        configs: Mapping[str, TrialConfig],
        progress: SweepProgress,
        runtime: Runtime,
        share_of: Callable[[TrialConfig], Share],
        function: str,
        directory: Path,
        mirror: Mirror | None,
    ) -> None:
        self.configs, self.share_of = configs, share_of
        self.progress, self.runtime, self.function, self.directory = progress, runtime, function, directory
        self.remote = None if mirror is None else mirror.remote
        self.groups: dict[str, list[str]] = {}
        for key, config in configs.items():
            self.groups.setdefault(_preparation_key(config), []).append(key)
        self._jobs: dict[str, Any] = {}

    def start(self) -> None:
        """Sends all preparations to Ray, which runs them as nodes come free."""
        if not self.groups:
            return
        import ray

        for group, keys in self.groups.items():
            share = self._whole_node([self.share_of(self.configs[key]) for key in keys])
            remote = ray.remote(workers.prepare).options(num_cpus=share.cpus, num_gpus=share.gpus, max_retries=2)
            config = canonical_json(self.configs[keys[0]])
            runtime = workers.threads(self.runtime, share)
            self._jobs[group] = remote.remote(
                config, runtime, str(self._remote_log(group) or self._log(group)), self.function
            )

    def _whole_node(self, shares: Sequence[Share]) -> Share:
        """All CPUs of the largest node that has a GPU if trials have; where nodes are still to come, a trial's."""
        gpus = min(1.0, max(share.gpus for share in shares))
        nodes = [node["Resources"] for node in alive_nodes()]
        fitting = [node.get("CPU", 0.0) for node in nodes if node.get("GPU", 0.0) >= gpus]
        return Share(max([*fitting, *(share.one()["CPU"] for share in shares)]), gpus)

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
        progress = self.progress
        for number, (group, keys) in enumerate(self.groups.items(), 1):
            title = "prepare" if len(self.groups) == 1 else f"prepare {number}/{len(self.groups)}"
            started = time.monotonic()
            tail = _Tail(self._log(group), title, progress)
            problem = self._wait(group, tail)
            self._fetch(group)
            rows = tail.show()
            self._log(group).unlink(missing_ok=True)
            if log := self._remote_log(group):
                with contextlib.suppress(RemoteError):
                    log.delete()
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

    def _remote_log(self, group: str) -> Remote | None:
        return None if self.remote is None else self.remote / self._log(group).name

    def _fetch(self, group: str) -> None:
        """Brings the rows here from the store that they are written to, if they are."""
        with contextlib.suppress(RemoteError):
            if (log := self._remote_log(group)) and (content := log.read()):
                write_atomic(self._log(group), content)

    def _wait(self, group: str, tail: _Tail) -> dict[str, Any] | None:
        """None, or what went wrong."""
        import ray

        job = self._jobs[group]
        while not ray.wait([job], timeout=0.5 if self.remote is None else 5.0)[0]:
            self._fetch(group)
            tail.show()
        try:
            return ray.get(job)
        except Exception as error:
            return {"reason": _reason(error), "user": False}


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
                # A full disk cuts rows short.
                with contextlib.suppress(ValueError):
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


def _reason(error: BaseException) -> str:
    """What an exception that came through Ray says, as one line."""
    if type(error).__name__ in ("ActorDiedError", "WorkerCrashedError", "OutOfMemoryError", "ActorUnavailableError"):
        return DIED
    return last_line(str(error)) or type(error).__name__
