"""Files in an object store, by URL: what machines without a common disk share. fsspec's drivers do the talking.

A whole file is put or none, and a file can be made where there is none yet: all that leases, mirrors and caches need.
Credentials come from the environment of each machine, never from a URL.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import os
import re
import time
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from drorae.config import default_cache_dir
from drorae.errors import UserError, brief

DRIVERS = {"s3": ("s3fs", "drorae[s3]"), "gs": ("gcsfs", "gcsfs"), "memory": ("fsspec", "fsspec")}
"""Kinds of URL, the package that speaks them and what to install for it. Only stores that can make a file where there
is none, and refuse where there is one, keep two machines from doing the same. memory: this process alone."""
PATIENCE_SECONDS = 300.0
"""How long a store that does not answer is asked again where nothing goes on without it."""

T = TypeVar("T")


class RemoteError(OSError):
    """A store that does not answer, or refuses; its message is one line."""


def own_folder() -> Path:
    """Where this machine keeps its copies of what lies in stores: `$DRORAE_LOCAL_CACHE`, else `~/.cache/drorae`."""
    return Path(default_cache_dir("DRORAE_LOCAL_CACHE")).expanduser().resolve()


def expanded(path: str | Path) -> Path:
    """Returns a path with the home folder in place of a leading `~`; one of an unknown user stays as it is."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def locate(place: str | Path | Remote) -> Path | Remote:
    """Returns a path as it is but for its `~`, a URL as a `Remote`; `file://` URLs are paths.

    pathlib swallows one of a URL's slashes: it may be missing.

    Raises:
        UserError: a kind of URL that is not known, a password or a query in it, or no bucket.
    """
    if isinstance(place, Remote):
        return place
    found = re.fullmatch(r"([A-Za-z][A-Za-z0-9+.-]+):/{1,3}(.*)", str(place))
    if found is None:
        return expanded(place)
    kind, rest = found[1].lower(), found[2]
    if kind == "file":
        return Path("/" + unquote(rest)) if not rest.startswith("~") else expanded(unquote(rest))
    shown = f"{kind}://{rest.rpartition('@')[2].partition('?')[0]}"
    parts = urlsplit(f"{kind}://{rest}")
    if parts.password or parts.username or parts.query:
        raise UserError(
            f"{shown}: the URL holds a password, a user or a query, which logs would show; put credentials into the "
            "environment of the driver and every node (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, ...)"
        )
    if kind not in DRIVERS:
        raise UserError(f"{shown}: no such store; expected a path, or a URL that begins with s3:// or gs://")
    if not parts.netloc or {".", ".."} & set(rest.split("/")):
        raise UserError(f"{shown}: expected {kind}://BUCKET/PREFIX")
    return Remote(f"{kind}://{rest.strip('/')}")


def absolute(place: str | Path) -> str:
    """A path as an absolute one, a URL as it is: what another process understands."""
    found = locate(place)
    return found.url if isinstance(found, Remote) else str(found.resolve())


def copies(root: Remote, role: str) -> Path:
    """Where this machine keeps its copy of a store's folder of sweeps, one for each `role`."""
    return own_folder() / "mirrors" / hashlib.sha256(root.url.encode()).hexdigest()[:16] / role


def patiently(action: Callable[[], T], seconds: float | None = None) -> T:
    """An action's result; while it raises `RemoteError` it is tried again, for `seconds` (None: `PATIENCE_SECONDS`)."""
    deadline = time.monotonic() + (PATIENCE_SECONDS if seconds is None else seconds)
    pause = 0.5
    while True:
        try:
            return action()
        except RemoteError:
            if time.monotonic() + pause > deadline:
                raise
        time.sleep(pause)
        pause = min(2 * pause, 15.0)


@functools.cache
def _filesystem(kind: str, process: int) -> Any:
    """Fsspec's driver, one for each process: it keeps a thread, which a fork loses."""
    package, install = DRIVERS[kind]
    try:
        importlib.import_module(package)
        import fsspec
    except ImportError:
        raise UserError(f"{kind}:// needs the package {package} on every machine; pip install '{install}'") from None
    # Listings must show what other machines have just written. fsspec's own cache keeps one for each thread.
    return fsspec.filesystem(kind, use_listings_cache=False, skip_instance_cache=True)


@dataclass(frozen=True)
class Remote:
    """A file or folder of a store. Every call may raise `RemoteError`, and UserError where its driver is missing."""

    url: str
    """Without a slash at its end."""

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> Remote:
        return Remote(f"{self.url}/{name}")

    @property
    def name(self) -> str:
        """The last part."""
        return self.url.rpartition("/")[2]

    @property
    def parent(self) -> Remote:
        """The folder around it."""
        return Remote(self.url.rpartition("/")[0])

    def with_name(self, name: str) -> Remote:
        """Another in the same folder."""
        return self.parent / name

    def read(self) -> bytes | None:
        """A file's content; None where there is none."""
        try:
            content: bytes = self._call("cat_file", self.url)
            return content
        except FileNotFoundError:
            return None

    def write(self, content: bytes) -> None:
        """Makes or replaces a file."""
        self._put("pipe_file", self.url, content)

    def create(self, content: bytes) -> bool:
        """Makes a file where there is none: of several that try at once, one does. False where there is one."""
        try:
            self._put("pipe_file", self.url, content, mode="create")
            return True
        except (FileExistsError, RemoteError) as error:
            # A refusal may be the answer to a repeated request of which the first got through.
            there = self.read()
            if there is None and isinstance(error, RemoteError):
                raise
            return there == content

    def delete(self) -> None:
        """Removes a file; nothing where there is none."""
        try:
            self._call("rm_file", self.url)
        except FileNotFoundError:
            return

    def files(self) -> dict[str, str]:
        """Returns all files below a folder, by name relative to it, with a stamp that changes when they do.

        Hidden ones, whose name or folder begins with a dot, are left out.

        Raises:
            RemoteError: one's name would lead out of a folder that it is copied into.
        """
        try:
            found = self._call("find", self.url, detail=True)
        except FileNotFoundError:
            return {}
        stamps = {}
        start = len(self.url.partition("://")[2]) + 1
        for path, info in found.items():
            name = path.lstrip("/")[start:]
            # A store without folders may answer with the folder itself, or an empty file that stands for one.
            if not name or name.endswith("/") or info.get("type") == "directory":
                continue
            parts = name.split("/")
            if name.startswith("/") or {"", ".", ".."} & set(parts) or "\\" in name or "\0" in name:
                raise RemoteError(f"{self.url}: holds a file named {name!r}, which no copy could have; rename it there")
            if not any(part.startswith(".") for part in parts):
                mark = next((info[key] for key in ("ETag", "etag", "mtime", "created") if info.get(key)), "")
                stamps[name] = f"{info.get('size')} {mark}"
        return stamps

    def download(self, names: Iterable[str], folder: Path) -> None:
        """Copies files below this folder into another one, each whole or not at all; what is gone is skipped."""

        def fetch(name: str) -> None:
            path = folder / name
            draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._call("get_file", f"{self.url}/{name}", str(draft))
                os.replace(draft, path)
            except FileNotFoundError:
                return
            finally:
                draft.unlink(missing_ok=True)

        # Thousands of small files, each of which is mostly waiting.
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(fetch, names))

    def upload(self, path: Path) -> None:
        """Makes or replaces this file with a local one; nothing where that is gone."""
        if path.is_file():
            self._put("put_file", str(path), self.url)

    def _put(self, what: str, *arguments: Any, **options: Any) -> None:
        try:
            self._call(what, *arguments, **options)
        except FileNotFoundError as error:
            raise RemoteError(f"{self.url}: no such bucket ({brief(error, 200)})") from None

    def _call(self, what: str, *arguments: Any, **options: Any) -> Any:
        driver = _filesystem(self.url.partition(":")[0], os.getpid())
        try:
            return getattr(driver, what)(*arguments, **options)
        except (FileNotFoundError, FileExistsError):
            raise
        except Exception as error:
            # Drivers raise what their libraries do, which is more than OSErrors.
            raise RemoteError(f"{self.url}: {type(error).__name__}: {brief(error, 200)}") from error


def matches(name: str, pattern: str) -> bool:
    """Whether a relative name fits a pattern part by part: `trials/*/result.json`."""
    path = PurePosixPath(name)
    return len(path.parts) == len(PurePosixPath(pattern).parts) and path.match(pattern)
