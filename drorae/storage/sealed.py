"""Files that can be made again, kept beside their SHA-256: damage is found on reading, and the file set aside.

The seal of `decoder.safetensors` is `decoder.safetensors.sha256`, a line that `sha256sum -c` reads.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from drorae.errors import Notice
from drorae.storage.files import file_sha256, naming_unreadable, replacing, write_atomic

T = TypeVar("T")

SEAL = ".sha256"
"""What is put after the name of a file for that of its seal."""


def seal_path(path: Path) -> Path:
    """Where the SHA-256 of a file is kept."""
    return path.with_name(path.name + SEAL)


def write_sealed(path: Path, write: Callable[[Path], object]) -> None:
    """Lets `write` fill a temporary file of the same suffix, which then takes the name `path`, and keeps its SHA-256.

    The seal comes first: a kill between the two leaves a file that counts as missing or as damaged, never one
    that is trusted for the wrong reason. Until it is replaced, an older file keeps its seal beside the new one.
    """
    seal = seal_path(path)
    with replacing(path) as temporary:
        write(temporary)
        line = f"{file_sha256(temporary)}  {path.name}\n".encode()
        before = seal.read_bytes() if path.is_file() and seal.is_file() else b""
        write_atomic(seal, line + before)
    if before:
        write_atomic(seal, line)


def is_sound(path: Path) -> bool:
    """Whether a file's content is the sealed one; True where there is no file, or no seal (an older version's)."""
    if not (path.is_file() and seal_path(path).is_file()):
        return True
    return file_sha256(path) in seal_path(path).read_text(errors="replace").split()


def read_sealed(path: Path, read: Callable[[Path], T]) -> T | None:
    """`read(path)`, or None where there is no such file.

    None, too, where its content is not the sealed one, or it has no seal and `read` cannot make sense of it: the file
    is then set aside as `<name>.damaged` with a `Notice`. A disk that does not give the file out, or too little memory
    for it, is no damage, and raised.

    Raises:
        UserError: the user may not read it, or has too many files open.
    """
    with naming_unreadable(path):
        if not path.is_file():
            return None
        if not is_sound(path):
            set_aside(path, "its SHA-256 is not the one beside it")
            return None
        try:
            return read(path)
        except (OSError, MemoryError, RuntimeError):
            raise
        except Exception as error:
            if seal_path(path).is_file():
                raise
            set_aside(path, f"unreadable ({type(error).__name__})")
            return None


def set_aside(path: Path, reason: str) -> None:
    """Renames a damaged file to `<name>.damaged`, without its seal, and says so in a `Notice`."""
    aside = move_aside(path)
    seal_path(path).unlink(missing_ok=True)
    warnings.warn(f"{path}: damaged, {reason}; set aside as {aside} and made again", Notice, stacklevel=3)


def move_aside(path: Path) -> str:
    """Renames a damaged file to `<name>.damaged`, and returns that name."""
    aside = path.with_name(f"{path.name}.damaged")
    # Another process may have found the same.
    with contextlib.suppress(FileNotFoundError):
        os.replace(path, aside)
    return aside.name
