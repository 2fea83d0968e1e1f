"""A cluster's nodes are checked before a sweep on it, not the machine of the driver."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from drorae.commands.main import main
from sweeps.driver.cluster import check_joinable


@pytest.fixture
def cluster(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One node with as many GPUs as the parameter says, at RAY_ADDRESS, as a submitted job finds it."""
    root = str(Path(__file__).resolve().parents[2])
    monkeypatch.setenv("PYTHONPATH", root)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    context = ray.init(
        address="local", num_cpus=2, num_gpus=request.param, include_dashboard=False, object_store_memory=2**27
    )
    monkeypatch.setenv("RAY_ADDRESS", context.address_info["gcs_address"])
    yield
    ray.shutdown()


@pytest.mark.parametrize(
    ("cluster", "lacking"),
    [(1, "images.path"), (0, "this cluster cannot run this config, which needs a CUDA GPU")],
    indirect=["cluster"],
)
def test_a_submitted_sweep_is_checked_on_the_cluster(
    cluster: None, lacking: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a GPU it starts, and it is a node that finds that its images are not there."""
    said: list[str] = []
    check_joinable("", said.append)
    assert len(said) == 1 and said[0].endswith("(from RAY_ADDRESS)"), "a real head node answers the greeting"
    root, cache = ["--root", str(tmp_path)], ["--cache-dir", str(tmp_path / "cache")]
    assert main(["sweep", "--preset", "capacity", "--set", "images.path=/nowhere", *root, *cache]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and lacking in errors[0] and "this machine" not in errors[0]
