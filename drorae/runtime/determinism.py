"""Kernels that give the same bits every time."""

from __future__ import annotations

import os

import torch


def set_deterministic(wanted: bool = True) -> None:
    """Tells torch whether to take deterministic kernels in this process.

    Without them, two runs of one seed on CUDA differ from the first backward pass on. With them, torch raises
    RuntimeError at an operation that has none; `warn_only` would not do, because attention then keeps its fast kernels.
    """
    # cuBLAS reads it when its first handle is made (NVIDIA's manual, section 2.1.4).
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(wanted)
    # NaN in all fresh memory would find reads of it, at the cost of a write of everything.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
