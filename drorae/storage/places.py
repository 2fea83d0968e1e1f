"""Where things are where nobody says."""

from __future__ import annotations

import os
from pathlib import Path

from drorae.storage.remote import Remote, copies, locate


def default_tracking_uri(root: str | Path) -> str:
    """Returns the MLflow store of the sweeps in `root`: `$MLFLOW_TRACKING_URI`, else the SQLite file there.

    Where `root` is a URL, that file is in this machine's copy of it.
    """
    place = locate(root)
    folder = copies(place, "driver") if isinstance(place, Remote) else place.resolve()
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder / 'mlflow.db'}"
