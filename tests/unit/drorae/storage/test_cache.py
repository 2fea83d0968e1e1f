"""A cache of one machine, and one that machines share."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from unwritable import public_folder, unwritable

from drorae.errors import DiskFullError, UserError
from drorae.storage import cache as caches
from drorae.storage.cache import Cache
from drorae.storage.sealed import is_sound, write_sealed


@pytest.fixture
def machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Cache]:
    """Makes the cache of a machine of this name; all share one store."""
    url = f"memory://bucket/{uuid.uuid4().hex}"

    def machine(name: str) -> Cache:
        monkeypatch.setenv("DRORAE_LOCAL_CACHE", str(tmp_path / name))
        return Cache(url)

    return machine


def test_a_folder_shares_with_nobody(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    (cache / "a.npz").write_bytes(b"1")
    cache.share("a.npz")
    assert cache.local == tmp_path and not cache.fetch("a.npz") and not cache.fetch("b.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]


def test_a_file_made_on_one_machine_is_found_with_its_seal_on_another(machines: Callable[[str], Cache]) -> None:
    one, other = machines("one"), machines("other")
    name = "references/abc.npz"
    assert not one.fetch(name)
    write_sealed(one / name, lambda temporary: temporary.write_bytes(b"numbers"))
    one.share(name)
    assert other.fetch(name) and is_sound(other / name) and (other / name).read_bytes() == b"numbers"
    write_sealed(one / name, lambda temporary: temporary.write_bytes(b"others"))
    one.share(name)
    assert not other.fetch(name), "an entry never changes"
    assert other.fetch(name, anew=True) and (other / name).read_bytes() == b"others"


def test_a_folder_without_its_last_file_is_no_entry(machines: Callable[[str], Cache]) -> None:
    one, other = machines("one"), machines("other")
    (one / "arrays/abc").mkdir(parents=True)
    (one / "arrays/abc" / "data.bin").write_bytes(b"1234")
    one.share("arrays/abc", last="manifest.json")
    assert not other.fetch("arrays/abc", last="manifest.json") and not (other / "arrays/abc").exists()
    (one / "arrays/abc" / "manifest.json").write_text("{}")
    one.share("arrays/abc", last="manifest.json")
    assert other.fetch("arrays/abc", last="manifest.json")
    assert sorted(path.name for path in (other / "arrays/abc").iterdir()) == ["data.bin", "manifest.json"]


def test_a_cache_is_made_where_there_is_none(tmp_path: Path) -> None:
    Cache(tmp_path / "new" / "cache").check()
    assert list((tmp_path / "new" / "cache").iterdir()) == []


def test_what_can_be_no_cache_is_one_line_with_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file: cannot be used .it is a file.; .*--cache-dir or DRORAE_CACHE") as raised:
        Cache(tmp_path / "file").check()
    assert "\n" not in str(raised.value)
    with public_folder() as folder, unwritable(folder), pytest.raises(UserError, match=r"cannot be used .Permission"):
        Cache(folder / "none" / "here").check()
    with public_folder() as folder, unwritable(folder):
        Cache(folder).check()
    monkeypatch.setattr(caches, "has_room", lambda folder, size: False)
    with pytest.raises(DiskFullError, match="the disk is full"):
        Cache(tmp_path).check()


def test_an_administrators_cache_is_read_without_a_lock_and_lacks_by_name() -> None:
    with public_folder() as folder:
        cache = Cache(folder)
        with cache.lock("references/a.lock"):
            assert (folder / "references" / "a.lock").exists()
        (folder / "references" / "a").write_bytes(b"1")
        with unwritable(folder), cache.naming_unwritable():
            for name in ("references/a.lock", "references/b.lock", "decoders/c/.lock"):
                with cache.lock(name):
                    assert (folder / "references" / "a").read_bytes() == b"1"
        missing = pytest.raises(UserError, match="an entry of its references is missing or damaged")
        with unwritable(folder), missing, cache.naming_unwritable():
            (folder / "references" / "b").write_bytes(b"2")


def test_other_errors_are_passed_on(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    elsewhere = PermissionError(13, "Permission denied", "/elsewhere")
    with pytest.raises(PermissionError), cache.naming_unwritable():
        raise elsewhere
