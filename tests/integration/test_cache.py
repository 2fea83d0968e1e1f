"""A cache in an object store: what one machine made, others get."""

from __future__ import annotations

import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import tiny_config, tiny_images
from unwritable import public_folder, unwritable

from drorae.config import Runtime
from drorae.errors import UserError
from drorae.metrics.samples import FeatureSample
from drorae.models.encoder import Encoder
from drorae.storage.arrays import ArraySpec, ArrayStore, Entry, Produce
from drorae.storage.cache import Cache
from drorae.storage.remote import Remote
from drorae.trial import run as trial
from drorae.trial import shared as prepare
from drorae.trial.shared import Workshop, open_workshop

KEY = {"images": "some"}
SPEC = ArraySpec("numbers", (2,), "float32")


def numbers(start: int, stop: int) -> np.ndarray:
    return np.arange(2 * start, 2 * stop, dtype=np.float32).reshape(-1, 2)


def forbidden(*anything: object, **named: object) -> None:
    raise AssertionError("made again")


def test_cached_arrays_are_made_once_for_all_machines(
    store: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def on(machine: str, produce: Produce) -> np.ndarray:
        monkeypatch.setenv("DRORAE_LOCAL_CACHE", str(tmp_path / machine))
        cache = Cache(str(store / "arrays"))
        return ArrayStore(cache / "features", 1e9, cache).open(KEY, 600, SPEC, produce).take(np.arange(600))

    first = on("first", numbers)
    assert np.array_equal(on("second", forbidden), first)
    # What is not whole, or damaged, is no entry: the third machine makes it again, the fourth gets that.
    files = (store / "arrays/features").files()
    name = next(name for name in files if name.endswith(".bin"))
    (store / "arrays/features" / name).write(b"\0" * first.nbytes)
    with pytest.warns(UserWarning, match="damaged"):
        assert np.array_equal(on("third", numbers), first)
    assert np.array_equal(on("fourth", forbidden), first)
    (store / "arrays/features" / name).with_name("manifest.json").delete()
    with pytest.raises(AssertionError, match="made again"):
        on("fifth", forbidden)
    with pytest.raises(UserError, match="--cache-limit-gb"):
        monkeypatch.setenv("DRORAE_LOCAL_CACHE", str(tmp_path / "small"))
        cache = Cache(str(store / "arrays"))
        ArrayStore(cache / "features", 100, cache).open(KEY, 600, SPEC, numbers)


def test_trials_run_in_a_cache_that_nobody_may_write_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """As an administrator's, that holds everything; where it lacks something, that is said in one line."""
    with public_folder() as folder:
        config = tiny_config(tiny_images(folder / "images.npz"))
        runtime = Runtime(device="cpu", threads=1, cache_dir=str(folder / "cache"))
        trial.prepare(config, runtime)
        monkeypatch.setattr(prepare, "_last", None)
        out = folder / "out"
        out.mkdir()
        out.chmod(0o777)
        with unwritable(folder / "cache"):
            trial.prepare(config, runtime)
            monkeypatch.setattr(prepare, "_last", None)
            assert trial.run_trial(config, directory=out / "one", runtime=runtime).eval_images == 16
            other = replace(config, images=replace(config.images, seed=1), decoder=replace(config.decoder, seed=9))
            with pytest.raises(UserError, match="cache .* is missing or damaged, and cannot be made there") as raised:
                trial.run_trial(other, directory=out / "two", runtime=runtime)
            assert "\n" not in str(raised.value)
        monkeypatch.setattr(prepare, "_last", None)


def test_what_was_prepared_last_is_known_on_every_machine(
    store: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    images = tiny_images(tmp_path / "images.npz")
    config = tiny_config(images)
    runtime = Runtime(device="cpu", threads=1, cache_dir=str(store / "prepared"))
    with np.load(images) as found:
        train, val = found["train"], found["val"]

    def on(machine: str, brightness: int) -> None:
        """Another machine, and other images."""
        monkeypatch.setenv("DRORAE_LOCAL_CACHE", str(tmp_path / machine))
        monkeypatch.setattr(prepare, "_last", None)
        np.savez(images, train=train, val=val // brightness)

    on("first", 1)
    trial.prepare(config, runtime)
    on("second", 2)
    trial.prepare(config, runtime)
    on("first", 2)
    assert trial.run_trial(config, directory=tmp_path / "one", runtime=runtime).eval_images == 16
    on("second", 3)
    with pytest.raises(UserError, match="images_val .* changed since this trial was prepared"):
        trial.run_trial(replace(config, seed=1), directory=tmp_path / "two", runtime=runtime)
    monkeypatch.setattr(prepare, "_last", None)
    assert not (tmp_path / "s3:").exists(), "a URL is no path"


def test_a_second_machine_trains_no_first_phase_and_encodes_nothing(
    store: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(tiny_images(tmp_path / "images.npz"))
    runtime = Runtime(device="cpu", threads=1, cache_dir=str(store / "cache"))
    monkeypatch.setenv("DRORAE_LOCAL_CACHE", str(tmp_path / "first"))
    first = open_workshop(config, runtime)
    monkeypatch.setenv("DRORAE_LOCAL_CACHE", str(tmp_path / "second"))
    monkeypatch.setattr(prepare, "_last", None)
    monkeypatch.setattr(prepare, "train_phase", forbidden)
    monkeypatch.setattr(Workshop, "evaluate", forbidden)
    monkeypatch.setattr(Entry, "fill", forbidden)
    monkeypatch.setattr(FeatureSample, "save", forbidden)
    second = open_workshop(config, runtime)
    monkeypatch.setattr(prepare, "_last", None)
    assert second.baseline == first.baseline
    assert all(torch.equal(second.decoder[name], value) for name, value in first.decoder.items())


def test_memory_never_holds_two_workshops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare, "_last", None)
    runtime = Runtime(device="cpu", threads=1, cache_dir=str(tmp_path / "cache"))
    config = tiny_config(tiny_images(tmp_path / "images.npz"))
    first = weakref.ref(open_workshop(config, runtime).encoder)
    assert first() is not None, "the next trial gets it again"
    left: list[object] = []
    load = prepare.load_encoder

    def look(*arguments: Any) -> Encoder:
        left.append(first())
        return load(*arguments)

    monkeypatch.setattr(prepare, "load_encoder", look)
    open_workshop(replace(config, images=replace(config.images, seed=1)), runtime)
    assert left == [None]
    monkeypatch.setattr(prepare, "_last", None)
