"""The latents that a generator learns from: of every training image and its flip, fused once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import tiny_config, tiny_images

from drorae.config import EvaluationConfig, PhaseConfig, Runtime, override
from drorae.data.features import OnlineFeatures
from drorae.trial.latents import TrialLatents, open_latents
from drorae.trial.shared import Workshop, open_workshop


def opened(folder: Path, dtype: str) -> Workshop:
    config = tiny_config(
        tiny_images(folder / "images.npz"), phase1=PhaseConfig(epochs=0), evaluation=EvaluationConfig(extractors=())
    )
    runtime = Runtime(device="cpu", threads=1, cache_dir=str(folder / "cache"))
    return open_workshop(override(config, "encoder.feature_dtype", dtype), runtime)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_latents_are_those_of_the_crops_and_of_their_flips(
    tmp_path: Path, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    workshop = opened(tmp_path, dtype)
    tokenizer = workshop.tokenizer()
    rows: list[dict[str, Any]] = []
    found = open_latents(workshop, tokenizer, rows.append)
    assert rows[-1] == {"phase": "latents", "note": "fusing latents", "done": 64.0, "total": 64.0}
    pixels = torch.from_numpy(workshop.images.train.centred().crops(range(32))).permute(0, 3, 1, 2) / 255
    both = torch.cat([pixels, pixels.flip(-1)])
    with torch.no_grad():
        tokens = tokenizer.latent(tokenizer.encoder(both).layers.to(found.dtype).float())
    expected = tokens.transpose(1, 2).reshape(64, -1, 2, 2)
    close = {"atol": 1e-4, "rtol": 0} if dtype == "fp32" else {"atol": 2e-2, "rtol": 1e-2}
    latents = found.take(np.arange(64))
    torch.testing.assert_close(latents, expected, **close)
    statistics = found.statistics()
    assert statistics.images == 64
    torch.testing.assert_close(statistics.mean, latents.mean(0))
    torch.testing.assert_close(statistics.std, (latents.var(0, correction=0) + 1e-5).sqrt())

    def encoded_again(*arguments: Any) -> None:
        raise AssertionError

    # Once for all, in the store that the features are in.
    monkeypatch.setattr(OnlineFeatures, "batch", encoded_again)
    again = open_latents(workshop, tokenizer)
    assert again.address == found.address and torch.equal(again.take(np.arange(64)), latents)


def test_another_fusion_has_other_latents(tmp_path: Path) -> None:
    workshop = opened(tmp_path, "fp32")
    tokenizer = workshop.tokenizer()
    one = open_latents(workshop, tokenizer)
    with torch.no_grad():
        next(tokenizer.fusion.parameters()).add_(1)
    other = open_latents(workshop, tokenizer)
    assert one.address != other.address and isinstance(one, TrialLatents)
    assert not torch.equal(one.take(np.arange(4)), other.take(np.arange(4)))
