"""The smallest trial, and where and how it runs."""

from __future__ import annotations

import pytest
from tiny import tiny_config, tiny_images

from drorae.config import Runtime, TrialConfig


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Runtime:
    return Runtime(device="cpu", threads=1, cache_dir=str(tmp_path_factory.mktemp("cache")), log_steps=1)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrialConfig:
    return tiny_config(tiny_images(tmp_path_factory.mktemp("images") / "images.npz"))
