"""What trials share, made before them: features, phase 1 and reference statistics, as tasks of the cluster."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from drorae.config import Runtime, TrialConfig, canonical_json, config_hash, shared_key
from drorae.errors import UserError
from drorae.machine.needs import guessed_shape
from drorae.storage.files import json_rows, write_atomic
from drorae.storage.remote import Remote, RemoteError
from drorae.training.rows import HELD_OUT_PSNR, is_held_out
from sweeps.driver.cluster import alive_nodes, free_cpus
from sweeps.driver.console import duration
from sweeps.driver.deaths import is_death, why_died
from sweeps.driver.home import Home
from sweeps.driver.output import Follower
from sweeps.driver.retries import Retries
from sweeps.driver.screen import Screen
from sweeps.folder.progress import RunningTrial
from sweeps.resources import Share
from sweeps.worker import entry as workers
from sweeps.worker.attempt import threads

PATIENCE_SECONDS = 120.0
"""One that nothing is heard of for so long, as no node has room for it, is sent again for fewer CPUs."""


class Preparation:
    """Makes what the missing trials share, on CPUs as many preparations at once as there are."""

    def __init__(
        self,
        configs: Mapping[str, TrialConfig],
        screen: Screen,
        runtime: Runtime,
        share_of: Callable[[TrialConfig], Share],
        function: str,
        home: Home,
        check: Callable[[], None],
        inputs: Mapping[str, Mapping[str, str]],
    ) -> None:
        """Groups the trials; starts nothing yet.

        Args:
            configs: the trials to prepare, by config hash.
            screen: shows how the preparations get on.
            runtime: device, threads, cache.
            share_of: what a trial gets of a node.
            function: `module:function` that prepares.
            home: the sweep's folder.
            check: called while they are waited for; what it raises ends the waiting.
            inputs: fingerprints that the sweep's trials were made from, by the hash of `shared_key`.
        """
        self.configs, self.share_of, self.check = configs, share_of, check
        self.screen, self.runtime, self.function, self.inputs = screen, runtime, function, inputs
        self.home = home
        self.groups: dict[str, list[str]] = {}
        for key, config in configs.items():
            self.groups.setdefault(config_hash(shared_key(config)), []).append(key)
        self._jobs: dict[str, Any] = {}
        self._shares: dict[str, Share] = {}
        self._heard = 0, 0.0
        """Rows of all that are waited for, and since when there have been no others (monotonic clock)."""
        self._left: dict[str, _PreparationLog] = {}
        """Those that are waited for."""
        self._retries = Retries()

    def start(self) -> None:
        """Sends all preparations to Ray, which runs them as nodes come free."""
        for group, keys in self.groups.items():
            self._forget(group)
            self._shares[group] = self._node_share([self.share_of(self.configs[key]) for key in keys])
            self._send(group)

    def _send(self, group: str) -> None:
        """Sends one to Ray, with its share of a node."""
        import ray

        keys, share = self.groups[group], self._shares[group]
        # Ray itself would try one that its memory monitor kills for ever.
        together = share.processes > 1
        # Several processes have resources of their own (`run_together`), and whoever waits for them none.
        held = Share(0.0) if together else share
        remote = ray.remote(workers.prepare).options(num_cpus=held.cpus, num_gpus=held.gpus, max_retries=0)
        # What is made for the one that reads most serves all.
        config = canonical_json(max((self.configs[key] for key in keys), key=_layers_read))
        encoding = 0 if together else self._encoding_threads(keys[0], share)
        runtime = replace(threads(self.runtime, share), encoding_threads=encoding)
        log = str(self._remote_log(group) or self._log(group))
        sent = config, runtime, log, self.function, self.inputs.get(group, {})
        self._jobs[group] = remote.remote(*sent, share if together else Share())

    def _make_do(self, group: str) -> None:
        """Sends one for which no node has had room for long again, for half the CPUs, down to those of a trial.

        On a shared cluster others may hold a CPU of every node for hours. And Ray's own books may lack one for ever: it
        loses what it has set aside for a placement group that is removed in the very moment in which it is made
        (ray-project/ray#64693).
        """
        import ray

        rows = sum(len(tail.read()) for tail in self._left.values())
        if rows != self._heard[0]:
            self._heard = rows, time.monotonic()
        waited, tail = time.monotonic() - self._heard[1], self._left[group]
        if waited < PATIENCE_SECONDS or tail.read():
            return
        share = self._shares[group]
        fewer = max(share.cpus // 2, *(self.share_of(self.configs[key]).cpus for key in self.groups[group]))
        if share.processes > 1 or fewer >= share.cpus:
            return
        # Where there is room for it, its worker is about to begin; where nothing is free, that may be its own doing.
        if 0 < free_cpus() < share.cpus:
            for_so_long = f"no {share.cpus:g} CPUs have been free for {duration(waited)}"
            self.screen.line(f"{tail.title}: {for_so_long}; asks for {fewer:g}")
            ray.cancel(self._jobs[group])
            self._shares[group] = replace(share, cpus=fewer)
            self._send(group)
            self._heard = rows, time.monotonic()

    def _node_share(self, shares: Sequence[Share]) -> Share:
        """All CPUs of the largest node that has a GPU if trials have; where nodes are still to come, a trial's.

        Without GPUs, more preparations than nodes share a node's CPUs: two decoders with a core each are ready before
        one after the other with both. Trials in several processes have it made in as many as the largest of them.
        """
        if (largest := max(shares, key=lambda share: share.processes)).processes > 1:
            return largest
        gpus, least = min(1.0, max(share.gpus for share in shares)), max(share.one()["CPU"] for share in shares)
        nodes = [node["Resources"] for node in alive_nodes()]
        fitting = [node.get("CPU", 0.0) for node in nodes if node.get("GPU", 0.0) >= gpus]
        at_once = 1 if gpus or not fitting else math.ceil(len(self.groups) / len(fitting))
        return Share(max(max(fitting, default=0.0) // at_once, least), gpus)

    def _encoding_threads(self, key: str, share: Share) -> int:
        """The CPUs of all preparations of a node that need a trial's features: one makes them, the others wait for it.

        0, for its own, where the user says how many threads there are.
        """
        if self.runtime.threads:
            return 0
        configs = (self.configs[keys[0]] for keys in self.groups.values())
        wanted = self.configs[key].images, self.configs[key].encoder
        same = sum((config.images, config.encoder) == wanted for config in configs)
        room = max((node["Resources"].get("CPU", 0.0) for node in alive_nodes()), default=0.0)
        return max(1, int(min(share.cpus * same, max(room, share.cpus))))

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
        screen, started = self.screen, time.monotonic()
        # One waits for another that makes the same: all that are under way are shown.
        for number, group in enumerate(self.groups, 1):
            title = "prepare" if len(self.groups) == 1 else f"prepare {number}/{len(self.groups)}"
            self._left[group] = _PreparationLog(self._log(group), title)
        if self._left:
            screen.doing("preparing", self)
        self._heard = 0, started
        for group, keys in self.groups.items():
            tail = self._left[group]
            title = tail.title
            screen.line(f"{title}: what {len(keys)} trials share (features, decoder, references)")
            problem = self._wait(group, tail)
            # Ray ends the process where its session is closed while another thread, such as the screen's, lets go of
            # the last reference to a task.
            del self._jobs[group]
            self._fetch(group)
            rows = tail.read()
            del self._left[group]
            self._forget(group)
            if problem is None:
                screen.line(f"{title}: ready in {duration(time.monotonic() - started)}")
            else:
                mendable += bool(problem["user"])
                reason = problem["reason"] if problem["user"] else f"preparation failed: {problem['reason']}"
                failed |= dict.fromkeys(keys, reason)
                screen.line(f"{title}: {reason}")
        if self.groups and mendable == len(self.groups):
            raise UserError(next(iter(failed.values())))
        return failed, rows if len(self.groups) == 1 else []

    def running(self) -> list[RunningTrial]:
        """The preparations that are not ready, as far as they are."""
        return [tail.running() for tail in list(self._left.values())]

    def seconds_left(self) -> float | None:
        """Nobody knows: what is cached already takes no time."""
        return None

    def _log(self, group: str) -> Path:
        return self.home.directory / f"prepare-{group}.jsonl"

    def _remote_log(self, group: str) -> Remote | None:
        place = self.home.place / self._log(group).name
        return place if isinstance(place, Remote) else None

    def _forget(self, group: str) -> None:
        """Deletes the log, which attempts add to."""
        self._log(group).unlink(missing_ok=True)
        with contextlib.suppress(RemoteError):
            if log := self._remote_log(group):
                log.delete()

    def _fetch(self, group: str) -> None:
        """Brings the rows here from the store that they are written to, if they are."""
        with contextlib.suppress(RemoteError):
            if (log := self._remote_log(group)) and (content := log.read()):
                write_atomic(self._log(group), content)

    def _wait(self, group: str, tail: _PreparationLog) -> dict[str, Any] | None:
        """None, or what went wrong. One whose worker dies is made again as long as it gets further each time."""
        import ray

        while True:
            while not ray.wait([self._jobs[group]], timeout=5.0 if self.home.mirror else 0.5)[0]:
                self.check()
                for other in self._left:
                    self._fetch(other)
                self._make_do(group)
            self.check()
            try:
                lacking: dict[str, Any] | None = ray.get(self._jobs[group])
                if lacking is None or not lacking.get("again"):
                    return lacking
                reason = str(lacking["reason"])
            except Exception as error:
                if not is_death(error):
                    return {"reason": why_died(error), "user": False}
                reason = why_died(error)
            self._fetch(group)
            if not self._retries.goes_on(group, {"rows": len(tail.read())}):
                return {"reason": reason, "user": False}
            self.screen.line(f"{tail.title}: tried again ({reason})")
            self._send(group)


def _layers_read(config: TrialConfig) -> tuple[int, int]:
    """How many of the encoder's layers are read of training images, and of validation images."""
    depth = guessed_shape(config.encoder.name).depth
    return config.reads(depth), config.fusion.reads(depth)


class _PreparationLog:
    """Follows the rows that a preparation writes to a file, for the screen.

    A row that is reported again, by an attempt that repeats what a killed one did, takes the place of the first.
    """

    def __init__(self, path: Path, title: str) -> None:
        self._follower, self.title = Follower(path), title
        self._rows: dict[tuple[Any, ...], dict[str, float | str]] = {}
        self._lock = threading.Lock()

    def read(self) -> list[dict[str, float | str]]:
        """All rows so far."""
        with self._lock:
            for row in json_rows(self._follower.read()):
                key = (*(row.get(name) for name in ("phase", "note", "step")), is_held_out(row))
                self._rows.pop(key, None)
                self._rows[key] = row
        return list(self._rows.values())

    def running(self) -> RunningTrial:
        """The preparation, as far as it is."""
        rows = self.read()
        steps = [row for row in rows if not is_held_out(row)]
        seen = [row[HELD_OUT_PSNR] for row in rows if HELD_OUT_PSNR in row]
        last = steps[-1] if steps else {}
        return RunningTrial.from_progress(self.title, last | ({HELD_OUT_PSNR: seen[-1]} if seen else {}))
