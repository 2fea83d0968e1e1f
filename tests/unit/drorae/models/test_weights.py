"""Weight files: what they hold, whatever file it is in, and what is no weight file."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from disk_failures import FAILURES

from drorae.errors import UserError
from drorae.models.weights import (
    check_sha256,
    fit_state,
    packaged_file,
    read_state,
    save_sealed,
    save_state,
    state_fingerprint,
    state_sha256,
)
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
        fit_state(module, {}, "fusion.safetensors", "rename it")


STATE = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.tensor(1.5), "none": torch.zeros(0)}


def test_a_state_comes_back_whatever_file_it_is_in(tmp_path: Path) -> None:
    save_state(tmp_path / "plain.safetensors", STATE)
    torch.save(STATE, tmp_path / "plain.pth")
    torch.save({"epoch": 3, "model": STATE, "optimiser": {}}, tmp_path / "checkpoint.pth")
    for name in ("plain.safetensors", "plain.pth", "checkpoint.pth"):
        found = read_state(tmp_path / name)
        assert set(found) == set(STATE) and all(torch.equal(found[key], STATE[key]) for key in STATE)
        assert state_sha256(found) == state_sha256(STATE)


def test_a_digest_is_of_names_shapes_types_and_values_in_any_order_and_layout() -> None:
    digest = state_sha256(STATE)
    assert state_fingerprint(STATE) == digest[:16] and len(digest) == 64
    transposed = STATE["b"].T.contiguous().T
    assert not transposed.is_contiguous() and state_sha256(dict(reversed(STATE.items())) | {"b": transposed}) == digest
    others = [{"c": STATE["b"]}, {"b": STATE["b"].reshape(3, 2)}, {"b": STATE["b"].double()}, {"b": STATE["b"] + 1}]
    assert len({state_sha256(state) for state in [*others, {"b": STATE["b"]}]}) == 5


def test_what_is_no_weight_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "broken.safetensors").write_bytes(b"not safetensors")
    (tmp_path / "broken.pth").write_bytes(b"not weights")
    torch.save([torch.zeros(2)], tmp_path / "list.pth")
    for name, said in (
        ("none.pth", "no such weights file"),
        ("broken.safetensors", "download it again"),
        ("broken.pth", "not readable as plain weights"),
        ("list.pth", "holds no state dict"),
    ):
        with pytest.raises(UserError, match=said) as raised:
            read_state(tmp_path / name)
        assert "\n" not in str(raised.value) and name in str(raised.value)


def test_weights_that_do_not_fit_a_module_say_where_from_and_what_to_do() -> None:
    with pytest.raises(UserError, match="mine.pth: does not fit this config .*; choose another"):
        fit_state(torch.nn.Linear(2, 2), STATE, "mine.pth", "choose another")


def test_a_file_of_a_wheel_is_checked(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no_such_package with x.onnx is not installed; pip install"):
        packaged_file("no_such_package", "x.onnx")
    (tmp_path / "x.onnx").write_bytes(b"abc")
    check_sha256(tmp_path / "x.onnx", hashlib.sha256(b"abc").hexdigest())
    with pytest.raises(UserError, match="x.onnx: SHA-256 ba7816bf8f01 instead of 000000000000"):
        check_sha256(tmp_path / "x.onnx", "0" * 64)
