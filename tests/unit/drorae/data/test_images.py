"""The images of a trial."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from image_files import folder_config, user_error, write_pictures

from drorae.config import ImagesConfig
from drorae.data.images import load_images


def test_settings_that_do_not_go_together_are_named() -> None:
    assert user_error(ImagesConfig(resize=31)).startswith("images.resize: ")
    assert user_error(ImagesConfig(source="npz")).startswith("images.source=npz needs images.path: ")


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for index, side in enumerate(("a", "b")):
        write_pictures(tmp_path / side, 2 + index)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 32, 32, 3), dtype=np.uint8)
    np.savez(tmp_path / "c.npz", train=pixels[0], val=pixels[1])
    images = load_images(folder_config(Path("~/a"), val_path="~/b"))
    assert (len(images.train), len(images.val)) == (2, 3)
    assert len(load_images(ImagesConfig(source="npz", path="~/c.npz")).train) == 4
