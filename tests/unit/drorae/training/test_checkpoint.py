"""Checkpoints: whole or set aside, and never worth a trial."""

from __future__ import annotations

import copy
import errno
import hashlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from drorae.config import Runtime
from drorae.errors import Notice, UserError
from drorae.training import loop
from drorae.training.checkpoint import (
    DIGEST,
    CheckpointWriter,
    WeightAverage,
    load_checkpoint,
    save_checkpoint,
    seconds_between,
)
from drorae.training.loop import PhaseRun


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


def test_the_digest_is_taken_on_the_way_to_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every byte that is there then, though nothing is read again: 6.6 GB at the paper's size."""
    path, opened, modes = tmp_path / "phase2.pt", Path.open, []

    def noted(self: Path, mode: str = "r", *more: Any, **named: Any) -> Any:
        modes.append(mode)
        return opened(self, mode, *more, **named)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", noted)
        weights = {
            "large": torch.arange(3e6),
            "strided": torch.arange(12.0).reshape(3, 4)[:, ::2],
            "none": torch.empty(0),
        }
        save_checkpoint(path, {"module": weights, "rows": [{"phase": "phase2", "step": 1.0}] * 1000})
    assert modes == ["wb"]
    content = path.read_bytes()
    assert len(content) > 12e6 and content[-DIGEST:] == hashlib.sha256(content[:-DIGEST]).digest()
    found = load_checkpoint(path)
    assert found is not None and all(torch.equal(found["module"][name], weights[name]) for name in weights)


def test_checkpoints_lie_apart_by_what_they_cost() -> None:
    assert seconds_between(30, 0.0) == seconds_between(30, 0.5) == 30
    assert seconds_between(30, 7.0) == 350
    assert seconds_between(30, 7.0, share=0.25) == 1400, "four trials of a pack write in turn"
    assert seconds_between(0, 7.0) == 0


def test_a_core_that_writes_and_hashes_is_counted(tmp_path: Path) -> None:
    writer = CheckpointWriter(tmp_path / "phase2.pt")
    assert writer.cpu_seconds == 0
    content = {"module": torch.rand(2_000_000)}
    began = time.process_time()
    writer.save(content)
    writer.finish()
    assert 0 < writer.cpu_seconds < time.process_time() - began


def test_the_next_is_due_when_all_that_they_took_is_paid_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []

    def note(least: float, taken: float, share: float) -> float:
        asked.append(taken)
        return 0.0

    monkeypatch.setattr(loop, "seconds_between", note)
    stepper = SimpleNamespace(
        name="phase2", module=torch.nn.Linear(2, 2), optimiser=SimpleNamespace(state_dict=dict), average=None,
        adversary=None, micro_batch=2, batch_size=2, total=3, steps_per_epoch=3, rate=lambda step: 1e-3,
        close=lambda: None,
    )  # fmt: skip
    with PhaseRun(stepper, Runtime(log_steps=1, checkpoint_seconds=1e-9), tmp_path / "x.pt", lambda row: None) as run:
        for _ in range(3):
            run.note({"loss": torch.tensor(1.0)})
            run._writer.finish()
            run._writer.cpu_seconds = 1000.0
    assert asked == pytest.approx([0, 2000, 1000], abs=10), "the second pays for the first, whose cost nobody knew"


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
    writer = CheckpointWriter(path)
    writer.save(state(7))
    writer.finish()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    writer.save(state(8))
    with pytest.warns(Notice, match="the disk is full; training goes on"):
        writer.finish()
    assert (load_checkpoint(path) or {})["step"] == 7 and len(list(tmp_path.iterdir())) == 1
    writer.finish()


@pytest.mark.parametrize("asked", ["at the end", "at the next"])
def test_what_keeps_one_from_being_written_is_raised_where_it_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    writer = CheckpointWriter(tmp_path / "phase2.pt")

    def refuse(*anything: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", refuse)
        writer.save(state(7))
        with pytest.raises(OSError, match="Input/output error"):
            if asked == "at the end":
                writer.finish()
            else:
                writer.save(state(8))
    # Said once, and nothing is left of it.
    assert list(tmp_path.iterdir()) == []
    writer.save(state(9))
    writer.finish()
    assert (load_checkpoint(writer.path) or {})["step"] == 9


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Writing that has begun, and waits to be let go on."""
    gate, write = SimpleNamespace(begun=threading.Event(), go_on=threading.Event()), torch.save

    def wait(*what: Any) -> None:
        gate.begun.set()
        assert gate.go_on.wait(300)
        write(*what)

    monkeypatch.setattr(torch, "save", wait)
    return gate


def test_one_that_is_written_while_weights_change_holds_those_of_its_step(
    tmp_path: Path, slow: SimpleNamespace
) -> None:
    module = torch.nn.Linear(3, 2)
    optimiser, rows = torch.optim.AdamW(module.parameters(), fused=True), [{"step": 1.0}]

    def step() -> None:
        optimiser.zero_grad()
        module(torch.ones(4, 3)).square().sum().backward()
        optimiser.step()

    step()
    writer = CheckpointWriter(tmp_path / "phase2.pt")
    now = {"module": module.state_dict(), "optimiser": optimiser.state_dict(), "rows": rows, "pair": (1, module.bias)}
    expected = copy.deepcopy(now)
    writer.save(now)
    assert slow.begun.wait(300)
    step()
    rows.append({"step": 2.0})
    slow.go_on.set()
    writer.finish()
    found = load_checkpoint(writer.path) or {}
    assert found["rows"] == [{"step": 1.0}] and found["pair"][0] == 1
    assert torch.equal(found["module"]["weight"], expected["module"]["weight"])
    assert not torch.equal(found["module"]["weight"], module.weight) and torch.equal(
        found["pair"][1], found["module"]["bias"]
    )
    moments = [each["optimiser"]["state"][0]["exp_avg"] for each in (found, expected)]
    assert torch.equal(*moments)
    assert found["optimiser"]["param_groups"] == expected["optimiser"]["param_groups"]


def test_one_is_written_at_a_time(tmp_path: Path, slow: SimpleNamespace) -> None:
    writer = CheckpointWriter(tmp_path / "phase2.pt")
    writer.save(state(7))
    second = threading.Thread(target=writer.save, args=(state(8),))
    second.start()
    second.join(0.2)
    assert second.is_alive() and not writer.path.exists()
    slow.go_on.set()
    second.join()
    writer.finish()
    assert (load_checkpoint(writer.path) or {})["step"] == 8


def killed_while_it_writes(path: Path, slow: SimpleNamespace) -> None:
    writer = CheckpointWriter(path)
    writer.save(state(8))
    slow.begun.wait(300)
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_kill_during_the_write_leaves_the_one_before(tmp_path: Path, slow: SimpleNamespace) -> None:
    path = tmp_path / "phase2.pt"
    slow.go_on.set()
    save_checkpoint(path, state(7))
    slow.go_on.clear()
    process = multiprocessing.get_context("fork").Process(target=killed_while_it_writes, args=(path, slow))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL and (load_checkpoint(path) or {})["step"] == 7


def test_a_process_that_ends_writes_what_it_has_begun(tmp_path: Path) -> None:
    path = tmp_path / "phase2.pt"
    program = (
        "import sys, time, torch; from pathlib import Path; from drorae.training.checkpoint import CheckpointWriter\n"
        "write = torch.save; torch.save = lambda *what: (time.sleep(0.5), write(*what))\n"
        "CheckpointWriter(Path(sys.argv[1])).save({'step': 7}); sys.exit(3)"
    )
    assert subprocess.run([sys.executable, "-c", program, str(path)]).returncode == 3
    assert (load_checkpoint(path) or {})["step"] == 7


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
    module = torch.nn.Linear(2, 1).double()
    average = WeightAverage(module, 0.9)
    expected = module.weight.detach().clone()
    for value in (1.0, -2.0, 3.0):
        torch.nn.init.constant_(module.weight, value)
        average.update(module)
        expected = 0.9 * expected + 0.1 * value
    average.copy_to(module)
    assert torch.allclose(module.weight, expected)
