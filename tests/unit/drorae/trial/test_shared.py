"""What trials share, and by what it is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from drorae.config import PRESETS, Runtime, override
from drorae.errors import UserError
from drorae.trial.shared import choose_device, decoder_address, decoder_place, open_workshop

FINGERPRINTS = {"images_train": "images", "encoder": "encoder", "perceptual": "none"}


def test_the_device_is_the_one_named_or_the_one_there() -> None:
    assert choose_device(Runtime(device="cpu")) == torch.device("cpu")
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert choose_device(Runtime(device="auto")) == torch.device(expected)


def test_trials_share_a_decoder_that_is_made_of_the_same() -> None:
    base = PRESETS["smoke"]
    address = decoder_address(base, FINGERPRINTS)
    assert address.startswith("decoders/")
    for name, value in (("fusion.beta", 0.3), ("seed", 7), ("phase2.lr", 1e-2), ("images.path", "/elsewhere")):
        assert decoder_address(override(base, name, value), FINGERPRINTS) == address
    for name, value in (("decoder.seed", 1), ("phase1.lr", 1e-2), ("objective.perceptual_weight", 0.2)):
        assert decoder_address(override(base, name, value), FINGERPRINTS) != address
    for name in FINGERPRINTS:
        assert decoder_address(base, FINGERPRINTS | {name: "other"}) != address


def test_a_released_decoder_is_known_by_what_it_holds() -> None:
    here, there = (override(PRESETS["smoke"], "decoder.weights", place) for place in ("/here", "/there"))
    known = FINGERPRINTS | {"released_decoder": "abc"}
    assert decoder_address(here, known) == decoder_address(there, known)
    assert decoder_address(here, known) != decoder_address(here, FINGERPRINTS | {"released_decoder": "def"})
    assert decoder_place(here, Runtime(cache_dir="/cache"), {}) == "/here"
    assert decoder_place(PRESETS["smoke"], Runtime(cache_dir="/cache"), {"phase1_decoder": "x"}) == "/cache/decoders/x"


def test_one_validation_image_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", train=pixels[:3], val=pixels[3:])
    config = PRESETS["smoke"]
    for name, value in (("source", "npz"), ("path", str(tmp_path / "images.npz")), ("val_images", 0)):
        config = override(config, f"images.{name}", value)
    with pytest.raises(UserError, match="1 validation image has no spread"):
        open_workshop(config, Runtime(device="cpu", cache_dir=str(tmp_path / "cache")))
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
