"""Sealed files: damage is what their bytes prove; a disk or a memory that fails is not."""

from __future__ import annotations

import errno
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from drorae.errors import Notice, UserError
from drorae.models.weights import fit_state, read_state, save_sealed
from drorae.storage import sealed
from drorae.storage.sealed import is_sound, read_sealed, seal_path, write_sealed


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """No notice of damage is given where none is expected."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Notice)
        yield


FAILURES = [OSError(number, os.strerror(number)) for number in (errno.EMFILE, errno.ESTALE, errno.EIO, errno.EACCES)]
FAILURES += [MemoryError("no room"), torch.OutOfMemoryError("CUDA out of memory")]  # type: ignore[list-item]


@pytest.mark.parametrize("error", FAILURES, ids=str)
@pytest.mark.parametrize("seal", [True, False], ids=["sealed", "of an older version"])
def test_what_keeps_a_sound_file_from_being_read_is_raised(tmp_path: Path, error: Exception, seal: bool) -> None:
    path = tmp_path / "numbers.txt"
    write_sealed(path, lambda temporary: temporary.write_text("1 2"))
    if not seal:
        seal_path(path).unlink()

    def refuse(file: Path) -> None:
        raise error

    with pytest.raises((type(error), UserError), match=getattr(error, "strerror", None) or str(error)):
        read_sealed(path, refuse)
    assert read_sealed(path, Path.read_text) == "1 2"


def test_a_file_that_may_not_be_opened_names_its_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "numbers.txt"
    write_sealed(path, lambda temporary: temporary.write_text("1 2"))

    def refuse(file: Path) -> str:
        raise OSError(errno.EMFILE, "Too many open files", str(file))

    monkeypatch.setattr(sealed, "file_sha256", refuse)
    with pytest.raises(UserError, match=r"numbers.txt: cannot be read \(Too many open files\); .*ulimit -n"):
        read_sealed(path, Path.read_text)
    assert path.exists() and seal_path(path).exists()


def test_a_kill_while_a_file_is_replaced_leaves_the_older_one_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "numbers.txt"
    write_sealed(path, lambda temporary: temporary.write_text("1"))
    replace = os.replace

    def killed(source: Path, target: Path) -> None:
        if Path(target) == path:
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            write_sealed(path, lambda temporary: temporary.write_text("2"))
    assert read_sealed(path, Path.read_text) == "1"
    write_sealed(path, lambda temporary: temporary.write_text("3"))
    assert read_sealed(path, Path.read_text) == "3" and len(seal_path(path).read_text().splitlines()) == 1
    path.write_text("1")
    assert not is_sound(path)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("error", [*FAILURES[1:3], *FAILURES[4:]], ids=str)
def test_weights_that_fit_no_memory_are_no_bad_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, error: Exception
) -> None:
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save({"weight": torch.zeros(3)}, path)
    else:
        save_sealed(path, {"weight": torch.zeros(3)})

    def refuse(*arguments: object, **more: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(torch, "load", refuse)
        patch.setattr("drorae.models.weights.load_file", refuse)
        with pytest.raises(type(error)):
            read_sealed(path, read_state)
    assert torch.equal(read_state(path)["weight"], torch.zeros(3))


def test_a_module_that_fits_no_memory_is_not_told_to_be_another(monkeypatch: pytest.MonkeyPatch) -> None:
    module = torch.nn.Linear(2, 2)

    def refuse(state: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(module, "load_state_dict", refuse)
    with pytest.raises(torch.OutOfMemoryError):
        fit_state(module, {}, "fusion.safetensors", "delete it")
