"""Weight files: what they hold, whatever file it is in, and what is no weight file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from disk_failures import FAILURES

from drorae.models.weights import fit_state, read_state, save_sealed
from drorae.storage.sealed import read_sealed

pytestmark = pytest.mark.usefixtures("quiet")


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
