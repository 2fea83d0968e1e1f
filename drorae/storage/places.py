"""Where things are where nobody says, and what a place that somebody gives means."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import quote, unquote

from drorae.errors import UserError
from drorae.storage.artifacts import DATABASE, follow
from drorae.storage.remote import Remote, copies, expanded, locate

_SQLITE = re.compile(r"(sqlite(?:\+\w+)?:///)([^?]*)(\?.*)?")
_ENVIRONMENT = "MLFLOW_TRACKING_URI"


def tracking_uri(root: str | Path, given: str | None = None) -> str:
    """Returns the MLflow store of the sweeps in `root`: `given`, `$MLFLOW_TRACKING_URI`, or the SQLite file there.

    The path of an SQLite file becomes absolute, because a trial runs in another working directory. Where `root` is a
    URL, the file is in this machine's copy of it.

    Raises:
        UserError: it is MLflow's retired store of plain files.
    """
    chosen = given or os.environ.get(_ENVIRONMENT)
    if not chosen:
        place = locate(root)
        folder = copies(place, "driver") if isinstance(place, Remote) else place.resolve()
        return sqlite_uri(folder / DATABASE)
    if is_file_store(chosen) and os.environ.get("MLFLOW_ALLOW_FILE_STORE", "").lower() not in ("true", "1"):
        source, remedy = ("", "leave the URI out") if given else (f" (from {_ENVIRONMENT})", f"unset {_ENVIRONMENT}")
        raise UserError(
            f"MLflow at {chosen}{source}: a folder, which MLflow no longer takes as a store; bring its runs into a "
            "database with `mlflow migrate-filestore --source FOLDER --target sqlite:///mlflow.db` and name that, or "
            f"{remedy} to go on without them"
        )
    path, found = sqlite_path(chosen), _SQLITE.fullmatch(chosen)
    if path is None or found is None:
        return chosen
    return sqlite_uri(path.resolve()) + (found[3] or "")


def sqlite_uri(path: Path) -> str:
    """Returns the URI by which SQLAlchemy opens an SQLite file, as MLflow's and Optuna's stores do.

    A path that would read as another is quoted, slashes too: MLflow makes the folder before the last of them, unquoted.
    """
    text = str(path)
    return f"sqlite:///{quote(text, safe='') if {'?', '%'} & set(text) else text}"


def sqlite_path(uri: str) -> Path | None:
    """Returns the file of an SQLite store's URI; None where it is no such URI, or a database in memory."""
    found = _SQLITE.fullmatch(uri)
    text = unquote(found[2]) if found else ""
    if not text or text == ":memory:" or text.startswith("file:"):
        return None
    return expanded(text)


def follow_store(uri: str) -> list[Path]:
    """Lets the addresses of files in an SQLite store lead to its own folder; returns those that they led to before."""
    path = sqlite_path(uri)
    return [] if path is None else follow(path, path.parent)


def is_file_store(uri: str) -> bool:
    """Returns whether a URI is that of MLflow's retired store: a folder, or a `file:` URI."""
    return uri.startswith("file:") or (":" not in uri and uri not in ("databricks", "databricks-uc", "uc"))
