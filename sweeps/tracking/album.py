"""A trial's pictures of held-out images on their way into MLflow, which shows them with a slider over the steps."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from zipfile import BadZipFile, ZipFile

from drorae.diagnostics.picture import read_picture
from drorae.storage.files import replacing
from drorae.training.rows import MOST_PICTURES, is_held_out
from drorae.trial.folder import HELD_OUT_PICTURE, PICTURE_SPOOL
from sweeps.tracking.client import Store

KEY = "held_out"
"""MLflow's name of the series."""
_SENT = re.compile(rf"images/{KEY}[+%]step[+%](\d+)[+%]")
"""How MLflow names a picture: 3.10 and later with +, before with %."""


class Album:
    """The pictures that wait: in memory, and in the trial's `spool.zip` once its worker ends or the store is away.

    Each is sent once; of those that wait, the last `MOST_PICTURES` are kept.

    Args:
        directory: the trial's folder, where a phase leaves its latest picture.
    """

    def __init__(self, directory: Path) -> None:
        self._directory, self._path = directory, directory / PICTURE_SPOOL
        self._waiting: dict[int, tuple[bytes, int]] = {}
        self._sent: set[int] = set()
        self._saved: set[int] = set()
        # Half of one, after a power cut, is not worth a trial.
        with contextlib.suppress(OSError, ValueError, BadZipFile), ZipFile(self._path) as spool:
            for name in spool.namelist():
                sent_as, step = map(int, name.split("-"))
                self._waiting[sent_as] = spool.read(name), step
            self._saved = set(self._waiting)

    def read(self, row: Mapping[str, float | str]) -> bytes | None:
        """Returns the picture of a reported row, as long as the folder has it; None where there is none."""
        if not is_held_out(row):
            return None
        try:
            content = (self._directory / HELD_OUT_PICTURE.format(row["phase"])).read_bytes()
        except OSError:
            return None
        return content if read_picture(BytesIO(content), int(float(row["step"]))) is not None else None

    def take(self, picture: bytes, step: int, sent_as: int) -> None:
        """Takes the picture of a step of its phase, to be sent as one of a step of the trial."""
        if sent_as not in self._sent:
            self._waiting[sent_as] = picture, step
            for oldest in sorted(self._waiting)[:-MOST_PICTURES]:
                del self._waiting[oldest]

    def save(self) -> None:
        """Leaves what waits in the folder; on a disk that does not take it, or without the folder, in memory alone."""
        if self._waiting.keys() <= self._saved:
            return
        with contextlib.suppress(OSError):
            with replacing(self._path, make_folder=False) as temporary, ZipFile(temporary, "w") as spool:
                for sent_as, (content, step) in self._waiting.items():
                    spool.writestr(f"{sent_as}-{step}", content)
            self._saved = set(self._waiting)

    def send(self, store: Store, run_id: str) -> None:
        """Sends what waits and the run has not."""
        if self._waiting:
            found = (_SENT.match(item.path) for item in store.client.list_artifacts(run_id, "images"))
            self._sent |= {int(match[1]) for match in found if match}
        for sent_as, (content, step) in sorted(self._waiting.items()):
            picture = read_picture(BytesIO(content), step)
            if sent_as not in self._sent and picture is not None:
                store.client.log_image(run_id, picture, key=KEY, step=sent_as, synchronous=True)
                self._sent.add(sent_as)
            del self._waiting[sent_as]
        if self._saved:
            self._path.unlink(missing_ok=True)
            self._saved.clear()
