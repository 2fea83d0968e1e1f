"""Batches read ahead: the same whoever reads them, from any place; what fails is one line, and nothing stays behind."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from image_files import folder_config, write_pictures
from tiny import tiny_config, tiny_images

from drorae.config import EncoderConfig, PhaseConfig, Runtime
from drorae.data.batch import Batch
from drorae.data.features import TrainingFeatures, open_features
from drorae.data.images import load_images
from drorae.data.loading import Loader, Place, Request, gpu_number
from drorae.errors import UserError
from drorae.models.encoder import Encoder, load_encoder
from drorae.models.weights import state_sha256
from drorae.training.loop import train_phase
from drorae.trial.shared import open_workshop

CPU = torch.device("cpu")
CONFIG = EncoderConfig(name="vit_tiny_patch16_224", weights="random", input_size=32)
STEPS, IMAGES, PIECE = 4, 8, 3
Open = Callable[[int], Loader]


def schedule(place: Place) -> Iterator[Request]:
    """Steps of 8 images in pieces of 3, each an epoch of its own."""
    for step in range(place.step, STEPS):
        items = np.random.default_rng(step).permutation(IMAGES)
        for first in range(place.first if step == place.step else 0, IMAGES, place.size):
            yield Request(Place(step, first, place.size), items[first : first + place.size], step)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load_encoder(CONFIG, "unused")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_pictures(tmp_path / "images", IMAGES + 2)
    return tmp_path / "images"


@pytest.fixture
def online(folder: Path, encoder: Encoder) -> TrainingFeatures:
    images = load_images(folder_config(folder, val_fraction=0.2, views=0)).train
    assert len(images) == IMAGES
    return open_features(images, encoder, CONFIG, 0, None, Runtime(features="online"), CPU)


@pytest.fixture
def open_loader(online: TrainingFeatures) -> Iterator[Open]:
    made: list[Loader] = []

    def open_it(workers: int) -> Loader:
        made.append(Loader(online, 2, schedule, workers, CPU))
        return made[-1]

    yield open_it
    for loader in made:
        loader.close()


def everything(loader: Loader, first: int = 0) -> list[Batch]:
    return [loader.take(Place(step, start, PIECE)) for step in range(first, STEPS) for start in range(0, IMAGES, PIECE)]


def assert_equal(found: list[Batch], expected: list[Batch]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.pixels, other.pixels) and torch.equal(one.layers, other.layers)


def test_batches_are_those_of_the_features_whoever_cuts_them(online: TrainingFeatures, open_loader: Open) -> None:
    asked = list(schedule(Place(0, 0, PIECE)))
    expected = [online.batch(items, epoch, 2) for _, items, epoch in asked]
    assert expected[0].layers.shape == (3, 2, 4, 192)
    # From the middle, as a phase that was interrupted asks.
    for workers, first in ((0, 0), (2, 0), (0, 2), (1, 2)):
        loader = open_loader(workers)
        assert_equal(everything(loader, first), expected[3 * first :])
        loader.close()
        assert not multiprocessing.active_children()


def test_a_batch_is_asked_for_again_in_smaller_pieces(online: TrainingFeatures, open_loader: Open) -> None:
    loader = open_loader(0)
    loader.take(Place(1, 0, PIECE))
    loader.take(Place(1, 3, PIECE))
    items = np.random.default_rng(1).permutation(IMAGES)
    found = [loader.take(Place(1, first, 2)) for first in range(0, IMAGES, 2)]
    assert_equal(found, [online.batch(items[first : first + 2], 1, 2) for first in range(0, IMAGES, 2)])


def test_the_thread_has_the_gpu_that_the_loader_was_opened_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    found = [gpu_number(torch.device(name)) for name in ("cpu", "cuda", "cuda:0", "cuda:2")]
    assert found == [None, 3, 0, 2]


def test_the_next_batch_is_read_while_the_step_runs(online: TrainingFeatures, open_loader: Open) -> None:
    read, asked = online.read, threading.Semaphore(0)

    def note(items: np.ndarray, epoch: int, num_layers: int) -> Batch:
        asked.release()
        return read(items, epoch, num_layers)

    online.read = note  # type: ignore[method-assign]
    loader = open_loader(0)
    loader.take(Place(0, 0, PIECE))
    # The one that was taken, and the next; no more.
    assert all(asked.acquire(timeout=300) for _ in range(2))
    assert not asked.acquire(timeout=0.1)
    loader.take(Place(0, 3, PIECE))
    assert asked.acquire(timeout=300)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_cannot_be_read_any_more_is_one_line(folder: Path, open_loader: Open, workers: int) -> None:
    loader = open_loader(workers)
    for path in folder.iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(UserError, match=r"png: cannot be decoded any more .*; replace the file, .*$") as caught:
        loader.take(Place(0, 0, PIECE))
    assert "\n" not in str(caught.value)
    assert not multiprocessing.active_children()


def test_a_process_that_dies_is_one_line(open_loader: Open) -> None:
    loader = open_loader(1)
    loader.take(Place(0, 0, PIECE))
    (process,) = multiprocessing.active_children()
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(UserError, match="^images: a process that cuts crops has died .*--loader-workers") as caught:
        for place in [request.place for request in schedule(Place(0, PIECE, PIECE))]:
            loader.take(place)
    assert "\n" not in str(caught.value)
    assert not multiprocessing.active_children()


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


PARENT = """
import sys, time
sys.path.insert(0, sys.argv[1])
import test_loading as t
from pathlib import Path
if __name__ == "__main__":
    images = t.load_images(t.folder_config(Path(sys.argv[2]), val_fraction=0.2, views=0)).train
    runtime = t.Runtime(features="online")
    features = t.open_features(images, t.load_encoder(t.CONFIG, "unused"), t.CONFIG, 0, None, runtime, t.CPU)
    loader = t.Loader(features, 1, t.schedule, 2, t.CPU)
    loader.take(t.Place(0, 0, t.PIECE))
    print(*(child.pid for child in t.multiprocessing.active_children()), flush=True)
    time.sleep(600)
"""


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGINT])
def test_no_process_outlives_the_one_that_started_it(folder: Path, tmp_path: Path, signum: int) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    command = [sys.executable, str(script), str(Path(__file__).parent), str(folder)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, env=env
    ) as parent:
        assert parent.stdout is not None and parent.stderr is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 2
        if signum == signal.SIGINT:
            # As a terminal sends it: to all of them.
            os.killpg(parent.pid, signum)
        else:
            parent.kill()
        deadline = time.monotonic() + 300
        while any(map(is_alive, pids)) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert not any(map(is_alive, pids))
        if signum == signal.SIGINT:
            # The parent's to answer, alone.
            assert parent.stderr.read().count("Traceback") == 1


def test_training_ends_with_the_same_weights_whoever_cuts(tmp_path: Path) -> None:
    config = tiny_config(tiny_images(tmp_path / "images.npz"), phase1=PhaseConfig(epochs=0))
    config = dataclasses.replace(config, images=dataclasses.replace(config.images, views=0))
    runtime = Runtime(device="cpu", threads=1, cache_dir=str(tmp_path / "cache"), features="online", log_steps=1)
    workshop = open_workshop(config, runtime)
    found = []
    for workers in (0, 2):
        tokenizer = workshop.tokenizer()
        train_phase(
            tokenizer, config.phases[1], workshop.train, workshop.objective,
            seed=0, device=CPU, checkpoint=tmp_path / f"{workers}.pt",
            runtime=dataclasses.replace(runtime, loader_workers=workers), report=lambda row: None,
        )  # fmt: skip
        assert not multiprocessing.active_children()
        found.append(state_sha256(tokenizer.fusion.state_dict()))
    assert found[0] == found[1] != state_sha256(workshop.tokenizer().fusion.state_dict())
