"""What a driver has Ray run in its worker processes: a preparation, and a trial."""

from __future__ import annotations

import contextlib
import json
import pkgutil
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from drorae.config import Runtime, TrialConfig, from_dict
from drorae.errors import DiskFullError, UserError, brief, one_line
from drorae.redaction import redact_logs
from drorae.runtime.repeat import every
from drorae.storage.files import ROOM_BYTES, full_disk, has_room, write_json
from drorae.storage.remote import Remote, RemoteError, locate, patiently
from drorae.trial.folder import FAILURE, LEASE, error_files, set_damaged_aside
from sweeps.folder.lease import Lease
from sweeps.folder.mirror import PUSH_SECONDS, Mirror, at_work
from sweeps.folder.sweep import trial_place
from sweeps.resources import Share
from sweeps.worker.attempt import Attempt, Work, notices, threads, train
from sweeps.worker.together import own_part, run_together, train_together

ROOM_SECONDS = 1800.0


def prepare(
    config_json: str,
    runtime: Runtime,
    log: str,
    function: str,
    inputs: Mapping[str, str],
    share: Share = Share(),  # noqa: B008 (frozen)
) -> dict[str, Any] | None:
    """Prepares what trials share, once; returns None, or what the user has to mend.

    Where one of several processes was lost, what is returned has `again`: the driver decides whether it is.

    Ray tries again on the same log: an attempt leaves the rows of the ones before it where they are.

    Args:
        config_json: a trial of those that share it.
        runtime: device, threads, cache.
        log: path or URL of the file that its rows are added to.
        function: `module:function` that prepares, and may return fingerprints of what it prepared from.
        inputs: the fingerprints that the sweep's trials were made from so far, which must be the same.
        share: in how many processes, and what these get beside this one. Default: here, in one.
    """
    redact_logs()
    if share.processes == 1:
        return _prepare(config_json, runtime, log, function, inputs)
    from ray.train.v2.api.exceptions import TrainingFailedError

    with TemporaryDirectory() as folder:
        place = locate(log)
        storage = (place if isinstance(place, Path) else Path(folder) / place.name).with_suffix(".ray")
        problem = storage / "problem.json"

        def process() -> None:
            own, main = own_part(runtime, share)
            found = _prepare(config_json, own, log if main else None, function, inputs)
            if found is not None:
                write_json(problem, found)
                # The others may wait for this one.
                raise UserError(found["reason"])

        try:
            storage.mkdir(parents=True, exist_ok=True)
            run_together(process, share, storage.stem, storage)
        except TrainingFailedError as error:
            if not problem.is_file():
                # One that died, for all that Ray Train says of it: the driver counts how often it is made again.
                return {"reason": brief(error, 300), "user": False, "again": True}
            found: dict[str, Any] = json.loads(problem.read_text())
            return found
        finally:
            shutil.rmtree(storage, ignore_errors=True)
    return None


def _prepare(
    config_json: str, runtime: Runtime, log: str | None, function: str, inputs: Mapping[str, str]
) -> dict[str, Any] | None:
    """Does one process's part, as `prepare` has it; without a log, nobody hears of it."""
    config = from_dict(TrialConfig, json.loads(config_json))
    with _log(locate(log)) if log else contextlib.nullcontext(lambda row: None) as write:
        try:
            found = pkgutil.resolve_name(function)(config, runtime, write)
            if found and inputs:
                from drorae.trial.inputs import check_same

                remedy = "put it back, or choose another folder (--name, --out)"
                check_same(config, runtime, inputs, found, "the sweep's trials were made", remedy)
        except UserError as error:
            return {"reason": one_line(error), "user": True}
        except SystemExit as error:
            raise RuntimeError(f"SystemExit: {error}") from error
    return None


@contextlib.contextmanager
def _log(place: Path | Remote) -> Iterator[Callable[[dict[str, float | str]], None]]:
    """Adds rows to a file. A store's files do not grow: there the whole file is sent every few seconds.

    The rows are only for show: neither a full disk nor a store that is away ends a preparation.
    """
    with contextlib.ExitStack() as stack:
        path = place if isinstance(place, Path) else Path(stack.enter_context(TemporaryDirectory())) / place.name
        if isinstance(place, Remote):
            with contextlib.suppress(RemoteError):
                path.write_bytes(place.read() or b"")

            def send() -> None:
                with contextlib.suppress(RemoteError):
                    place.upload(path)

            stack.callback(send)
            stack.enter_context(every(PUSH_SECONDS, send))
        # Unbuffered, so that nothing is left for closing the file to fail at.
        file = stack.enter_context(path.open("ab", buffering=0))

        def write(row: dict[str, float | str]) -> None:
            with contextlib.suppress(OSError):
                # A line that was cut short ends here.
                file.write(b"\n" + json.dumps(row).encode() + b"\n")

        yield write


def run_one(work: Work, key: str, share: Share) -> None:
    """Makes an attempt at a trial, recorded, inside a Tune trial.

    What it raises is raised for a retry, which the driver counts; one that the driver has given up is not begun. A
    UserError is left as failure.json at once.
    """
    redact_logs()
    mirror = Mirror(Remote(work.remote), "worker") if work.remote else None
    if mirror is None:
        # A lease is a file, too.
        wait_for_room(Path(work.trials) / key)
    else:
        work = replace(work, trials=str(mirror.local / "trials"))
    place = Path(work.trials) / key if mirror is None else mirror.remote / "trials" / key
    # A driver that was cut off may have left a worker that does not know: it is waited for, or outlived.
    with Lease(place / LEASE) as lease:
        patiently(lease.acquire)
        with contextlib.nullcontext() if mirror is None else at_work(mirror, trial_place(key), lease):
            directory = Path(work.trials) / key
            if (directory / FAILURE).is_file():
                return
            with notices(directory):
                set_damaged_aside(directory)
            attempt = Attempt(work, key, share, lease, len(error_files(directory)) + 1)
            try:
                _train(attempt)
            except Exception:
                # What lies in the folder of one that was lost is another's by now.
                lease.check(now=True)
                raise


def _train(attempt: Attempt) -> None:
    if attempt.share.processes > 1:
        train_together(attempt)
        return
    from ray import tune

    train(attempt, threads(attempt.work.runtime, attempt.share), tune.report)


def wait_for_room(directory: Path) -> None:
    """Waits while the disk is full: somebody makes room, and a trial that cannot save is no trial.

    Raises:
        DiskFullError: nobody did for `ROOM_SECONDS`.
    """
    deadline = time.monotonic() + ROOM_SECONDS
    while not has_room(directory, ROOM_BYTES):
        if time.monotonic() > deadline:
            raise DiskFullError(full_disk(directory))
        time.sleep(1)
