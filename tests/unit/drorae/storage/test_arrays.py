"""The array store: filled once, resumed after a kill, checked shard by shard when it is used, bounded."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import shutil
import signal
import time
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gloo import in_processes

from drorae.errors import Notice, UserError
from drorae.storage import arrays
from drorae.storage.arrays import CHUNK, ArraySpec, ArrayStore, StoredArray

COUNT = 3 * CHUNK + 10
SPEC = ArraySpec("x", (4,), "float32")
KEY = {"what": "numbers"}


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of `CHUNK` items, so that the array has four."""
    monkeypatch.setattr(arrays, "SHARD_BYTES", CHUNK * SPEC.item_bytes)


def whole(array: StoredArray) -> np.ndarray:
    return array.take(np.arange(len(array)))


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


def test_filled_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    store = ArrayStore(tmp_path / "store", 1e9)
    for _ in range(2):
        array = store.open(KEY, COUNT, SPEC, logged(log))
        assert np.array_equal(whole(array), numbers(0, COUNT))
    assert starts(log) == [0, CHUNK, 2 * CHUNK, 3 * CHUNK]
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
    assert np.array_equal(whole(array), numbers(0, COUNT))
    assert starts(log) == [0, CHUNK, 2 * CHUNK, 2 * CHUNK, 3 * CHUNK]
    assert len(list((tmp_path / "store").glob("*/*.bin"))) == 4, "nothing is left of the shard that was being written"


def fill_together(root: Path, shard_items: int = CHUNK) -> tuple[list[int], list[int], bytes]:
    """Where one of several processes has filled an entry, what it heard of that, and what it reads."""
    arrays.SHARD_BYTES = shard_items * SPEC.item_bytes
    filled: list[int] = []
    heard: list[int] = []

    def produce(start: int, stop: int) -> np.ndarray:
        filled.append(start)
        return numbers(start, stop)

    array = ArrayStore(root, 1e9).open(KEY, COUNT, SPEC, produce, lambda done, total: heard.append(done))
    return filled, heard, whole(array).tobytes()


def test_processes_on_one_trial_fill_it_together_from_where_one_was_killed(tmp_path: Path) -> None:
    process = multiprocessing.get_context("fork").Process(
        target=fill, args=(tmp_path / "store", tmp_path / "log", 0, CHUNK)
    )
    process.start()
    process.join()
    first, second = in_processes(2, tmp_path / "meet", fill_together, tmp_path / "store")
    expected = numbers(0, COUNT).tobytes()
    assert first == ([CHUNK, 3 * CHUNK], [3 * CHUNK, COUNT], expected), "the main process hears of all"
    assert second == ([2 * CHUNK], [], expected)
    assert fill_together(tmp_path / "store") == ([], [], expected)


def test_processes_on_one_trial_share_an_entry_of_less_than_a_shard(tmp_path: Path) -> None:
    expected = numbers(0, COUNT).tobytes()
    first, second = in_processes(2, tmp_path / "meet", fill_together, tmp_path / "store", 2**20)
    assert first == ([0, CHUNK], [CHUNK, COUNT], expected)
    assert second == ([2 * CHUNK, 3 * CHUNK], [], expected)
    assert fill_together(tmp_path / "store", 2**20) == ([], [], expected)


def test_one_process_goes_on_with_what_two_have_begun(tmp_path: Path) -> None:
    entry = arrays.Entry(ArrayStore(tmp_path, 1e9).path(KEY), KEY, COUNT, ArraySpec("x", (4,), "float32"))
    entry.partial.mkdir(parents=True)
    digest = entry.write(entry.partial, 0, 2 * CHUNK, numbers, lambda done, total: None)
    entry.write_manifest(entry.partial, arrays.Listed(2 * CHUNK, [digest]))
    filled, _, found = fill_together(tmp_path, 2**20)
    assert (filled, found) == ([2 * CHUNK, 3 * CHUNK], numbers(0, COUNT).tobytes())


def flip(path: Path, place: int = 100) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def shards(store: ArrayStore) -> list[Path]:
    return sorted(store.path(KEY).glob("*.bin"))


def test_a_manifest_that_makes_no_sense_sets_the_entry_aside(tmp_path: Path) -> None:
    store = ArrayStore(tmp_path, 1e9)
    store.open(KEY, COUNT, SPEC, numbers)
    path = store.path(KEY) / "manifest.json"
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.warns(Notice, match=r"damaged .*set aside as .*\.corrupt and made again"):
        array = store.open(KEY, COUNT, SPEC, numbers)
    assert np.array_equal(whole(array), numbers(0, COUNT))
    assert list(tmp_path.glob("*.corrupt"))


def test_opening_reads_no_shard_and_the_first_use_reads_its_own_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ArrayStore(tmp_path, 1e9)
    store.open(KEY, COUNT, SPEC, numbers)
    read: list[str] = []
    file_sha256 = arrays.file_sha256
    monkeypatch.setattr(arrays, "file_sha256", lambda path: read.append(path.name) or file_sha256(path))
    monkeypatch.setattr(
        np, "memmap", lambda path, *more, **named: opened.append(path.name) or memmap(path, *more, **named)
    )
    opened: list[str] = []
    array = store.open(KEY, COUNT, SPEC, numbers)
    assert read == opened == []
    for _ in range(2):
        assert np.array_equal(array.take(np.array([2 * CHUNK + 3])), numbers(2 * CHUNK + 3, 2 * CHUNK + 4))
    assert read == opened == ["x-00002.bin"]
    again = store.open(KEY, COUNT, SPEC, numbers)
    assert np.array_equal(whole(again), numbers(0, COUNT))
    assert sorted(read) == [path.name for path in shards(store)], "each once in a process"


memmap = np.memmap


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
@pytest.mark.parametrize("number", [0, 2, 3])
def test_a_damaged_shard_is_set_aside_and_made_again_alone(tmp_path: Path, damage: str, number: int) -> None:
    store, log = ArrayStore(tmp_path, 1e9), tmp_path / "log"
    store.open(KEY, COUNT, SPEC, numbers)
    files = shards(store)
    others = [path.stat().st_ino for path in files if path != files[number]]
    if damage == "flip":
        flip(files[number])
    elif damage == "truncate":
        os.truncate(files[number], 50)
    else:
        files[number].unlink()
    with pytest.warns(Notice, match=f"{files[number].name}: damaged .*set aside as .*made again") as told:
        found = whole(store.open(KEY, COUNT, SPEC, logged(log)))
    assert np.array_equal(found, numbers(0, COUNT))
    assert len(told) == 1 and starts(log) == [number * CHUNK]
    assert [path.stat().st_ino for path in files if path != files[number]] == others
    assert bool(list(tmp_path.glob("*/*.damaged"))) == (damage != "remove")
    assert np.array_equal(whole(store.open(KEY, COUNT, SPEC, logged(log))), numbers(0, COUNT))
    assert starts(log) == [number * CHUNK]


def test_of_two_that_find_a_damaged_shard_one_makes_it_again(tmp_path: Path) -> None:
    """Though not to the same bits: another device did."""
    store = ArrayStore(tmp_path, 1e9)
    store.open(KEY, COUNT, SPEC, numbers)
    first, second = (store.open(KEY, COUNT, SPEC, lambda start, stop: numbers(start, stop) + 1) for _ in range(2))
    flip(shards(store)[1])
    with pytest.warns(Notice) as told:
        found = [array.take(np.array([CHUNK])) for array in (first, second)]
    assert len(told) == 1
    assert all(np.array_equal(each, numbers(CHUNK, CHUNK + 1) + 1) for each in found)


def test_items_of_many_shards_come_in_their_order(tmp_path: Path) -> None:
    spec = ArraySpec("x", (6, 5), "float32")
    everything = np.random.default_rng(0).standard_normal((COUNT, 6, 5)).astype(np.float32)
    array = ArrayStore(tmp_path, 1e9).open(KEY, COUNT, spec, lambda start, stop: everything[start:stop])
    items = np.random.default_rng(1).integers(0, COUNT, 300)
    assert np.array_equal(array.take(items), everything[items])
    assert np.array_equal(array.take(items, 4), everything[items, 4:])
    assert array.take(items[:0]).shape == (0, 6, 5) and len(array) == COUNT
    assert np.array_equal(array.take(np.array([7, 3]), 5), everything[[7, 3], 5:])


def test_few_of_many_shards_are_open_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """6 TB are 20 000 files; a process may open 1024."""
    monkeypatch.setattr(arrays, "SHARD_BYTES", SPEC.item_bytes)
    monkeypatch.setattr(arrays, "OPEN_SHARDS", 5)
    array = ArrayStore(tmp_path, 1e9).open(KEY, 40, SPEC, numbers)
    before = len(os.listdir("/proc/self/fd"))
    assert np.array_equal(whole(array), numbers(0, 40))
    assert len(os.listdir("/proc/self/fd")) <= before + 5


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((12, 256, 768), "int16"), ((288, 288, 3), "uint8"), ((4096,), "float16"), ((40, 256, 4096), "int16")],
)
def test_a_shard_has_a_quarter_to_half_a_gibibyte(
    shape: tuple[int, ...], dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    spec = ArraySpec("x", shape, dtype)
    assert 2**28 < spec.shard_items * spec.item_bytes <= 2**29
    assert spec.shard_items.bit_count() == 1


def test_a_shard_holds_at_least_one_item(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "SHARD_BYTES", 1)
    assert SPEC.shard_items == 1


def former_entry(store: ArrayStore) -> Path:
    """An entry as drorae 0.1.0 wrote it: one file, a CRC-32 of every 256 items."""
    folder = store.former_path(KEY)
    folder.mkdir(parents=True)
    everything = numbers(0, COUNT)
    everything.tofile(folder / "x.bin")
    checksums = [zlib.crc32(everything[start : start + 256].tobytes()) for start in range(0, COUNT, 256)]
    tree = {"key": KEY, "count": COUNT, "checksums": {"x": checksums}}
    (folder / "manifest.json").write_text(json.dumps(tree))
    return folder


def test_an_entry_of_one_file_is_used_as_it_is(tmp_path: Path) -> None:
    store = ArrayStore(tmp_path / "store", 1e9)
    folder = former_entry(store)
    array = store.open(KEY, COUNT, SPEC, logged(tmp_path / "log"))
    assert np.array_equal(whole(array), numbers(0, COUNT)) and not (tmp_path / "log").exists()
    assert np.array_equal(array.take(np.array([700, 3]), 2), numbers(0, COUNT)[[700, 3], 2:])
    assert folder.is_dir() and not store.path(KEY).exists()


def test_a_damaged_entry_of_one_file_is_set_aside_and_made_again_in_shards(tmp_path: Path) -> None:
    store = ArrayStore(tmp_path / "store", 1e9)
    folder = former_entry(store)
    flip(folder / "x.bin", 16 * CHUNK)
    with pytest.warns(Notice, match=f"{folder}: damaged .x.bin fails its checksum at item {CHUNK}.; set aside"):
        array = store.open(KEY, COUNT, SPEC, numbers)
    assert np.array_equal(whole(array), numbers(0, COUNT)) and len(shards(store)) == 4
    assert folder.with_name(f"{folder.name}.corrupt").is_dir()


def test_what_a_killed_writer_left_damaged_is_made_again(tmp_path: Path) -> None:
    process = multiprocessing.get_context("fork").Process(
        target=fill, args=(tmp_path / "store", tmp_path / "log", 0.0, 2 * CHUNK)
    )
    process.start()
    process.join()
    flip(next((tmp_path / "store").glob("*.partial/x-00000.bin")), 7)
    array = ArrayStore(tmp_path / "store", 1e9).open(KEY, COUNT, SPEC, numbers)
    with pytest.warns(Notice, match=r"x-00000.bin: damaged"):
        assert np.array_equal(whole(array), numbers(0, COUNT))


def test_a_folder_that_goes_while_it_is_used_costs_its_making(tmp_path: Path) -> None:
    """Any folder of the cache may go at any time."""
    store = ArrayStore(tmp_path / "store", 1e9)
    array = store.open(KEY, COUNT, SPEC, numbers)
    array.take(np.array([0]))
    shutil.rmtree(store.path(KEY))
    with pytest.warns(Notice, match="missing"):
        assert np.array_equal(whole(array), numbers(0, COUNT))


def test_what_was_set_aside_makes_room_where_there_is_none(tmp_path: Path) -> None:
    store = ArrayStore(tmp_path, 2 * COUNT * 16 + 5000)
    array = store.open(KEY, COUNT, SPEC, numbers)
    for path in shards(store):
        path.write_bytes(bytes(path.stat().st_size))
    with pytest.warns(Notice):
        whole(array)
    assert len(list(tmp_path.glob("*/*.damaged"))) == 4
    (store.path(KEY) / "manifest.json").write_text("{")
    with pytest.warns(Notice):
        store.open(KEY, COUNT, SPEC, numbers)
    assert not [*tmp_path.glob("*.corrupt"), *tmp_path.glob("*/*.damaged")]


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
    assert np.array_equal(whole(array), numbers(0, COUNT))
    assert not (tmp_path / "log").exists(), "nothing is made again"
    assert sorted(path.name for path in ArrayStore(tmp_path / "store", 1e9).path(KEY).glob("[!.]*")) == [
        "manifest.json", *(f"x-0000{number}.bin" for number in range(4)),
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
            whole(store.open(KEY, COUNT, SPEC, numbers))
    if number in (errno.EMFILE, errno.EACCES):
        assert isinstance(raised.value, UserError) and "run again" in str(raised.value)
    assert not [*tmp_path.glob("*.corrupt"), *tmp_path.glob("*/*.damaged")]
    store.open(KEY, COUNT, SPEC, logged(tmp_path / "log"))
    assert not (tmp_path / "log").exists()


SIZE = COUNT * SPEC.item_bytes


def opened(store: ArrayStore, name: str) -> StoredArray:
    return store.open({"kind": name}, COUNT, SPEC, numbers)


def aged(store: ArrayStore, name: str, age: float) -> Path:
    folder = store.path({"kind": name})
    os.utime(folder / ".in-use", (time.time() - age, time.time() - age))
    return folder


def three(root: Path) -> ArrayStore:
    """A store with a, b and c, of which b was used longest ago, with room for no fourth."""
    store = ArrayStore(root, 3 * SIZE + 10_000, evict=True)
    for name, age in (("a", 2e6), ("b", 3e6), ("c", 1e6)):
        opened(store, name)
        aged(store, name, age)
    return store


def test_what_was_used_longest_ago_makes_room_and_is_named(tmp_path: Path) -> None:
    store = three(tmp_path / "features")
    with pytest.warns(Notice, match=r"removed \w+ \(b of 778 items, 0\.00 GB, last used .*\) to make room") as told:
        array = opened(store, "d")
    assert len(told) == 1 and np.array_equal(whole(array), numbers(0, COUNT))
    assert [store.path({"kind": name}).exists() for name in "abcd"] == [True, False, True, True]
    assert not list(tmp_path.rglob("*.evicted"))


def hold_until_told(root: Path, name: str, ready: Any, done: Any) -> None:
    array = opened(ArrayStore(root, 1e9), name)
    aged(ArrayStore(root, 1e9), name, 3e6)
    ready.set()
    done.wait(300)
    del array


def test_what_a_process_has_open_stays(tmp_path: Path) -> None:
    store = three(tmp_path / "features")
    context = multiprocessing.get_context("fork")
    ready, done = context.Event(), context.Event()
    other = context.Process(target=hold_until_told, args=(store.root, "b", ready, done))
    other.start()
    assert ready.wait(300)
    with pytest.warns(Notice, match="a of 778 items"):
        mine = opened(store, "d")
    assert store.path({"kind": "b"}).exists()
    # Now b is the other's, d this process's, and c goes.
    with pytest.warns(Notice, match="c of 778 items"):
        more = opened(store, "e")
    with pytest.raises(UserError, match="need .*--cache-limit-gb") as raised:
        opened(store, "f")
    assert "--cache-evict" not in str(raised.value)
    done.set()
    other.join()
    with pytest.warns(Notice, match="b of 778 items"):
        opened(store, "f")
    assert np.array_equal(whole(mine), whole(more))


def test_nothing_goes_where_all_of_it_would_not_do(tmp_path: Path) -> None:
    store = three(tmp_path / "features")
    with pytest.raises(UserError, match="--cache-limit-gb"):
        store.open(KEY, 4 * COUNT, SPEC, numbers)
    assert all(store.path({"kind": name}).exists() for name in "abc")


def test_a_refusal_names_what_would_go(tmp_path: Path) -> None:
    store = three(tmp_path / "features")
    store.evict = False
    with pytest.raises(
        UserError, match=r"--cache-limit-gb to .*let --cache-evict remove \w+ \(b of 778 items.*"
    ) as raised:
        opened(store, "d")
    said = str(raised.value)
    assert "\n" not in said and "a of 778" not in said and "c of 778" not in said
    assert all(store.path({"kind": name}).exists() for name in "abc")


def test_neither_decoders_nor_references_go(tmp_path: Path) -> None:
    """They lie beside the store, in the same cache."""
    store = three(tmp_path / "features")
    kept = [tmp_path / "decoders" / "x" / "decoder.safetensors", tmp_path / "references" / "y.npz"]
    for path in kept:
        path.parent.mkdir(parents=True)
        path.write_bytes(b"1")
        os.utime(path, (0, 0))
    with pytest.warns(Notice, match="removed"):
        opened(store, "d")
    assert all(path.exists() for path in kept)


def test_an_entry_of_an_older_version_has_the_age_of_its_folder(tmp_path: Path) -> None:
    store = ArrayStore(tmp_path / "features", 2 * SIZE + 10_000, evict=True)
    folder = former_entry(store)
    os.utime(folder / "manifest.json", (1e9, 1e9))
    opened(store, "a")
    with pytest.warns(Notice, match=f"removed {folder.name} .array of 778 items, 0.00 GB, last used 2001-09"):
        opened(store, "d")
    assert not folder.exists() and store.path({"kind": "a"}).exists()
