"""What a result is said to come from."""

from __future__ import annotations

import importlib.metadata
import platform
from dataclasses import replace
from pathlib import Path

import pytest
from tiny import tiny_config, tiny_images

from drorae.config import EvaluationConfig, PhaseConfig, Runtime
from drorae.data.images import load_images
from drorae.metrics.extractors import EffnetExtractor
from drorae.runtime.commit import git_commit
from drorae.trial.provenance import provenance
from drorae.trial.shared import open_workshop


def test_a_result_says_what_it_was_made_with(tmp_path: Path) -> None:
    config = tiny_config(
        tiny_images(tmp_path / "images.npz"), phase1=PhaseConfig(epochs=0), evaluation=EvaluationConfig(extractors=())
    )
    workshop = open_workshop(config, Runtime(device="cpu", threads=1, cache_dir=str(tmp_path / "cache")))
    found = provenance(workshop)
    assert found["version.torch"] == importlib.metadata.version("torch") and found["device"].startswith("cpu ")
    assert found["git_commit"] == git_commit()
    assert found["python"] == platform.python_version() and found["threads"] == "1"
    assert found["fingerprint.encoder"] == workshop.encoder.fingerprint
    assert found["fingerprint.images_train"] == load_images(config.images).train.fingerprint
    assert all(isinstance(value, str) for value in found.values())


def test_a_result_says_that_a_metric_s_network_is_its_own_encoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(
        tiny_images(tmp_path / "images.npz"), phase1=PhaseConfig(epochs=0), evaluation=EvaluationConfig(("effnet",))
    )
    monkeypatch.setattr("drorae.trial.shared._last", None)
    monkeypatch.setattr(EffnetExtractor, "is_of", lambda self, encoder: encoder.width == 192)
    workshop = open_workshop(config, Runtime(device="cpu", threads=1, cache_dir=str(tmp_path / "cache")))
    monkeypatch.setattr("drorae.trial.shared._last", None)
    assert provenance(workshop)["note.own_network"] == "effnet"


def test_a_result_says_which_image_files_were_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_config(
        tiny_images(tmp_path / "images.npz"), phase1=PhaseConfig(epochs=0), evaluation=EvaluationConfig(extractors=())
    )
    files = tuple(f"/pictures/{name}.png: truncated" for name in "abcd")
    images = replace(load_images(config.images), skipped=files)
    monkeypatch.setattr("drorae.trial.shared.load_images", lambda config, cache: images)
    monkeypatch.setattr("drorae.trial.shared._last", None)
    workshop = open_workshop(config, Runtime(device="cpu", threads=1, cache_dir=str(tmp_path / "cache")))
    monkeypatch.setattr("drorae.trial.shared._last", None)
    said = provenance(workshop)["note.images_skipped"]
    assert said.startswith("4 image files left out: /pictures/a.png: truncated") and "\n" not in said
