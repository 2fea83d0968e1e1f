"""Checkpoints: whole or set aside, and never worth a trial."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from drorae.errors import Notice, UserError
from drorae.training.checkpoint import WeightAverage, load_checkpoint, save_checkpoint


def state(step: int) -> dict[str, object]:
    return {"step": step, "module": {"weight": torch.arange(3000.0) + step}, "losses": [0.5, 0.25]}


def test_a_checkpoint_comes_back_to_the_bit(tmp_path: Path) -> None:
    path = tmp_path / "phase2.pt"
    assert load_checkpoint(path) is None
    save_checkpoint(path, state(7))
    found = load_checkpoint(path)
    assert found is not None and found["step"] == 7 and found["losses"] == [0.5, 0.25]
    assert torch.equal(found["module"]["weight"], torch.arange(3000.0) + 7)
    assert [item.name for item in tmp_path.iterdir()] == ["phase2.pt"]


def test_one_flipped_bit_or_a_cut_sets_it_aside(tmp_path: Path) -> None:
    path = tmp_path / "phase2.pt"
    save_checkpoint(path, state(7))
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    damaged = []
    for _ in range(20):
        content = bytearray(whole)
        content[int(rng.integers(len(whole)))] ^= 1 << int(rng.integers(8))
        damaged.append(bytes(content))
    for content in [*damaged, whole[: len(whole) // 2], b"", whole + b"x"]:
        path.write_bytes(content)
        with pytest.warns(Notice, match="damaged, set aside as phase2.pt.damaged; the phase starts over"):
            assert load_checkpoint(path) is None
        assert not path.exists() and (tmp_path / "phase2.pt.damaged").read_bytes() == content
    save_checkpoint(path, state(8))
    assert (load_checkpoint(path) or {})["step"] == 8


def test_a_full_disk_keeps_the_older_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "phase2.pt"
    save_checkpoint(path, state(7))

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.warns(Notice, match="the disk is full; training goes on"):
        save_checkpoint(path, state(8))
    assert (load_checkpoint(path) or {})["step"] == 7 and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("no room"),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        *(OSError(number, os.strerror(number)) for number in (errno.EMFILE, errno.ESTALE, errno.EIO, errno.EACCES)),
    ],
    ids=str,
)
@pytest.mark.parametrize("where", ["reading", "opening"])
def test_what_keeps_a_sound_one_from_being_read_is_raised_and_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, where: str
) -> None:
    path = tmp_path / "phase2.pt"
    save_checkpoint(path, state(7))

    def refuse(*arguments: object, **more: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(*((torch, "load") if where == "reading" else (Path, "open")), refuse)
        with pytest.raises((type(error), UserError), match=getattr(error, "strerror", None) or str(error)):
            load_checkpoint(path)
    assert (load_checkpoint(path) or {})["step"] == 7


def test_weight_average_is_the_recursion() -> None:
    module = torch.nn.Linear(2, 1)
    average = WeightAverage(module, 0.9)
    expected = module.weight.detach().clone()
    for value in (1.0, -2.0, 3.0):
        torch.nn.init.constant_(module.weight, value)
        average.update(module)
        expected = 0.9 * expected + 0.1 * value
    average.copy_to(module)
    assert torch.allclose(module.weight, expected)
