"""Images in an npz file: handed out as they are, or refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from image_files import everything, user_error

from drorae.config import ImagesConfig
from drorae.data.images import load_images


def write_npz(path: Path, **arrays: Any) -> ImagesConfig:
    np.savez(path, **arrays)
    return ImagesConfig(source="npz", path=str(path))


def test_npz_images_of_the_right_size_come_through_unchanged(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    train = generator.integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
    val = generator.integers(0, 256, (10, 32, 32, 3), dtype=np.uint8)
    config = write_npz(tmp_path / "a.npz", train=train, val=val, train_labels=np.arange(20))
    images = load_images(config)
    assert np.array_equal(everything(images.train, view=3), train)
    assert np.array_equal(everything(images.val), val)
    some = load_images(replace(config, train_images=5))
    assert {crop.tobytes() for crop in everything(some.train)} < {image.tobytes() for image in train}
    assert len(some.train) == 5 and some.train.fingerprint != images.train.fingerprint
    assert load_images(replace(config, size=16, resize=24)).train.crops([0]).shape == (1, 16, 16, 3)


def test_npz_of_another_kind_is_refused(tmp_path: Path) -> None:
    good = np.zeros((2, 8, 8, 3), np.uint8)
    cases: dict[str, dict[str, Any]] = {
        "holds train, test, no val": {"train": good, "test": good},
        "float32 of shape [2, 8, 8, 3]": {"train": good, "val": good.astype(np.float32)},
        "uint8 of shape [2, 3, 8, 8]": {"train": good.transpose(0, 3, 1, 2), "val": good},
        "uint8 of shape [0, 8, 8, 3]": {"train": good[:0], "val": good},
        "Python objects": {"train": np.array([None, 1]), "val": good},
    }
    for expected, arrays in cases.items():
        message = user_error(write_npz(tmp_path / "a.npz", **arrays))
        assert expected in message and "uint8 arrays named train and val" in message
    np.save(tmp_path / "b.npy", good)
    assert "single array" in user_error(ImagesConfig(source="npz", path=str(tmp_path / "b.npy")))
    (tmp_path / "c.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:100])
    assert "not a readable npz" in user_error(ImagesConfig(source="npz", path=str(tmp_path / "c.npz")))
    (tmp_path / "d.npz").touch()
    assert "not a readable npz" in user_error(ImagesConfig(source="npz", path=str(tmp_path / "d.npz")))
    assert "no file" in user_error(ImagesConfig(source="npz", path=str(tmp_path / "e.npz")))
    assert "images.path" in user_error(ImagesConfig(source="npz"))
