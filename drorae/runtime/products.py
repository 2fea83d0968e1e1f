"""The type that a frozen network's matrix products are made in."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

_MATMUL = torch.backends.cuda.matmul
_CUDNN: Any = torch.backends.cudnn
_SWITCHES: list[tuple[Any, str]] = [(_MATMUL, "allow_tf32"), (_CUDNN, "allow_tf32")]
if hasattr(_MATMUL, "fp32_precision"):
    # Torch 2.9's names of the same; what the older ones leave there is not always what was there.
    _SWITCHES += [(part, "fp32_precision") for part in (_MATMUL, _CUDNN.conv, _CUDNN.rnn)]


@contextlib.contextmanager
def products_in(precision: str, device: torch.device) -> Iterator[None]:
    """Has products that are made meanwhile on a device in a type; what torch was set to it is again afterwards.

    Backward passes that begin later are in bf16 where the forward pass was, but not in TF32.

    Args:
        precision: fp32: as torch is set, and a surrounding autocast says; tf32: float32 whose factors may be rounded to
            10 bits of mantissa, on CUDA, elsewhere as fp32; bf16: torch's autocast.
        device: where the products are made.
    """
    if precision == "bf16":
        with torch.autocast(device.type, torch.bfloat16):
            yield
    elif precision == "tf32" and device.type == "cuda":
        before = _allow_tf32()
        try:
            yield
        finally:
            _restore(before)
    else:
        yield


# Torch.compile cannot follow what sets its own flags: it compiles what is between.
@torch.compiler.disable  # type: ignore[untyped-decorator]
def _allow_tf32() -> list[Any]:
    before = [getattr(holder, name) for holder, name in _SWITCHES]
    _MATMUL.allow_tf32 = _CUDNN.allow_tf32 = True
    return before


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _restore(before: list[Any]) -> None:
    for (holder, name), value in zip(_SWITCHES, before, strict=True):
        setattr(holder, name, value)


def marked(fingerprint: str, precision: str) -> str:
    """Returns a network's fingerprint with the precision that it computes in, where that is not fp32."""
    return fingerprint if precision == "fp32" else f"{fingerprint}-{precision}"


def at_least_float32(values: torch.Tensor) -> torch.Tensor:
    """Returns values in a type that sums can be taken in: as they are, unless theirs is smaller."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
