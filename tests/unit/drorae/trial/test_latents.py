"""The latents that a generator learns from: of every training image and its flip, fused once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gloo import in_processes
from tiny import tiny_config, tiny_images

from drorae.config import EvaluationConfig, PhaseConfig, Runtime, override
from drorae.data.features import Features, OnlineFeatures
from drorae.models.tokenizer import Tokenizer
from drorae.storage import arrays
from drorae.trial import latents as latents_module
from drorae.trial.latents import TrialLatents, open_latents
from drorae.trial.shared import Workshop, open_workshop


def opened(folder: Path, dtype: str, images: Path | None = None) -> Workshop:
    images = images or tiny_images(folder / "images.npz")
    config = tiny_config(images, phase1=PhaseConfig(epochs=0), evaluation=EvaluationConfig(extractors=()))
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


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_what_is_fused_is_encoded_once_for_all_trials(
    tmp_path: Path, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    workshop = opened(tmp_path, dtype)
    online = replace(workshop, runtime=replace(workshop.runtime, features="online", cache_dir=str(tmp_path / "other")))
    tokenizer = workshop.tokenizer()
    plain, kept = open_latents(online, tokenizer), open_latents(workshop, tokenizer)
    assert torch.equal(kept.take(np.arange(64)), plain.take(np.arange(64)))
    monkeypatch.setattr(type(workshop.encoder), "forward", lambda *arguments: pytest.fail("encoded again"))
    other = replace(workshop, config=override(workshop.config, "seed", 5))
    again = open_latents(other, other.tokenizer())
    assert again.address != kept.address and not torch.equal(again.take(np.arange(64)), kept.take(np.arange(64)))


def test_another_fusion_has_other_latents(tmp_path: Path) -> None:
    workshop = opened(tmp_path, "fp32")
    tokenizer = workshop.tokenizer()
    one = open_latents(workshop, tokenizer)
    with torch.no_grad():
        next(tokenizer.fusion.parameters()).add_(1)
    other = open_latents(workshop, tokenizer)
    assert one.address != other.address and isinstance(one, TrialLatents)
    assert not torch.equal(one.take(np.arange(4)), other.take(np.arange(4)))


ITEM_BYTES = 192 * 2 * 2 * 4
SHARD, CHUNK = 16, 6
"""Items of a shard and of a chunk: of 64 there are four, and eleven of which the last is shorter."""


def fused_together(folder: Path, images: Path, stop_at: float = 0.0) -> dict[str, Any]:
    """What one process of a trial finds: which items it fused, what it heard, latents, statistics and shards."""
    fused: list[list[int]] = []
    read: list[list[int]] = []
    rows: list[float] = []
    batches, take = latents_module.latent_batches, TrialLatents.take

    def noted(tokenizer: Tokenizer, features: Features, items: np.ndarray, size: int) -> Any:
        fused.append(items.tolist())
        return batches(tokenizer, features, items, size)

    def taken(self: TrialLatents, items: np.ndarray) -> torch.Tensor:
        read.append(items.tolist())
        return take(self, items)

    def heard(row: dict[str, Any]) -> None:
        if row.get("phase") == "latents" and "done" in row:
            rows.append(row["done"])
            if row["done"] == stop_at:
                raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        workshop = opened(folder, "fp32", images)
        patch.setattr(arrays, "SHARD_BYTES", SHARD * ITEM_BYTES)
        patch.setattr(latents_module, "CHUNK", CHUNK)
        patch.setattr(latents_module, "latent_batches", noted)
        patch.setattr(TrialLatents, "take", taken)
        found = open_latents(workshop, workshop.tokenizer(), heard)
        mean, std, images = found.statistics()
    parts = {path.name: path.read_bytes() for path in sorted((folder / "cache" / "features").glob("*/latents-*.bin"))}
    return {
        "fused": fused, "read": read, "rows": rows, "parts": parts, "address": found.address,
        "latents": take(found, np.arange(64)).numpy(), "mean": mean.numpy(), "std": std.numpy(), "images": images,
    }  # fmt: skip


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    for name in ("parts", "address", "images"):
        assert one[name] == other[name]
    for name in ("latents", "mean", "std"):
        assert np.array_equal(one[name], other[name])


@pytest.mark.slow
def test_two_processes_make_the_latents_of_one_to_the_last_bit(tmp_path: Path) -> None:
    images = tiny_images(tmp_path / "images.npz")
    alone = fused_together(tmp_path / "one", images)
    shards = [list(range(start, start + SHARD)) for start in range(0, 64, SHARD)]
    assert alone["fused"] == shards and len(alone["parts"]) == len(shards) == 4
    first, second = in_processes(2, tmp_path / "meet", fused_together, tmp_path / "two", images)
    for found in (first, second):
        assert_same(found, alone)
    assert first["fused"] == shards[::2] and second["fused"] == shards[1::2]
    # Of the chunks that the statistics are taken of, too, each reads every other one.
    chunks = [list(range(start, min(start + CHUNK, 64))) for start in range(0, 64, CHUNK)]
    assert alone["read"] == chunks and (first["read"], second["read"]) == (chunks[::2], chunks[1::2])
    assert first["rows"] == [32.0, 64.0] and second["rows"] == []
    # None of them needs the features of images again.
    again = in_processes(2, tmp_path / "meet", fused_together, tmp_path / "two", images)
    assert [found["fused"] for found in again] == [[], []]


@pytest.mark.slow
def test_latents_that_a_kill_left_half_done_are_ended_by_two_processes(tmp_path: Path) -> None:
    images = tiny_images(tmp_path / "images.npz")
    with pytest.raises(KeyboardInterrupt):
        fused_together(tmp_path / "cut", images, stop_at=16.0)
    first, second = in_processes(2, tmp_path / "meet", fused_together, tmp_path / "cut", images)
    assert_same(first, second)
    assert [batch[0] for batch in first["fused"]] == [16, 48] and [batch[0] for batch in second["fused"]] == [32]
    assert_same(fused_together(tmp_path / "whole", images), first)
