"""The index of many images: only what changed is opened again, and a damaged one is made anew."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import IO

import pytest
from held import FORMS, write_held
from image_files import folder_config, jpeg, picture
from tiny import tiny_config

import drorae.data.collection
from drorae.config import EvaluationConfig, ImagesConfig, PhaseConfig, Runtime
from drorae.data.crops import Images
from drorae.data.encoded import Seen
from drorae.data.encoded import examine as examine_image
from drorae.data.images import load_images
from drorae.data.index import FOLDER, File, stamped
from drorae.errors import Notice
from drorae.machine.needs import train_images
from drorae.storage.cache import Cache
from drorae.trial.shared import open_workshop

COUNT = 240
PICTURES = {f"{index // 20:02}/{index:03}.jpg": jpeg(picture(index)) for index in range(COUNT)}


@pytest.fixture
def examined(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for every image that was examined, in folders above a lower threshold."""
    monkeypatch.setattr(drorae.data.collection, "FULL_CHECK_FILES", 100)
    monkeypatch.setattr(drorae.data.collection, "SAMPLE_FILES", 20)
    seen: list[int] = []

    def examine(stream: IO[bytes], full: bool, sampled: bool, limit: int) -> Seen:
        seen.append(1)
        return examine_image(stream, full, sampled, limit)

    monkeypatch.setattr(drorae.data.collection, "examine", examine)
    return seen


def opened(config: ImagesConfig, cache: Cache, examined: list[int]) -> tuple[Images, int]:
    """The images, and how many of them were examined for it."""
    examined.clear()
    images = load_images(config, cache)
    return images, len(examined)


def test_only_files_that_changed_are_opened_again(tmp_path: Path, examined: list[int]) -> None:
    root = write_held(tmp_path / "held", "folder", {"": PICTURES})
    config, cache = folder_config(root), Cache(tmp_path / "cache")
    first, count = opened(config, cache, examined)
    assert count == COUNT
    assert opened(config, cache, examined)[1] == 0
    (root / "03/061.jpg").write_bytes(jpeg(picture(999, 60, 60)))
    (root / "03/new.jpg").write_bytes(jpeg(picture(1000)))
    (root / "04/080.jpg").unlink()
    changed, count = opened(config, cache, examined)
    # One more where the sample, which goes by names, has another member now.
    assert 2 <= count <= 4
    assert opened(config, cache, examined)[1] == 0
    assert changed.train.fingerprint != first.train.fingerprint
    anew = load_images(config)
    assert (changed.train.fingerprint, changed.val.fingerprint) == (anew.train.fingerprint, anew.val.fingerprint)
    os.utime(root / "03/061.jpg", (1, 1))
    assert opened(config, cache, examined)[1] == 1


@pytest.mark.parametrize("source", [source for source in FORMS if source != "folder"])
def test_of_shards_those_that_changed_are_read_again(tmp_path: Path, examined: list[int], source: str) -> None:
    other = dict(PICTURES) | {"00/000.jpg": jpeg(picture(999))}
    one, two = (
        write_held(tmp_path / name, source, {"train": held}, 4) for name, held in (("a", PICTURES), ("b", other))
    )
    config, cache = ImagesConfig(source=source, path=str(one), size=16), Cache(tmp_path / "cache")  # type: ignore[arg-type]
    first, count = opened(config, cache, examined)
    assert count == COUNT
    assert opened(config, cache, examined)[1] == 0
    shards = sorted(one.rglob(f"*{FORMS[source]}"))
    shutil.copyfile(two / shards[0].relative_to(one), shards[0])
    changed, count = opened(config, cache, examined)
    assert COUNT / 4 <= count <= COUNT / 4 + 4
    assert changed.train.fingerprint != first.train.fingerprint or changed.val.fingerprint != first.val.fingerprint


def test_a_file_that_could_not_be_used_is_looked_at_again(tmp_path: Path, examined: list[int]) -> None:
    root = write_held(tmp_path / "held", "folder", {"": PICTURES | {"00/bad.jpg": b"no image"}})
    config, cache = folder_config(root), Cache(tmp_path / "cache")
    for expected in (COUNT + 1, 1, 1):
        with pytest.warns(Notice, match="skipped 1 of 241 image files .1 unreadable.: .*bad.jpg"):
            assert opened(config, cache, examined)[1] == expected


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [cut, flip, lambda path: path.write_bytes(b""), Path.unlink])
def test_a_damaged_index_is_made_again(tmp_path: Path, examined: list[int], damage: Callable[[Path], object]) -> None:
    config, cache = folder_config(write_held(tmp_path / "held", "folder", {"": PICTURES})), Cache(tmp_path / "cache")
    first, _ = opened(config, cache, examined)
    (path,) = (tmp_path / "cache" / FOLDER).glob("*.arrow")
    damage(path)
    again, count = opened(config, cache, examined)
    assert count == COUNT and again.train.fingerprint == first.train.fingerprint
    assert opened(config, cache, examined)[1] == 0


def test_few_images_and_other_settings_have_no_index_in_common(tmp_path: Path, examined: list[int]) -> None:
    few = dict(list(PICTURES.items())[:50])
    cache = Cache(tmp_path / "cache")
    load_images(folder_config(write_held(tmp_path / "few", "folder", {"": few})), cache)
    assert not (tmp_path / "cache" / FOLDER).exists()
    config = folder_config(write_held(tmp_path / "held", "folder", {"": PICTURES}))
    opened(config, cache, examined)
    assert opened(folder_config(tmp_path / "held", max_pixels=10_000), cache, examined)[1] == COUNT
    assert opened(folder_config(tmp_path / "held", train_images=7, seed=3, size=24), cache, examined)[1] == 0


def test_an_index_that_cannot_be_kept_is_said(
    tmp_path: Path, examined: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = folder_config(write_held(tmp_path / "held", "folder", {"": PICTURES}))

    def refuse(path: Path, content: bytes) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("drorae.data.index.write_atomic", refuse)
    with pytest.warns(Notice, match="the index of 240 images cannot be kept in .*; name another cache") as caught:
        load_images(config, Cache(tmp_path / "cache"))
    assert [Path(warning.filename).name for warning in caught] == [Path(__file__).name]


def test_a_dry_run_and_the_trial_after_it_check_the_images_once(
    tmp_path: Path, examined: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_held(tmp_path / "held", "webdataset", {"train": PICTURES}, 3)
    images = ImagesConfig(source="webdataset", path=str(path), size=32, train_images=4, val_images=4)
    config = replace(
        tiny_config(tmp_path / "none.npz", phase1=PhaseConfig(epochs=0), evaluation=EvaluationConfig(extractors=())),
        images=images,
    )
    runtime = Runtime(device="cpu", threads=1, cache_dir=str(tmp_path / "cache"))
    assert train_images(config, runtime) == (4, True, 0)
    assert len(examined) == COUNT
    monkeypatch.setattr("drorae.trial.shared._last", None)
    assert len(open_workshop(config, runtime).train) == 4
    monkeypatch.setattr("drorae.trial.shared._last", None)
    assert len(examined) == COUNT


def test_a_file_is_told_by_size_and_time(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"123")
    os.utime(path, ns=(5, 7))
    assert stamped(str(path), "a.jpg") == File("a.jpg", str(path), 3, 7)
    assert stamped(str(tmp_path / "none"), "none").size == -1
