"""Where the local MLflow store keeps files: in the sweeps' root, also after that was moved or copied.

MLflow writes the absolute address of every experiment's and run's files into its database.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path
from urllib.parse import unquote, urlsplit

DATABASE = "mlflow.db"
FOLDER = "mlartifacts"
_ADDRESSES = (
    ("experiments", "experiment_id", "artifact_location", "name = ?"),
    (
        "runs", "run_uuid", "artifact_uri",
        "experiment_id in (select experiment_id from experiments where name = ?)",
    ),
)  # fmt: skip
"""Tables of MLflow's, with their key, the address, and how the rows of one experiment are found."""


def artifact_folder(root: Path, experiment: str) -> Path:
    """Returns where the files of an experiment lie."""
    return root.resolve() / FOLDER / experiment


def follow(database: Path, root: Path, experiment: str | None = None) -> list[Path]:
    """Lets the addresses in an SQLite store of MLflow's lead to `root`, where they led to one that it was moved from.

    An address stays where its files are there still, and not in `root`: another root may share the store.

    Args:
        database: the store's file; nothing happens where there is none, or none of MLflow's, or it is read-only.
        root: folder of all sweeps.
        experiment: name of the only one whose addresses are looked at; None: all.

    Returns:
        The former roots, each once.
    """
    left: dict[Path, None] = {}
    root = root.resolve()
    with (
        contextlib.suppress(sqlite3.Error),
        contextlib.closing(sqlite3.connect(f"{database.resolve().as_uri()}?mode=rw", uri=True, timeout=30)) as store,
        store,
    ):
        for table, key, column, of_experiment in _ADDRESSES:
            condition, arguments = (of_experiment, (experiment,)) if experiment is not None else ("1", ())
            rows = store.execute(f"select {key}, {column} from {table} where {condition}", arguments).fetchall()
            for identity, address in rows:
                former, tail = _split(str(address))
                if former is not None and _has_moved(former, root, tail):
                    left[former] = None
                    moved = (root / FOLDER / tail).as_uri()
                    store.execute(f"update {table} set {column} = ? where {key} = ?", (moved, identity))
    return list(left)


def _split(address: str) -> tuple[Path | None, str]:
    """Returns the root that an address is in, and what follows it; None where it is no such address."""
    text = unquote(urlsplit(address).path) if address.startswith("file:") else address
    root, folder, tail = text.rpartition(f"/{FOLDER}/")
    return (Path(root), tail) if folder and text.startswith("/") else (None, "")


def _has_moved(former: Path, root: Path, tail: str) -> bool:
    if former == root:
        return False
    try:
        if former.resolve() == root:
            return False
        if (root / FOLDER / tail).exists() or not os.access(former, os.W_OK):
            return True
        # Another store has taken the former root's place, and knows nothing of these files.
        return (former / DATABASE).is_file() and not (former / FOLDER / tail).exists()
    except OSError:
        return True
