"""MLflow stores without runs, copied: MLflow takes seconds to make one, and every folder of sweeps needs one."""

from __future__ import annotations

import functools
import shutil
import tempfile
from pathlib import Path

from drorae.storage.places import DATABASE


def empty_records(folder: Path) -> Path:
    """The MLflow store of a folder of sweeps, put there without runs unless there is one; makes the folder, too."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / DATABASE
    if not path.exists():
        path.write_bytes(_content())
    return path


@functools.cache
def _content() -> bytes:
    from mlflow.tracking import MlflowClient

    folder = Path(tempfile.mkdtemp())
    try:
        MlflowClient(f"sqlite:///{folder / DATABASE}").search_experiments()
        return (folder / DATABASE).read_bytes()
    finally:
        shutil.rmtree(folder)
