"""Torch's settings while a frozen network computes, and that they are as before afterwards."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from drorae.runtime.products import at_least_float32, marked, products_in

MATMUL, CUDNN = torch.backends.cuda.matmul, torch.backends.cudnn
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def switches() -> dict[str, object]:
    """What torch says of TF32, by the names of all its versions; none of it needs a GPU."""
    found: dict[str, object] = {"matmul": MATMUL.allow_tf32, "cudnn": CUDNN.allow_tf32}
    found["precision"] = torch.get_float32_matmul_precision()
    if hasattr(MATMUL, "fp32_precision"):
        found |= {f"new {part}": part.fp32_precision for part in (MATMUL, CUDNN.conv, CUDNN.rnn)}
    return found


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    before = MATMUL.allow_tf32, CUDNN.allow_tf32
    yield
    MATMUL.allow_tf32, CUDNN.allow_tf32 = before


@pytest.mark.parametrize("told", [None, (False, True), (False, False), (True, False), (True, True)])
def test_tf32_is_allowed_inside_alone(told: tuple[bool, bool] | None) -> None:
    if told is not None:
        MATMUL.allow_tf32, CUDNN.allow_tf32 = told
    before = switches()
    with products_in("tf32", CUDA):
        assert MATMUL.allow_tf32 and CUDNN.allow_tf32
    assert switches() == before
    with pytest.raises(ValueError, match="inside"), products_in("tf32", CUDA):
        raise ValueError("inside")
    assert switches() == before


def test_tf32_on_a_cpu_and_fp32_ask_nothing_of_torch() -> None:
    before = switches()
    for precision, device in (("tf32", CPU), ("fp32", CPU), ("fp32", CUDA)):
        with products_in(precision, device):
            assert switches() == before and not torch.is_autocast_enabled("cpu")
        with torch.autocast("cpu", torch.bfloat16), products_in(precision, device):
            assert torch.is_autocast_enabled("cpu")


def test_bf16_is_autocast_inside_alone() -> None:
    values = torch.randn(3, 3)
    with products_in("bf16", CPU):
        assert (values @ values).dtype == torch.bfloat16
    with pytest.raises(ValueError, match="inside"), products_in("bf16", CPU):
        raise ValueError("inside")
    assert (values @ values).dtype == torch.float32


def test_compiled_code_computes_inside_what_it_stands_in() -> None:
    allowed: list[bool] = []

    @torch.compiler.disable
    def look() -> None:
        allowed.append(MATMUL.allow_tf32)

    def forward(values: torch.Tensor) -> torch.Tensor:
        with products_in("tf32", CUDA):
            look()
            found = values @ values
        look()
        return found.relu()

    values = torch.randn(3, 3)
    before = switches()
    torch.testing.assert_close(torch.compile(forward, backend="eager")(values), (values @ values).relu())
    assert allowed == [True, False] and switches() == before


def test_small_types_alone_are_widened_and_fp32_leaves_no_mark() -> None:
    for dtype, wide in ((torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64,) * 2):
        values = torch.ones(2, dtype=dtype)
        assert at_least_float32(values).dtype == wide and (at_least_float32(values) is values) == (dtype == wide)
    assert [marked("net", name) for name in ("fp32", "tf32", "bf16")] == ["net", "net-tf32", "net-bf16"]
