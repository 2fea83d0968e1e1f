"""Kernels that give the same bits every time."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

from drorae.runtime.determinism import set_deterministic


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    before = torch.are_deterministic_algorithms_enabled()
    yield
    torch.use_deterministic_algorithms(before)


def test_an_operation_that_has_no_deterministic_kernel_raises() -> None:
    values = torch.zeros(4)
    set_deterministic()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    with pytest.raises(RuntimeError, match="does not have a deterministic implementation"):
        values.put_(torch.tensor([0, 0]), torch.ones(2), accumulate=False)
    set_deterministic(False)
    values.put_(torch.tensor([0, 0]), torch.ones(2), accumulate=False)


def test_what_cublas_was_told_before_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    set_deterministic()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"
