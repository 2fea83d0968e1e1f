"""Files: written whole or not at all, measured, and found inside installed packages. Standard library only."""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import json
import os
from pathlib import Path
from typing import Any


def write_atomic(path: Path, content: bytes) -> Path:
    """Writes a file under a temporary name beside it and renames it, so that it is never seen half-written.

    Makes the folder where it is missing; returns the path.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return path


def write_json(path: Path, tree: Any) -> None:
    """Writes JSON atomically."""
    write_atomic(path, json.dumps(tree, indent=1).encode())


def has_room(folder: Path, size: int) -> bool:
    """Whether a file of so many bytes can be written into a folder, quotas and all, by writing one."""
    probe = folder / f".room.{os.getpid()}"
    try:
        with probe.open("wb") as file:
            file.write(b"\0" * size)
            file.flush()
            os.fsync(file.fileno())
        return True
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        return False
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()


def folder_bytes(folder: Path) -> int:
    """Bytes in all files below a folder; files that another process moves away meanwhile count nothing."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:
            continue
    return total


def packaged_path(package: str, relative: str) -> Path | None:
    """A data file inside an installed package, which is not imported; None where either is missing."""
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return None
    for root in (spec.submodule_search_locations or []) if spec else []:
        path = Path(root) / relative
        if path.is_file():
            return path
    return None
