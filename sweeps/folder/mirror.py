"""A sweep whose folder is a URL: work goes on in a local folder, and what machines must know of each other is copied.

The URL is the truth. Whoever works on a part of it (the driver on the sweep, a worker on a trial) holds its lease
there, brings the files here first, and sends back what changed. `result.json` is sent last: nobody ever sees a result
without what belongs to it.
"""

from __future__ import annotations

import contextlib
import shutil
import threading
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath

from drorae.errors import UserError
from drorae.runtime.repeat import every
from drorae.storage.remote import Remote, RemoteError, copies, locate, matches, patiently
from drorae.trial.folder import SENT_LAST, Use, files_for
from sweeps.folder.lease import Lease, LeaseLostError

PUSH_SECONDS = 10.0
"""A trial's checkpoints and progress are sent this often."""
REPORT_FILES = files_for(Use.STATE | Use.DRIVER)
"""What a trial tells its driver."""


class Mirror:
    """A folder of a store and its copy on this machine, which one process at a time works in.

    Args:
        remote: a sweep's folder, or a trial's.
        role: driver, worker or reader. Each has a copy of its own: none sees files that another is still writing.
    """

    def __init__(self, remote: Remote, role: str) -> None:
        self.remote, self.role = remote, role
        self.local = copies(remote.parent, role) / remote.name
        self.lease: Lease | None = None
        """Held while the copy is worked in: once it is lost, nothing more is sent."""
        self._same: dict[str, tuple[str, tuple[int, int]]] = {}
        """Files that are the same on both sides: the store's stamp (empty after a push), local size and mtime."""
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[Mirror], tuple[Remote, str]]:
        # Tune pickles what its callbacks hold; nobody works with that copy.
        return Mirror, (self.remote, self.role)

    def pull(self, under: str = "", patterns: Sequence[str] | None = None) -> None:
        """Makes the copy what the store has below the folder `under`, removed files too.

        `patterns`, relative to `under`, limits that to some of the files.

        Raises:
            RemoteError: the store does not answer; the copy is then partly old.
        """
        with self._lock:
            prefix = f"{under}/" if under else ""
            folder = self.remote / under if under else self.remote
            there = {prefix + name: stamp for name, stamp in folder.files().items()}

            def wanted(name: str) -> bool:
                return patterns is None or any(matches(name.removeprefix(prefix), pattern) for pattern in patterns)

            here = self._here(under)
            for name in filter(wanted, here.keys() - there):
                (self.local / name).unlink(missing_ok=True)
                self._same.pop(name, None)
            stale = [name for name in filter(wanted, there) if self._same.get(name) != (there[name], here.get(name))]
            self.remote.download(stale, self.local)
            after = self._here(under)
            self._same |= {name: (there[name], after[name]) for name in stale if name in after}

    def push(self, under: str = "") -> None:
        """Sends what changed below `under`, a folder or a file, since it was pulled or pushed.

        Files go in the order they were written, results last; of what was removed here, only files that are
        removed in the course of work are removed there.

        Raises:
            RemoteError: the store does not take a file; those after it wait for the next call.
            LeaseLostError: the folder is another process's by now.
        """
        with self._lock:
            here = self._here(under)
            for name in sorted(here, key=lambda name: (name.rpartition("/")[2] == SENT_LAST, here[name][1])):
                if name not in self._same or self._same[name][1] != here[name]:
                    self._check()
                    (self.remote / name).upload(self.local / name)
                    self._same[name] = ("", here[name])
            for name in [name for name in self._same if name not in here and PurePath(name).is_relative_to(under)]:
                if any(matches(name.rpartition("/")[2], pattern) for pattern in files_for(Use.PASSING)):
                    self._check()
                    (self.remote / name).delete()
                del self._same[name]

    def _check(self) -> None:
        if self.lease is not None:
            self.lease.check()

    def _here(self, under: str) -> dict[str, tuple[int, int]]:
        """Size and mtime (ns) of the copy's files by name, hidden ones left out."""
        top = self.local / under
        found = {}
        for path in [top] if top.is_file() else top.rglob("*"):
            name = path.relative_to(self.local)
            if any(part.startswith(".") for part in name.parts):
                continue
            with contextlib.suppress(FileNotFoundError):
                if path.is_file():
                    found[name.as_posix()] = (path.stat().st_size, path.stat().st_mtime_ns)
        return found


@contextlib.contextmanager
def at_work(mirror: Mirror, under: str, lease: Lease) -> Iterator[Path]:
    """Copies a folder of a mirror here, sends it every `PUSH_SECONDS` and whole at the end, and removes it here.

    A store that is away meanwhile costs nothing but what a machine that dies just then had.

    Raises:
        RemoteError: the store stays away at the beginning or the end.
        LeaseLostError: another process has taken the folder over meanwhile: nothing is sent to it any more.
    """
    mirror.lease = lease
    patiently(lambda: mirror.pull(under))
    folder = mirror.local / under
    folder.mkdir(parents=True, exist_ok=True)

    def send() -> None:
        with contextlib.suppress(OSError, LeaseLostError):
            mirror.push(under)

    try:
        with every(PUSH_SECONDS, send):
            yield folder
    finally:
        patiently(lambda: mirror.push(under))
    # By its name first: a thread of a tracker that waited for MLflow until now may be about to write into it.
    gone = folder.with_name(f".{uuid.uuid4().hex}")
    folder.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def local_copy(place: Path | str | Remote, patterns: Sequence[str] | None = None) -> Path:
    """A folder itself; of a URL's, a copy of the files that fit `patterns` (None: all), for reading.

    Raises:
        UserError: an unusable URL, or none of the files is there.
        RemoteError: the store does not answer.
    """
    found = locate(place)
    if not isinstance(found, Remote):
        return found
    mirror = Mirror(found, "reader")
    mirror.pull(patterns=patterns)
    if not mirror.local.is_dir() or not any(mirror.local.iterdir()):
        raise UserError(f"{found}: nothing here that a sweep left; expected {', '.join(patterns or ('its files',))}")
    return mirror.local


def check_store(remote: Remote) -> None:
    """Raises where a store cannot hold a sweep.

    Raises:
        UserError: it does not take files, or would let two machines make the same one.
    """
    probe = remote / f".probe-{uuid.uuid4().hex}"
    try:
        probe.delete()
        fine = probe.create(b"1") and not probe.create(b"2")
        probe.delete()
    except RemoteError as error:
        raise UserError(f"{error}; check the bucket's name and the credentials in the environment") from None
    if not fine:
        raise UserError(
            f"{remote}: this store replaces files that it was told not to (it ignores If-None-Match), so two drivers "
            "could train the same trial; use another"
        )
