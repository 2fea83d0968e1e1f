"""The door to MLflow: where its store is, its client, what that raises, and how numbers are sent.

No other file of sweeps/ imports mlflow when it runs.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import logging
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from drorae.errors import UserError, one_line, shorten
from drorae.redaction import redact
from drorae.storage.places import sqlite_path, tracking_uri

if TYPE_CHECKING:
    from mlflow.entities import Experiment, Run
    from mlflow.tracking import MlflowClient

_RAISED = {
    "mlflow.exceptions": ("MlflowException",),
    "sqlalchemy.exc": ("SQLAlchemyError",),
    "alembic.util.exc": ("CommandError",),
    "urllib3.exceptions": ("HTTPError",),
    "botocore.exceptions": ("BotoCoreError", "ClientError"),
    "boto3.exceptions": ("Boto3Error",),
    "google.api_core.exceptions": ("GoogleAPIError",),
    "google.auth.exceptions": ("GoogleAuthError",),
    "azure.core.exceptions": ("AzureError",),
}
"""What the libraries below MLflow's client raise, where it is neither an OSError nor MLflow's own."""

OLDEST_FIRST = ["attributes.start_time ASC"]
PAGE_RUNS = 100
"""Runs that are read at once: MLflow takes some 0.2 MB for each while it reads."""

Warn = Callable[[str], None]
T = TypeVar("T")


def store_errors() -> tuple[type[Exception], ...]:
    """Returns what MLflow's client raises where a store is away, cannot be used or refuses; any other error is a bug.

    Asked for when an error is there, because only libraries that are imported can have raised it. A proxy that answers
    for a server that is away sends no JSON; a store may need a driver that is not installed.
    """
    loaded = [(sys.modules[module], names) for module, names in _RAISED.items() if module in sys.modules]
    others = [getattr(module, name) for module, names in loaded for name in names]
    return (OSError, ImportError, json.JSONDecodeError, *others)


class HandedOver(OSError):  # noqa: N818
    """Nothing more is sent from here: somebody else does it."""


def complaint(line: str) -> str:
    """Returns what a line says of a store, without how that is known; empty where it says something else."""
    return line.partition(" (")[0] if line.startswith("MLflow at ") else ""


def warn_once(warn: Warn) -> Callable[[str, str], None]:
    """Returns a function that takes a kind and a line, and hands on the first line of each kind.

    A warning that cannot be written down, as on a full disk, is not worth an error.
    """
    done: set[str] = set()

    def hand_on(kind: str, line: str) -> None:
        if kind not in done:
            done.add(kind)
            with contextlib.suppress(OSError):
                warn(line)

    return hand_on


def _import_client() -> type[MlflowClient]:
    """Returns MLflow's client, with bounded waits and without telemetry (unless the environment says otherwise).

    Raises:
        UserError: mlflow is not installed.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # Unset, MLflow blocks for four minutes on a server that is down.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    # The address of every run that ends, on stdout, where results are.
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    try:
        from mlflow.tracking import MlflowClient
    except ImportError:
        raise UserError("recording runs needs mlflow; pip install mlflow") from None
    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return MlflowClient


def resolve_uri(uri: str | None, root: Path) -> str:
    """Returns the tracking URI that a sweep records at: that of `tracking_uri`; makes the folder of an SQLite file.

    Raises:
        UserError: the URI holds a password, which logs, errors and workers' arguments would show, or it is one that
            `tracking_uri` refuses.
    """
    chosen = tracking_uri(root, uri)
    if redact(chosen) != chosen:
        raise UserError(
            f"MLflow at {chosen}: the address holds a password, which logs would show; put a server's into "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, a database's where its driver looks (PGPASSWORD, "
            "~/.pgpass), on the driver and every node"
        )
    path = sqlite_path(chosen)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
    return chosen


def check_nodes(uri: str, addresses: Iterable[str]) -> None:
    """Refuses an SQLite store for workers on several machines: its locks hold on one only, and its file is elsewhere.

    Raises:
        UserError: it is one, and there are several addresses of nodes.
    """
    machines = sorted(set(addresses))
    if uri.startswith("sqlite:") and len(machines) > 1:
        raise UserError(
            f"MLflow at {uri}: an SQLite file cannot be written from {len(machines)} machines ({', '.join(machines)}); "
            "start `mlflow server` and name it in MLFLOW_TRACKING_URI"
        )


class Store:
    """A store of MLflow's.

    Args:
        uri: where it is.
        check: is called before every use; what it raises keeps this process from the store.

    Raises:
        UserError: mlflow is not installed.
    """

    def __init__(self, uri: str, check: Callable[[], None] = lambda: None) -> None:
        self.uri, self.check = uri, check
        # Here, because another thread than the importing one may be the first to use the client.
        self._open = _import_client()
        self._handed_over = False

    @functools.cached_property
    def _client(self) -> MlflowClient:
        """Opened when first used, because a database that is away would raise."""
        return self._open(self.uri)

    @property
    def client(self) -> MlflowClient:
        """MLflow's own, asked for before every request.

        Raises:
            HandedOver: nothing more is to be sent.
        """
        self.check()
        if self._handed_over:
            raise HandedOver
        return self._client

    def hand_over(self) -> None:
        """Lets no request follow the one that is under way."""
        self._handed_over = True

    def away(self, error: BaseException) -> str:
        """Returns that it does not answer, and how that is known: where a path is in the way, which."""
        # Of what a client tried, the last link of the chain says what was wrong.
        cause = one_line(error).rpartition("Caused by ")[2]
        if isinstance(error, OSError) and error.filename is not None:
            cause = f"{error.filename} cannot be used: {error.strerror}"
        return f"MLflow at {self.uri} does not answer ({shorten(cause, 200)})"

    def open_run(self, experiment_id: str, name: str, identity: Mapping[str, str], tags: Mapping[str, str]) -> Run:
        """Finds the oldest run that has some tags, or creates it. One that was deleted is restored before.

        Args:
            experiment_id: where the run is.
            name: of a run that is created.
            identity: the tags that it is found by.
            tags: further tags of a run that is created.
        """
        from mlflow.entities import ViewType

        filters = " and ".join(f"tags.`{tag}` = '{value}'" for tag, value in identity.items())
        for view in (ViewType.ACTIVE_ONLY, ViewType.DELETED_ONLY):
            found = self.client.search_runs([experiment_id], filters, view, max_results=1, order_by=OLDEST_FIRST)
            if found and view == ViewType.DELETED_ONLY:
                self.client.restore_run(found[0].info.run_id)
            if found:
                return found[0]
        known = {"mlflow.runName": name, "mlflow.user": os.environ.get("USER", "drorae")}
        return self.client.create_run(experiment_id, tags={**known, **identity, **tags})

    def known_experiment(self, run_id: str, experiment_id: str) -> Experiment | None:
        """Returns the experiment that a run is in, else that of an id, whatever it is called; None where neither is.

        Args:
            run_id: the run; "": none.
            experiment_id: the id; "": none.
        """
        from mlflow.exceptions import MlflowException

        for run, experiment in ((run_id, ""), ("", experiment_id)):
            try:
                found = self.client.get_run(run).info.experiment_id if run else experiment
                if found:
                    return self.client.get_experiment(found)
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
        return None

    def adopt(self, experiment_id: str, former: str, parent: str) -> None:
        """Puts the runs below a former parent run below another one; those deleted with it are restored.

        A deleted run stays so where there is another of its trial.
        """
        from mlflow.entities import ViewType

        known: set[str] = set()
        for view in (ViewType.ACTIVE_ONLY, ViewType.DELETED_ONLY):
            # All of them first: one that is put below another parent is not found any more.
            for run in list(self.trial_runs(experiment_id, former, view)):
                key = run.data.tags.get("drorae.config_hash", "")
                if view == ViewType.DELETED_ONLY:
                    if key in known:
                        continue
                    self.client.restore_run(run.info.run_id)
                known.add(key)
                self.client.set_tag(run.info.run_id, "mlflow.parentRunId", parent)

    def trial_runs(self, experiment_id: str, parent: str, view: int = 1) -> Iterator[Run]:
        """Yields the runs of trials below a parent run, oldest first.

        Args:
            experiment_id: where they are.
            parent: the sweep's own run.
            view: MLflow's ViewType; 1: those that are not deleted.
        """
        filters = f"tags.`mlflow.parentRunId` = '{parent}' and tags.`drorae.kind` = 'trial'"
        token = None
        while True:
            page = self.client.search_runs(
                [experiment_id], filters, view, max_results=PAGE_RUNS, order_by=OLDEST_FIRST, page_token=token
            )
            yield from page
            token = page.token
            if not token:
                return

    def send(
        self,
        run_id: str,
        metrics: Iterable[tuple[str, float, int, int]] = (),
        params: Iterable[tuple[str, str]] = (),
        tags: Iterable[tuple[str, str]] = (),
    ) -> None:
        """Sends numbers and texts to a run, as many at once as MLflow takes.

        Args:
            run_id: the run.
            metrics: name, value, time (ms since 1970) and step of each.
            params: name and text of each.
            tags: name and text of each.
        """
        from mlflow.entities import Metric, Param, RunTag

        for rows in _chunks(metrics, 1000):
            self.client.log_batch(run_id, metrics=[Metric(*row) for row in rows])
        for texts in _chunks(params, 100):
            self.client.log_batch(run_id, params=[Param(name, redact(text)) for name, text in texts])
        for texts in _chunks(tags, 100):
            self.client.log_batch(run_id, tags=[RunTag(name, redact(text)) for name, text in texts])

    def send_final(self, run: Run, values: Mapping[str, float]) -> bool:
        """Sends the final values (step 0) that a run has not; returns whether there are any.

        MLflow shows the latest of a metric's values, so that one in place of another gets a later time, whatever the
        clocks of the machines say.
        """
        known, run_id = run.data.metrics, run.info.run_id
        changed = {name: value for name, value in values.items() if name not in known or not _equal(known[name], value)}
        before = [
            metric for name in changed if name in known for metric in self.client.get_metric_history(run_id, name)
        ]
        when = max([int(time.time() * 1000), *(metric.timestamp + 1 for metric in before)])
        self.send(run_id, [(name, value, when, 0) for name, value in changed.items()])
        return bool(changed)


def _chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    rest = iter(items)
    while chunk := list(itertools.islice(rest, size)):
        yield chunk


def _equal(known: float, value: float) -> bool:
    """Returns whether a store keeps `value` as `known`: NaN as NaN, what is infinite as the largest number."""
    most = sys.float_info.max
    both_nan = math.isnan(known) and math.isnan(value)
    return both_nan or min(max(known, -most), most) == min(max(value, -most), most)
