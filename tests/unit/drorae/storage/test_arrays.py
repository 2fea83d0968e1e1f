"""The array store: filled once, resumed after a kill, checked on open, bounded."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from drorae.errors import Notice, UserError
from drorae.storage.arrays import CHUNK, ArraySpec, ArrayStore

COUNT = 3 * CHUNK + 10
SPEC = ArraySpec("x", (4,), "float32")
KEY = {"what": "numbers"}


def numbers(start: int, stop: int) -> np.ndarray:
    return np.arange(start * 4, stop * 4, dtype=np.float32).reshape(-1, 4)


def logged(log: Path, pause: float = 0.0, kill_at: int = -1):
    def produce(start: int, stop: int) -> np.ndarray:
        with log.open("a") as stream:
            stream.write(f"{start}\n")
        time.sleep(pause)
        if start == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return numbers(start, stop)

    return produce


def fill(root: Path, log: Path, pause: float, kill_at: int) -> None:
    ArrayStore(root, 1e9).open(KEY, COUNT, SPEC, logged(log, pause, kill_at))


def starts(log: Path) -> list[int]:
    return [int(line) for line in log.read_text().split()]


def test_filled_once_and_read_only(tmp_path: Path) -> None:
    log = tmp_path / "log"
    store = ArrayStore(tmp_path / "store", 1e9)
    for _ in range(2):
        array = store.open(KEY, COUNT, SPEC, logged(log))
        assert np.array_equal(array, numbers(0, COUNT))
    assert starts(log) == [0, CHUNK, 2 * CHUNK, 3 * CHUNK]
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1
    store.open({"what": "others"}, COUNT, SPEC, logged(log))
    assert len(starts(log)) == 8


def test_two_processes_at_once_fill_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    context = multiprocessing.get_context("fork")
    both = [context.Process(target=fill, args=(tmp_path / "store", log, 0.1, -1)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
        assert process.exitcode == 0
    assert starts(log) == [0, CHUNK, 2 * CHUNK, 3 * CHUNK]


def test_goes_on_after_a_kill(tmp_path: Path) -> None:
    log = tmp_path / "log"
    process = multiprocessing.get_context("fork").Process(target=fill, args=(tmp_path / "store", log, 0.0, 2 * CHUNK))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    array = ArrayStore(tmp_path / "store", 1e9).open(KEY, COUNT, SPEC, logged(log))
    assert np.array_equal(array, numbers(0, COUNT))
    assert starts(log) == [0, CHUNK, 2 * CHUNK, 2 * CHUNK, 3 * CHUNK]


@pytest.mark.parametrize("damage", ["truncate", "flip", "manifest"])
def test_damage_is_noticed_set_aside_and_mended(tmp_path: Path, damage: str) -> None:
    store = ArrayStore(tmp_path, 1e9)
    store.open(KEY, COUNT, SPEC, numbers)
    path = store.path(KEY) / ("manifest.json" if damage == "manifest" else "x.bin")
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[100] ^= 0xFF
    else:
        del content[-7:]
    path.write_bytes(content)
    with pytest.warns(UserWarning, match="damaged"):
        array = store.open(KEY, COUNT, SPEC, numbers)
    assert np.array_equal(array, numbers(0, COUNT))
    assert list(tmp_path.glob("*.corrupt"))


@pytest.mark.slow
def test_a_flipped_bit_in_any_chunk_is_noticed(tmp_path: Path) -> None:
    store = ArrayStore(tmp_path, 1e9)
    chunks = 20
    for chunk in range(chunks):
        store.open(KEY, chunks * CHUNK, SPEC, numbers)
        path = store.path(KEY) / "x.bin"
        content = bytearray(path.read_bytes())
        content[(chunk * CHUNK + chunk) * 16] ^= 1
        path.write_bytes(content)
        with pytest.warns(Notice, match=f"fails its checksum at item {chunk * CHUNK}.*built again"):
            array = store.open(KEY, chunks * CHUNK, SPEC, numbers)
        assert np.array_equal(array, numbers(0, chunks * CHUNK))


def test_what_a_killed_writer_left_damaged_is_made_again(tmp_path: Path) -> None:
    process = multiprocessing.get_context("fork").Process(
        target=fill, args=(tmp_path / "store", tmp_path / "log", 0.0, 2 * CHUNK)
    )
    process.start()
    process.join()
    (left,) = (tmp_path / "store").glob("*.partial/x.bin")
    content = bytearray(left.read_bytes())
    content[7] ^= 1
    left.write_bytes(content)
    with pytest.warns(Notice, match="fails its checksum at item 0"):
        array = ArrayStore(tmp_path / "store", 1e9).open(KEY, COUNT, SPEC, numbers)
    assert np.array_equal(array, numbers(0, COUNT))


def test_what_was_set_aside_makes_room_where_there_is_none(tmp_path: Path) -> None:
    store = ArrayStore(tmp_path, COUNT * 16 + 5000)
    store.open(KEY, COUNT, SPEC, numbers)
    path = store.path(KEY) / "x.bin"
    path.write_bytes(bytes(COUNT * 16))
    with pytest.warns(Notice):
        store.open(KEY, COUNT, SPEC, numbers)
    assert not list(tmp_path.glob("*.corrupt"))


def test_limit_says_what_it_would_need(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"need 0\.00 GB.*limited to 0\.00 GB.*--cache-limit-gb"):
        ArrayStore(tmp_path, 100).open(KEY, COUNT, SPEC, numbers)
    assert not list(tmp_path.rglob("*.bin"))


def killed_at_the_last_chunk(root: Path) -> None:
    def progress(done: int, total: int) -> None:
        if done == total:
            os.kill(os.getpid(), signal.SIGKILL)

    ArrayStore(root, 1e9).open(KEY, COUNT, SPEC, numbers, progress)


def killed_before_its_name(root: Path) -> None:
    store, replace = ArrayStore(root, 1e9), os.replace

    def killed(source: Path, target: Path) -> None:
        if Path(target) == store.path(KEY):
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)

    os.replace = killed  # type: ignore[assignment]
    store.open(KEY, COUNT, SPEC, numbers)


@pytest.mark.parametrize("writer", [killed_at_the_last_chunk, killed_before_its_name])
def test_a_writer_killed_after_its_last_item_costs_nothing(tmp_path: Path, writer: Callable[[Path], None]) -> None:
    process = multiprocessing.get_context("fork").Process(target=writer, args=(tmp_path / "store",))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        array = ArrayStore(tmp_path / "store", 1e9).open(KEY, COUNT, SPEC, logged(tmp_path / "log"))
    assert np.array_equal(array, numbers(0, COUNT))
    assert not (tmp_path / "log").exists(), "nothing is made again"
    assert sorted(path.name for path in ArrayStore(tmp_path / "store", 1e9).path(KEY).iterdir()) == [
        "manifest.json", "x.bin",
    ]  # fmt: skip


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ESTALE, errno.EIO, errno.EACCES, errno.ENOMEM])
@pytest.mark.parametrize("what", ["memmap", "manifest"])
def test_a_disk_that_gives_nothing_out_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, what: str
) -> None:
    store = ArrayStore(tmp_path, 1e9)
    store.open(KEY, COUNT, SPEC, numbers)

    def refuse(*arguments: object, **more: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(*((np, "memmap") if what == "memmap" else (Path, "read_text")), refuse)
        with pytest.raises((OSError, UserError), match=os.strerror(number)) as raised:
            store.open(KEY, COUNT, SPEC, numbers)
    if number in (errno.EMFILE, errno.EACCES):
        assert isinstance(raised.value, UserError) and "run again" in str(raised.value)
    assert not list(tmp_path.glob("*.corrupt"))
    store.open(KEY, COUNT, SPEC, logged(tmp_path / "log"))
    assert not (tmp_path / "log").exists()
