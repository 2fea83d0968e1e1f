"""What a result is said to come from."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from pathlib import Path

import pytest
from tiny import tiny_config, tiny_images

import drorae
from drorae.config import EvaluationConfig, PhaseConfig, Runtime
from drorae.data.images import load_images
from drorae.trial.provenance import git_commit, provenance
from drorae.trial.shared import open_workshop


def test_the_commit_is_that_of_the_source_tree() -> None:
    here = Path(drorae.__file__).parent
    asked = subprocess.run(["git", "-C", str(here), "rev-parse", "HEAD"], capture_output=True, text=True)
    tracked = subprocess.run(["git", "-C", str(here), "ls-files", "__init__.py"], capture_output=True, text=True).stdout
    expected = asked.stdout.strip() if asked.returncode == 0 and tracked.strip() else "unknown"
    assert git_commit() in (expected, f"{expected}-dirty")


def test_where_there_is_no_git_the_commit_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_commit() == "unknown"


def test_a_result_says_what_it_was_made_with(tmp_path: Path) -> None:
    config = tiny_config(
        tiny_images(tmp_path / "images.npz"), phase1=PhaseConfig(epochs=0), evaluation=EvaluationConfig(extractors=())
    )
    workshop = open_workshop(config, Runtime(device="cpu", threads=1, cache_dir=str(tmp_path / "cache")))
    found = provenance(workshop)
    assert found["version.torch"] == importlib.metadata.version("torch") and found["device"].startswith("cpu ")
    assert found["python"] == platform.python_version() and found["threads"] == "1"
    assert found["fingerprint.encoder"] == workshop.encoder.fingerprint
    assert found["fingerprint.images_train"] == load_images(config.images).train.fingerprint
    assert all(isinstance(value, str) for value in found.values())
