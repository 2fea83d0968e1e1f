"""Which precision `auto` stands for, on this machine."""

from __future__ import annotations

from dataclasses import replace

from drorae.config import TrialConfig


def has_bf16() -> bool:
    """Whether the device at hand multiplies bfloat16 numbers in hardware: CUDA where there is any, else the CPU."""
    import torch

    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # Whether oneDNN, which does torch's products on x86 and Arm, takes them; without it they are several times slower.
    return bool(torch._C._has_mkldnn and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def settled(config: TrialConfig, like: TrialConfig | None = None) -> TrialConfig:
    """Returns a config in which every `auto` precision is bf16 or fp32, as is fastest here.

    A trial's identity holds what was settled, so that it is the same trial wherever it goes on.

    Args:
        config: any.
        like: a config that was settled where the work began, whose choice is taken; None: this machine's.
    """
    found: str | None = None
    for name in ("phase1", "phase2", "phase3"):
        phase = getattr(config, name)
        if phase.precision == "auto":
            before = getattr(like, name).precision if like is not None else "auto"
            if before == "auto":
                found = before = found or ("bf16" if has_bf16() else "fp32")
            config = replace(config, **{name: replace(phase, precision=before)})
    return config
