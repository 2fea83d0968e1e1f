"""A trial's rows that wait for MLflow: in memory, and in the trial's `spool.jsonl` while the store is away."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from drorae.storage.files import json_rows, write_atomic

SPOOL_ROWS = 20_000
"""Rows that wait for a store that is away, some 5 MB; beyond, every second one is dropped."""


class Spool:
    """The rows by step, those that an earlier process left in the file among them.

    Args:
        path: the file, which is there only while the store is away.
        uri: the store that the rows wait for.
        say: takes a kind and a line of warning (`sweeps.tracking.client.warn_once`).
    """

    def __init__(self, path: Path, uri: str, say: Callable[[str, str], None]) -> None:
        self.path, self.uri, self._say = path, uri, say
        lines = path.read_bytes() if path.is_file() else b""
        self.rows: dict[int, dict[str, Any]] = {row["step"]: row for row in json_rows(lines)}
        """Each has `step`, `time` (ms since 1970) and `values` by name."""

    def save(self) -> None:
        """Writes the file, if any row waits and its folder is still there."""
        if not self.rows:
            return
        if len(self.rows) > SPOOL_ROWS:
            # The law needs none of them, and the history keeps them all: every second one goes.
            for step in sorted(self.rows)[1:-1:2]:
                del self.rows[step]
            self._say("thinned", f"MLflow at {self.uri} was away for {SPOOL_ROWS} rows; the spool is thinned out")
        text = "".join(json.dumps(row) + "\n" for row in self.rows.values())
        try:
            write_atomic(self.path, text.encode(), make_folder=False)
        except FileNotFoundError:
            # A store held a call for longer than the trial's folder was here: its rows went with its history.
            pass
        except OSError as error:
            self._say("spool", f"{self.path}: not written ({error.strerror}); its rows wait in memory")

    def clear(self) -> None:
        """Forgets the rows: the store has them."""
        self.rows.clear()
        self.path.unlink(missing_ok=True)
