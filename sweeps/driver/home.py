"""Where a sweep lives: its folder, where that is the copy of one in a store the mirror, and the driver's lease."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from drorae.errors import UserError
from drorae.storage.files import has_room
from drorae.storage.remote import Remote, RemoteError, absolute, locate, patiently
from drorae.trial.folder import ENDED, read_outcome
from sweeps.folder.holder import lives
from sweeps.folder.lease import Lease, read_lease
from sweeps.folder.mirror import REPORT_FILES, Mirror, check_store
from sweeps.folder.sweep import DRIVER_LEASE, DRIVER_LOG, RECORD, STUDIES, TABLE, TRIALS, in_trials, read_record

DRIVER_FILES = (RECORD, TABLE, STUDIES, *in_trials(REPORT_FILES))
"""What a driver needs of a sweep whose folder is in a store; weights and checkpoints stay there."""


class Home:
    """A sweep's folder, as its driver works in it.

    Args:
        root: folder or URL of all sweeps.
        name: the sweep's.

    Raises:
        UserError: the folder cannot be written to, or the store is none that a sweep can be kept in.
    """

    def __init__(self, root: Path | str, name: str) -> None:
        place = locate(root)
        self.name = name
        self.mirror = Mirror(place / name, "driver") if isinstance(place, Remote) else None
        self.directory = (Path(absolute(root)) if self.mirror is None else self.mirror.local.parent) / name
        self.place = self.directory if self.mirror is None else self.mirror.remote
        """The folder as everybody knows it."""
        self.trials = self.directory / TRIALS
        self.record, self.table = self.directory / RECORD, self.directory / TABLE
        self.studies, self.log = self.directory / STUDIES, self.directory / DRIVER_LOG
        self.existed = self.directory.exists()
        self._root_existed = self.directory.parent.exists()
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            for folder in (self.directory, self.trials):
                if folder.is_dir():
                    # Only writing shows whether that is allowed; whether there is room is asked elsewhere.
                    has_room(folder, 0)
        except OSError as error:
            raise UserError(self._unwritable(error)) from None
        if self.mirror is not None:
            check_store(self.mirror.remote)
        self.lease = Lease(self.place / DRIVER_LEASE)

    def _unwritable(self, error: OSError) -> str:
        """Why nothing can be run here, and what can be done with the sweep that is here already, if there is one."""
        why = f"{self.directory}: cannot be written to ({error.strerror})"
        if not self.record.is_file():
            return f"{why}; choose another folder"
        keys = read_record(self.directory).trials
        done = sum(read_outcome(self.trials / key)["status"] in ENDED for key in keys)
        return (
            f"{why}, so nothing is run here; {done} of {len(keys)} trials are done; drorae status, fit, compare and "
            "report --out FOLDER read them as they are; to go on, copy the folder to a place that can be written to "
            "(--root)"
        )

    @property
    def ray(self) -> Path:
        """Where Ray Tune keeps its own files meanwhile. Hidden, they are not sent to a store."""
        return self.directory / ("ray" if self.mirror is None else ".ray")

    @contextlib.contextmanager
    def leased(self, say: Callable[[str], None]) -> Iterator[None]:
        """Keeps other drivers off the sweep.

        Raises:
            UserError: one is at work on it.
        """
        holder = read_lease(self.lease.path)
        if holder is not None and lives(holder) is None:
            say(f"{self.name}: its last driver, on {holder.get('host')}, left no word; waiting to see whether it lives")
        if not self.lease.acquire(wait=False):
            raise UserError(
                f"{self.place}: another drorae sweep is running here; wait for it, or give this one another --name"
            )
        if self.mirror is not None:
            self.mirror.lease = self.lease
        with self.lease:
            yield

    def pull(self) -> None:
        """Brings what a driver needs here from the store, where the folder is in one."""
        if self.mirror is not None:
            pull = self.mirror.pull
            patiently(lambda: pull(patterns=DRIVER_FILES))

    def announce(self) -> None:
        """Sends the sweep's record to the store, where the folder is in one."""
        if self.mirror is not None:
            push = self.mirror.push
            patiently(lambda: push(RECORD))

    def discard(self, new: bool) -> None:
        """Removes what a call made that was ended before it recorded anything; `new`: sweep.json is of this call."""
        if new and self.mirror is not None:
            # A store that is away keeps a record that binds nobody.
            with contextlib.suppress(RemoteError):
                (self.mirror.remote / RECORD).delete()
        if not self.existed:
            shutil.rmtree(self.directory, ignore_errors=True)
            if not self._root_existed:
                with contextlib.suppress(OSError):
                    self.directory.parent.rmdir()
        elif new:
            self.record.unlink(missing_ok=True)
