"""What trials share, and by what it is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import tiny_config, tiny_images
from unwritable import public_folder, unwritable

from drorae.config import PRESETS, Runtime, TrialConfig, override
from drorae.errors import UserError
from drorae.trial import shared
from drorae.trial.shared import Workshop, choose_device, decoder_address, decoder_place, open_workshop

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


def test_what_was_made_in_one_precision_is_not_taken_for_another_s(tmp_path: Path) -> None:
    base = tiny_config(tiny_images(tmp_path / "images.npz"))
    cache = tmp_path / "cache"

    def made(config: TrialConfig) -> tuple[set[str], Workshop]:
        before = files()
        workshop = open_workshop(config, Runtime(device="cpu", threads=1, cache_dir=str(cache)))
        return files() - before, workshop

    def files() -> set[str]:
        kinds = ("references/*.npz", "decoders/*/decoder.safetensors", "decoders/*/baseline-*.json")
        return {str(path.relative_to(cache)) for kind in kinds for path in cache.glob(kind)}

    new, plain = made(base)
    assert sorted(Path(name).parts[0] for name in new) == ["decoders", "decoders", "references"]
    # Other extractors: the same decoder, measured anew.
    new, measured = made(override(base, "evaluation.precision", "bf16"))
    assert sorted(Path(name).parts[0] for name in new) == ["decoders", "references"]
    assert measured.fingerprints["phase1_weights"] == plain.fingerprints["phase1_weights"]
    assert measured.baseline["psnr"] == plain.baseline["psnr"]
    assert measured.baseline["rfd_effnet"] != plain.baseline["rfd_effnet"]
    # Another encoder's features: another decoder, measured against the same originals.
    new, encoded = made(override(base, "encoder.precision", "bf16"))
    assert sorted(Path(name).parts[0] for name in new) == ["decoders", "decoders"]
    assert encoded.fingerprints["phase1_weights"] != plain.fingerprints["phase1_weights"]
    # All of the first is found again.
    new, again = made(base)
    assert not new and again.fingerprints == plain.fingerprints and again.baseline == plain.baseline


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


def test_an_older_cache_s_baseline_is_measured_image_by_image_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once where the cache can be written to; where it cannot, it still serves what it holds."""
    with public_folder() as folder:
        config = tiny_config(tiny_images(folder / "images.npz"))
        runtime = Runtime(device="cpu", threads=1, cache_dir=str(folder / "cache"))
        whole = open_workshop(config, runtime)
        (kept,) = (folder / "cache").glob("decoders/*/baseline-*.npz")

        def reopen() -> None:
            monkeypatch.setattr(shared, "_last", None)
            again = open_workshop(config, runtime)
            assert again.baseline == whole.baseline and again.baseline_images.keys() == whole.baseline_images.keys()
            assert all(
                np.array_equal(again.baseline_images[name], whole.baseline_images[name]) for name in ("psnr", "l1")
            )

        for path in (kept, kept.with_name(f"{kept.name}.sha256")):
            path.unlink()
        with unwritable(folder / "cache"):
            reopen()
        assert not kept.exists()
        reopen()
        assert kept.exists()
        monkeypatch.setattr(shared.Workshop, "evaluate", None)
        reopen()
