"""Records a trial in MLflow, as a run below its sweep's that is found again by the trial's config hash.

Recording never fails a trial: what the store does not take is kept in the trial's `spool.jsonl` and sent later.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

from drorae.config import TrialConfig, config_hash, flatten
from drorae.errors import brief
from drorae.metrics.registry import LOOKED_THROUGH, better
from drorae.storage.files import json_rows
from drorae.training.rows import HELD_OUT_IMAGES, MOST_SENT, Spread, is_held_out
from drorae.trial import folder
from drorae.trial.folder import BROKEN, HISTORY, SPOOL, UNMADE, TrialStatus, Use, files_for, read_outcome
from sweeps.folder.sweep import RunAddress
from sweeps.folder.table import COLUMNS, marks, trial_row
from sweeps.tracking.album import Album
from sweeps.tracking.client import HandedOver, Store, Warn, store_errors, warn_once
from sweeps.tracking.pictures import draw_pictures
from sweeps.tracking.spool import Spool

FLUSH_SECONDS = 5.0
"""Metrics are sent together, at most this often."""
BACK_OFF_SECONDS = 60.0
"""After a store did not answer, the next attempt waits this long, doubled each time up to ten times as long."""
PREFIX = "train/"
"""Before the names of step metrics, so that a final metric such as l1 is never mistaken for one."""
MARKS = {False: "loss", True: HELD_OUT_IMAGES}
"""The value by which a row of training, or (True) of held-out images, is known to be in the store."""
INSPECTION = "inspection/"
"""Before the names of the numbers in inspection.json."""
DIGEST = "drorae.digest"
"""Tag of a run that has everything of its trial: the digest of the outcome that was recorded."""
ROLE_TAG = f"drorae.{folder.ROLE}"
"""Tag of the run of a trial that is no point of the sweep's law: what it is there for."""
RUN_STATUS: dict[str, str] = {
    **dict.fromkeys(BROKEN, "FAILED"),
    **dict.fromkeys((TrialStatus.PRUNED, *UNMADE), "KILLED"),
}
"""MLflow's status of a run that has ended, by the trial's own; any other trial is FINISHED."""


class TrialTracker:
    """Records one trial: rows while it trains, everything else when it ends.

    Steps are counted through phases 2 and 3 (phase 3 goes on where phase 2 ended), and a step that the store
    has is not sent again, so that resuming and replaying add nothing twice. No method raises because the store
    is away.

    Args:
        address: where the sweep is recorded.
        config: the trial's config.
        directory: the trial's folder.
        warn: takes what the user should know, a line of each kind once.
        check: as for `Store`.
        role: what the trial is there for where it is no point of the sweep's law.
    """

    def __init__(
        self,
        address: RunAddress,
        config: TrialConfig,
        directory: Path,
        warn: Warn = lambda line: None,
        check: Callable[[], None] = lambda: None,
        role: str = "",
    ) -> None:
        self.address, self.config, self.directory, self.warn = address, config, directory, warn
        self.role = role
        self._store = Store(address.tracking_uri, check)
        self._say = warn_once(warn)
        self.spool = Spool(directory / SPOOL, address.tracking_uri, self._say)
        self._run_id = ""
        # Steps that the store has: of training, and (True) of the held-out images beside it.
        self._sent: dict[bool, set[int]] = {False: set(), True: set()}
        self._album = Album(directory)
        self._begin()
        self._next_flush = time.monotonic() + FLUSH_SECONDS
        self._back_off = 0.0

    def _begin(self) -> None:
        """Counts the steps from the trial's first row on."""
        self._phase, self._offset, self._last_step = "", 0, 0
        self._spread = Spread(MOST_SENT)

    def picture(self, row: Mapping[str, float | str]) -> bytes | None:
        """Returns the picture that belongs to a row that was just reported; the next takes its place in the folder."""
        return self._album.read(row)

    def report(self, row: Mapping[str, float | str], picture: bytes | None = None) -> None:
        """Takes a reported row: a loss, or held-out images with their picture, by default the one in the folder.

        Rows of neither, and those of phase 1 (shared, not the trial's), pass.
        """
        self._take(row, int(time.time() * 1000), picture)
        if time.monotonic() >= self._next_flush:
            self.flush()

    def hand_over(self) -> None:
        """Lets no request follow the one that is under way: somebody else records the rest."""
        self._store.hand_over()

    def keep(self) -> None:
        """Leaves the rows that wait to whoever goes on with the trial, or records its end."""
        self.spool.save()
        self._album.save()

    def flush(self) -> bool:
        """Sends the rows that wait; those that the store does not take go to the spool. True when none is left."""
        return self._deliver(lambda: None)

    def start(self) -> bool:
        """Finds or creates the run and marks it RUNNING. False when the store is away."""

        def mark() -> None:
            self._store.client.set_tag(self._run_id, "drorae.status", TrialStatus.RUNNING)
            self._store.client.update_run(self._run_id, status="RUNNING")

        return self._attempt(mark)

    def finish(self) -> bool:
        """Records the outcome found in the trial's folder and ends the run. True when the store has everything.

        Safe to repeat: nothing is recorded twice. What differs from the outcome is recorded again.
        """
        outcome = read_outcome(self.directory)
        history = self.directory / HISTORY
        if history.is_file() and (rows := json_rows(history.read_bytes())):
            self._begin()
            # The same whoever sends them: MLflow takes a value that it has, time and all, once only.
            ended = int(history.stat().st_mtime * 1000)
            for row in rows:
                self._take(row, ended)
        self._next_flush = time.monotonic()  # a last attempt, however short ago the store was away
        return self._deliver(lambda: self._send_outcome(outcome))

    def _take(self, row: Mapping[str, float | str], now: int, picture: bytes | None = None) -> None:
        phase, held_out = str(row.get("phase", "")), is_held_out(row)
        if "step" not in row or not ("loss" in row or held_out) or phase == "phase1":
            return
        if phase != self._phase:
            self._phase, self._offset = phase, self._last_step
        step = self._offset + int(float(row["step"]))
        self._last_step = max(self._last_step, step)
        if found := picture or self._album.read(row):
            self._album.take(found, int(float(row["step"])), step)
        if self._spread.takes(row) and step not in self._sent[held_out]:
            values = _numbers({name: value for name, value in row.items() if name not in ("step", "total_steps")})
            # Of one step there may be a row of either kind; one that is taken again is the same.
            waiting = self.spool.rows.setdefault(step, {"step": step, "time": now, "values": {}})
            waiting["values"] = values | waiting["values"]

    def _deliver(self, then: Callable[[], object]) -> bool:
        """Sends the rows that wait and does what comes `then`; where the store is away, the rows go to the spool."""

        def deliver() -> None:
            self._send_rows()
            self._album.send(self._store, self._run_id)
            then()

        if self._attempt(deliver):
            self.spool.clear()
            return True
        self.keep()
        return False

    def _attempt(self, action: Callable[[], object]) -> bool:
        """Runs an action on the found run; after a failure everything is looked up afresh, later."""
        if self._back_off and time.monotonic() < self._next_flush:
            return False
        try:
            if not self._run_id:
                self._open_run()
            action()
        except HandedOver:
            return False
        except store_errors() as error:
            self._run_id = ""
            self._back_off = min(max(2 * self._back_off, BACK_OFF_SECONDS), 10 * BACK_OFF_SECONDS)
            self._next_flush = time.monotonic() + self._back_off
            self._say("away", f"{self._store.away(error)}; kept for later")
            return False
        self._back_off = 0.0
        self._next_flush = time.monotonic() + FLUSH_SECONDS
        return True

    def _open_run(self) -> None:
        fusion = self.config.fusion
        layers = f" n{fusion.count}" if fusion.count else ""
        run = self._store.open_run(
            self.address.experiment_id,
            f"{fusion.variant} h{fusion.expert_hidden_dim}{layers} s{self.config.seed}",
            {"mlflow.parentRunId": self.address.parent_run_id, "drorae.config_hash": config_hash(self.config)},
            {"drorae.kind": "trial", "drorae.status": TrialStatus.RUNNING},
        )
        params = {name: _param(value) for name, value in flatten(self.config).items() if name not in run.data.params}
        self._store.send(run.info.run_id, params=params.items())
        for held_out, mark in MARKS.items():
            history = self._store.client.get_metric_history(run.info.run_id, f"{PREFIX}{mark}")
            self._sent[held_out] = {metric.step for metric in history}
        self._run_id = run.info.run_id

    def _send_rows(self) -> None:
        metrics = (
            (PREFIX + name, value, row["time"], step)
            for step, row in sorted(self.spool.rows.items())
            # What tells that the store has a row goes last.
            for name, value in sorted(row["values"].items(), key=lambda item: item[0] in MARKS.values())
            if step not in self._sent[is_held_out((name,))]
        )
        self._store.send(self._run_id, metrics)
        for step, row in self.spool.rows.items():
            for held_out in {is_held_out((name,)) for name in row["values"]}:
                self._sent[held_out].add(step)
        self.spool.rows.clear()

    def _send_outcome(self, outcome: Mapping[str, Any]) -> None:
        status, digest = str(outcome["status"]), outcome_digest(outcome)
        final = self._final_values(status)
        run = self._store.client.get_run(self._run_id)
        # A measure of the trial before it was made again, which the table has no more. Of one that is still to be made
        # again, nothing better is known.
        made = status != TrialStatus.MISSING
        gone = [name for name in run.data.metrics if made and name not in final and _is_measure(name)]
        changed = self._store.send_final(run, dict.fromkeys(gone, math.nan) | final)
        tags = {"drorae.status": status, "drorae.reason": str(outcome.get("reason", ""))}
        tags |= {f"drorae.{name}": str(value) for name, value in outcome.get("provenance", {}).items()}
        row = trial_row(self.config, self.directory)
        if seen := row.get(LOOKED_THROUGH):
            tags[f"drorae.{LOOKED_THROUGH}"] = seen
            tags |= {
                f"drorae.mark.{name}": said for name, said in marks([row], list(outcome.get("metrics", {}))).items()
            }
        if self.role or run.data.tags.get(ROLE_TAG):
            tags[ROLE_TAG] = self.role
        if "drorae.git_commit" in tags:
            tags["mlflow.source.git.commit"] = tags["drorae.git_commit"]
        self._store.send(self._run_id, tags=tags.items())
        ended, known = RUN_STATUS.get(status, "FINISHED"), run.data.tags.get(DIGEST)
        # A run that was ended without a digest has its files as long as its numbers are the trial's.
        if status not in RUN_STATUS and known != digest and (known or changed or run.info.status != ended):
            for path in [self.directory / name for name in files_for(Use.ARTIFACT)] + self._pictures():
                if path.is_file():
                    self._store.client.log_artifact(self._run_id, str(path))
        self._store.client.set_tag(self._run_id, DIGEST, digest)
        self._store.client.set_terminated(self._run_id, ended)

    def _final_values(self, status: str) -> dict[str, float]:
        """Returns the values that the run is to end with; of a missing trial, those of its inspection alone."""
        final: dict[str, float] = {}
        if status != TrialStatus.MISSING:
            final = _numbers(trial_row(self.config, self.directory))
            if final.get("fusion_params", 0) > 0:
                final["log10_params"] = math.log10(final["fusion_params"])
            if "train_seconds" in final:
                final["wall_seconds"] = final["train_seconds"] + final.get("eval_seconds", 0.0)
        path = self.directory / folder.INSPECTION
        inspection = json.loads(path.read_text()) if path.is_file() else {}
        return final | {INSPECTION + name: value for name, value in inspection.items()}

    def _pictures(self) -> list[Path]:
        try:
            return draw_pictures(self.directory)
        except (OSError, ValueError, BadZipFile) as error:  # a damaged file is not worth a trial
            self.warn(f"{self.directory.name}: pictures not drawn ({brief(error)})")
            return []


def _param(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    numbers = ((name, value) for name, value in row.items() if isinstance(value, int | float))
    return {name: float(value) for name, value in numbers if not isinstance(value, bool)}


def _is_measure(name: str) -> bool:
    return name in COLUMNS or better(name) is not None


def outcome_digest(outcome: Mapping[str, Any]) -> str:
    """Returns what tells an outcome from the one that the trial had before it was made again."""
    return hashlib.sha256(json.dumps(outcome, sort_keys=True).encode()).hexdigest()[:16]
