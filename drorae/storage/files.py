"""Files: written whole or not at all, measured, and found inside installed packages. Standard library only."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib.util
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from drorae.errors import DiskFullError, UserError

_REMEDIES = {
    errno.EACCES: "let this user read it (chmod u+r)",
    errno.EPERM: "let this user read it",
    errno.EMFILE: "allow more open files (ulimit -n)",
    errno.ENFILE: "end other programs, or allow more open files",
}
"""What a user can do where a file cannot be read."""
LONGEST_NAME = 100
"""Bytes of a name made of a text. File systems take 255, of which others want some before it and behind."""


def file_name(text: str) -> str:
    """Returns a file's or folder's name that stands for any text, such as a column's name: the text where that can be.

    What no name should hold becomes a dash, and what is long is cut. Such a name ends in a digest of the text, so that
    no two texts have the same.
    """
    name = re.sub(r"[^\w.+=@-]", "-", text).lstrip(".-").rstrip(".")
    name = name.encode()[:LONGEST_NAME].decode(errors="ignore")
    if name and name == text:
        return name
    return f"{name or 'unnamed'}-{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()[:8]}"


UNWRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM)
"""Why a user may not write somewhere."""
ROOM_BYTES = 2**20
"""A disk with less room is full."""


@contextlib.contextmanager
def replacing(path: Path, make_folder: bool = True) -> Iterator[Path]:
    """A temporary path beside `path`, of the same suffix, to be written to; it takes its name when the block ends.

    So `path` is never seen half-written, nor empty after a power cut: what was written, and then the name, are on the
    disk when this returns.

    Args:
        path: the file.
        make_folder: make its folder where that is missing, which otherwise raises FileNotFoundError on the first use.
    """
    if make_folder:
        path.parent.mkdir(parents=True, exist_ok=True)
    # Containers that share a disk may share process numbers.
    temporary = path.with_name(f".{uuid.uuid4().hex}.{path.name}")
    try:
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    # Some disks have no way to do it for a folder; the file itself is whole in any case.
    with contextlib.suppress(OSError):
        _sync(path.parent)


def remove_drafts(path: Path) -> None:
    """Removes what kills have left of `replacing(path)`; for whoever alone writes that file."""
    for draft in path.parent.glob(f".*.{path.name}"):
        if re.fullmatch(r"\.[0-9a-f]{32}", draft.name.removesuffix(f".{path.name}")):
            draft.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Waits until a file or a folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Not of this kind of disk's to do.
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def write_atomic(path: Path, content: bytes, make_folder: bool = True) -> Path:
    """Writes a file as `replacing` has it, so that it is never seen half-written; returns the path."""
    with replacing(path, make_folder) as temporary:
        temporary.write_bytes(content)
    return path


def write_json(path: Path, tree: Any) -> None:
    """Writes JSON atomically."""
    write_atomic(path, json.dumps(tree, indent=1).encode())


def json_rows(lines: bytes) -> list[dict[str, Any]]:
    """The objects in lines of JSON; lines that a kill or a full disk cut short are left out."""
    rows = []
    for line in lines.splitlines():
        with contextlib.suppress(ValueError):
            rows.append(json.loads(line))
    return [row for row in rows if isinstance(row, dict)]


def has_room(folder: Path, size: int) -> bool:
    """Whether a file of so many bytes can be written into a folder, quotas and all, by writing one."""
    probe = folder / f".room.{uuid.uuid4().hex}"
    try:
        with probe.open("wb") as file:
            file.write(b"\0" * size)
        return True
    except OSError as error:
        if not disk_is_full(error):
            raise
        return False
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()


@contextlib.contextmanager
def naming_unreadable(path: Path) -> Iterator[None]:
    """Makes an error of reading a file that its user can put right a UserError; the file itself may be sound."""
    try:
        yield
    except OSError as error:
        if error.errno not in _REMEDIES:
            raise
        raise UserError(
            f"{error.filename or path}: cannot be read ({error.strerror}); {_REMEDIES[error.errno]}, and run again"
        ) from None


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def disk_is_full(error: BaseException) -> bool:
    """Whether an exception, or one behind it, says that a disk or a quota is full."""
    behind: BaseException | None = error
    seen: list[BaseException] = []
    # An error that was carried through another, and then raised out of it, stands behind itself.
    while behind is not None and behind not in seen:
        if isinstance(behind, OSError) and behind.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        # Libraries written in Rust (safetensors) and C++ only say it.
        if "No space left on device" in str(behind) or "StorageFull" in str(behind):
            return True
        seen.append(behind)
        behind = behind.__cause__ or behind.__context__
    return False


def full_disk(folder: Path, file: object = None) -> str:
    """One line on a full disk: which, and what to do."""
    with contextlib.suppress(OSError):
        free = shutil.disk_usage(folder).free / 1e6
        return (
            f"{file or folder}: the disk is full ({free:.0f} MB free at {folder}); free some space there and in the "
            "folder for temporary files, and run again"
        )
    return f"{file or folder}: the disk is full; free some space and run again"


@contextlib.contextmanager
def naming_full_disk(folder: Path) -> Iterator[None]:
    """Makes an error that a full disk caused a DiskFullError naming the file, or else the folder."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if not disk_is_full(error):
            raise
        raise DiskFullError(full_disk(folder, getattr(error, "filename", None))) from None


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
