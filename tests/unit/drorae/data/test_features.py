"""The feature cache: what it returns is what the encoder says, encoded once, whichever process asks."""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from children import forking

from drorae.config import EncoderConfig, ObjectiveConfig, Runtime
from drorae.data.features import DTYPES, Features, OnlineFeatures, open_features
from drorae.data.pixels import as_images
from drorae.errors import Notice
from drorae.losses.perceptual import load_perceptual
from drorae.models.encoder import Encoder, load_encoder
from drorae.storage import arrays

CPU = torch.device("cpu")
CONFIG = EncoderConfig(name="vit_tiny_patch16_224", weights="random", input_size=32)


class Squares:
    """Ten images of 16 px; a view shifts the colours, and every call is noted in a file."""

    fingerprint = "squares"

    def __init__(self, log: Path) -> None:
        self.log = log

    def __len__(self) -> int:
        return 10

    def crops(self, indices: Sequence[int], view: int = 0) -> np.ndarray:
        with self.log.open("a") as stream:
            stream.write(f"{len(indices)}\n")
        values = [np.random.default_rng([index, view]).integers(0, 255, (16, 16, 3), np.uint8) for index in indices]
        return np.stack(values)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load_encoder(CONFIG, "unused")


@pytest.mark.parametrize("feature_dtype", ["bf16", "fp16", "fp32"])
def test_cache_returns_what_the_encoder_says(tmp_path: Path, encoder: Encoder, feature_dtype: str) -> None:
    images = Squares(tmp_path / "log")
    config = dataclasses.replace(CONFIG, feature_dtype=feature_dtype)
    runtime = Runtime(cache_dir=str(tmp_path))
    cached = open_features(images, encoder, config, 2, None, runtime, CPU)
    online = open_features(images, encoder, config, 2, None, dataclasses.replace(runtime, features="online"), CPU)
    assert len(cached) == len(online) == 20
    items = np.array([13, 2, 2, 19])
    crops = np.stack([images.crops([int(item) % 10], int(item) // 10)[0] for item in items])
    expected = encoder(as_images(torch.from_numpy(crops).permute(0, 3, 1, 2))).layers
    for features in (cached, online):
        batch = features.batch(items, 0, 3)
        assert np.array_equal(batch.pixels.permute(0, 2, 3, 1).numpy(), crops)
        assert batch.layers.shape == (4, 3, 4, 192)
        tolerance = {"bf16": 2e-2, "fp16": 2e-3, "fp32": 1e-4}[feature_dtype]
        assert torch.allclose(batch.layers.float(), expected[:, -3:], rtol=tolerance, atol=tolerance)


def test_features_of_another_resizing_are_another_entry(tmp_path: Path, encoder: Encoder) -> None:
    images = Squares(tmp_path / "log")
    config = dataclasses.replace(CONFIG, resize="plain")
    plain = load_encoder(config, "unused")
    assert plain.fingerprint != encoder.fingerprint
    runtime = Runtime(cache_dir=str(tmp_path))
    items = np.arange(4)
    found = [
        open_features(images, of, each, 1, None, runtime, CPU).batch(items, 0, 1).layers
        for of, each in ((encoder, CONFIG), (plain, config))
    ]
    assert not torch.equal(*found)


def test_features_and_targets_of_another_precision_are_other_entries(tmp_path: Path, encoder: Encoder) -> None:
    images, runtime, items = Squares(tmp_path / "log"), Runtime(cache_dir=str(tmp_path)), np.arange(4)
    objective = ObjectiveConfig(perceptual_size=32)
    config = dataclasses.replace(CONFIG, precision="bf16", feature_dtype="fp32")
    networks = [load_perceptual(dataclasses.replace(objective, perceptual_precision=name)) for name in ("fp32", "bf16")]
    plain = dataclasses.replace(CONFIG, feature_dtype="fp32")
    found = [
        open_features(images, of, each, 1, network, runtime, CPU).batch(items, 0, 1)
        for of, each, network in (
            (encoder, plain, networks[0]), (load_encoder(config, "unused"), config, networks[1]),
            (encoder, plain, networks[0]),
        )
    ]  # fmt: skip
    exact, rounded, again = found
    assert torch.equal(exact.layers, again.layers) and not torch.equal(exact.layers, rounded.layers)
    for batch, network in ((exact, networks[0]), (rounded, networks[1]), (again, networks[0])):
        assert batch.targets is not None
        assert torch.equal(batch.targets, network.targets(as_images(batch.pixels)))
    assert exact.targets is not None and rounded.targets is not None
    assert not torch.equal(exact.targets, rounded.targets)


def test_features_are_made_with_threads_of_their_own_and_are_the_same(
    tmp_path: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    network = load_perceptual(ObjectiveConfig(perceptual_size=32))
    forward, targets = encoder.forward, network.targets
    monkeypatch.setattr(encoder, "forward", lambda crops: seen.append(torch.get_num_threads()) or forward(crops))
    monkeypatch.setattr(network, "targets", lambda crops: seen.append(torch.get_num_threads()) or targets(crops))
    usual = torch.get_num_threads()
    made = []
    for threads in (0, usual + 1):
        folder = tmp_path / str(threads)
        runtime = Runtime(cache_dir=str(folder), encoding_threads=threads)
        made.append(open_features(Squares(tmp_path / "log"), encoder, CONFIG, 1, network, runtime, CPU))
        assert torch.get_num_threads() == usual
    # A convolution adds in another order with more threads: the targets have those of the run.
    assert seen == [usual, usual, usual + 1, usual]
    one, other = (features.batch(np.arange(10), 0, 12) for features in made)
    assert one.targets is not None and other.targets is not None
    assert torch.equal(one.layers, other.layers) and torch.equal(one.targets, other.targets)


def _open(folder: Path) -> None:
    runtime = Runtime(cache_dir=str(folder))
    open_features(Squares(folder / "log"), load_encoder(CONFIG, "unused"), CONFIG, 1, None, runtime, CPU)


@pytest.mark.slow
def test_two_processes_at_once_encode_once(tmp_path: Path) -> None:
    context = forking()
    both = [context.Process(target=_open, args=(tmp_path,)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
        assert process.exitcode == 0
    cut = [line for line in (tmp_path / "log").read_text().split() if line == "10"]
    assert len(cut) == 1


def test_features_that_nobody_needs_let_go_of_their_files_at_once(tmp_path: Path, encoder: Encoder) -> None:
    """A worker's later trials would hold the files of all its earlier ones, which then cannot be removed either."""
    features = open_features(
        Squares(tmp_path / "log"), encoder, CONFIG, 1, None, Runtime(cache_dir=str(tmp_path)), CPU
    )  # fmt: skip
    features.batch(np.arange(4), 0, 12)
    mapped = Path("/proc/self/maps")
    assert str(tmp_path) in mapped.read_text()
    gc.collect()
    gc.disable()
    try:
        del features
        assert str(tmp_path) not in mapped.read_text()
    finally:
        gc.enable()


def test_perceptual_targets_come_from_the_cache(tmp_path: Path, encoder: Encoder) -> None:
    network = load_perceptual(ObjectiveConfig(perceptual_size=32))
    assert network is not None
    images = Squares(tmp_path / "log")
    features = open_features(images, encoder, CONFIG, 1, network, Runtime(cache_dir=str(tmp_path)), CPU)
    batch = features.batch(np.array([3, 7]), 0, 1)
    assert batch.targets is not None
    direct = network.features(as_images(batch.pixels))
    assert float(network.distance(network.unpack(batch.targets), direct)) < 1e-4


def layer_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("features/*/layers-*.bin"))


def test_only_the_layers_that_are_read_are_kept(tmp_path: Path, encoder: Encoder) -> None:
    images, items = Squares(tmp_path / "log"), np.array([7, 2, 2])

    def opened(folder: str, depth: int) -> Features:
        runtime = Runtime(cache_dir=str(tmp_path / folder))
        return open_features(images, encoder, CONFIG, 1, None, runtime, CPU, depth=depth)

    every, last = opened("all", 0), opened("last", 1)
    assert layer_bytes(tmp_path / "all") == encoder.num_layers * layer_bytes(tmp_path / "last") > 0
    assert torch.equal(last.batch(items, 0, 1).layers, every.batch(items, 0, 12).layers[:, -1:])
    # More than was foreseen is made when it is read.
    assert torch.equal(last.batch(items, 0, 5).layers, every.batch(items, 0, 5).layers)
    assert torch.equal(last.batch(items, 0, 1).layers, every.batch(items, 0, 1).layers)
    assert last.batch(items, 0, 0).layers.numel() == 0


@pytest.mark.parametrize("held", [4, 12])
def test_an_entry_of_more_layers_serves(
    tmp_path: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch, held: int
) -> None:
    images, runtime, items = Squares(tmp_path / "log"), Runtime(cache_dir=str(tmp_path)), np.arange(10)
    deep = open_features(images, encoder, CONFIG, 1, None, runtime, CPU, depth=held).batch(items, 0, held)
    before = layer_bytes(tmp_path)

    def forbidden(crops: torch.Tensor) -> None:
        raise AssertionError("encoded again")

    monkeypatch.setattr(encoder, "forward", forbidden)
    for depth in (1, 3, held):
        features = open_features(images, encoder, CONFIG, 1, None, runtime, CPU, depth=depth)
        assert torch.equal(features.batch(items, 0, depth).layers, deep.layers[:, -depth:])
    assert layer_bytes(tmp_path) == before


def test_damaged_layers_are_encoded_again_to_the_same_bits(
    tmp_path: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrays, "SHARD_BYTES", 4 * 12 * 4 * 192 * 2)
    images, runtime, items = Squares(tmp_path / "log"), Runtime(cache_dir=str(tmp_path)), np.arange(10)
    whole = open_features(images, encoder, CONFIG, 1, None, runtime, CPU).batch(items, 0, 12)
    paths = sorted(tmp_path.glob("features/*/layers-*.bin"))
    assert len(paths) == 3
    content = bytearray(paths[1].read_bytes())
    content[99] ^= 4
    paths[1].write_bytes(content)
    features = open_features(images, encoder, CONFIG, 1, None, runtime, CPU)
    with pytest.warns(Notice, match=f"{paths[1].name}: damaged"):
        again = features.batch(items, 0, 12)
    assert torch.equal(again.layers, whole.layers)


def test_fresh_crops_change_with_the_epoch(tmp_path: Path, encoder: Encoder) -> None:
    runtime = Runtime(cache_dir=str(tmp_path), features="online")
    features = open_features(Squares(tmp_path / "log"), encoder, CONFIG, 0, None, runtime, CPU)
    items = np.arange(10)
    assert len(features) == 10
    first, again, second = (features.batch(items, epoch, 1).pixels for epoch in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, second)


@pytest.mark.parametrize("feature_dtype", ["bf16", "fp32"])
def test_online_features_keep_the_deepest_blocks_alone_and_leave_them_where_they_are_made(
    tmp_path: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch, feature_dtype: str
) -> None:
    images, dtype = Squares(tmp_path / "log"), DTYPES[feature_dtype]
    features = OnlineFeatures(images, encoder, dtype, 1, CPU)
    items = np.arange(4)
    pixels = torch.from_numpy(images.crops(items.tolist())).permute(0, 3, 1, 2)
    whole = encoder(as_images(pixels)).layers.to(dtype)
    for depth in (1, 3, encoder.num_layers):
        layers = features.batch(items, 0, depth).layers
        assert torch.equal(layers, whole[:, -depth:])
        # No view of a stack of all blocks.
        assert layers.untyped_storage().nbytes() == layers.nbytes
    assert features.batch(items, 0, 0).layers.shape == (4, 0)

    def no_copy(tensor: torch.Tensor) -> torch.Tensor:
        raise AssertionError("copied to the CPU")

    monkeypatch.setattr(torch.Tensor, "cpu", no_copy)
    features.batch(items, 0, 1)
