"""Captions of a trial's training images through a text encoder, each distinct one once: what a generator is told."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from drorae.config import Runtime, config_hash
from drorae.errors import UserError
from drorae.generation.training import NO_CAPTIONS
from drorae.models.text import TextEncoder
from drorae.storage.arrays import ArraySpec, ArrayStore, StoredArray
from drorae.storage.cache import Cache
from drorae.training.loop import Report

KIND = "texts"
"""Of an entry of the store, beside latents."""


@dataclass(frozen=True)
class TrialTexts:
    """The states of all training images' captions."""

    array: StoredArray
    """[distinct captions, L, D], float32."""
    places: np.ndarray
    """Where in it the caption of each image lies, [images]."""
    address: str
    """What they are of, as a hash: captions, encoder, how much of each is read."""

    def take(self, images: np.ndarray) -> Tensor:
        """Returns the states of images' captions, float32 [B, L, D], on the CPU."""
        return torch.from_numpy(self.array.take(self.places[images]))


def check_captions(captions: Sequence[str] | None) -> Sequence[str]:
    """Returns the captions of images. Raises UserError where there are none, or only empty ones."""
    if captions is None or not any(map(str.strip, captions)):
        raise UserError(NO_CAPTIONS)
    return captions


def open_texts(
    captions: Sequence[str], encoder: TextEncoder, runtime: Runtime, report: Report = lambda row: None
) -> TrialTexts:
    """Opens the states of captions in the store, which is filled on first use.

    Args:
        captions: one an image.
        encoder: what reads them.
        runtime: whose cache has the store.
        report: gets rows of progress, as `open_latents` has them.

    Raises:
        UserError: the cache has no room.
    """
    distinct = sorted(set(captions))
    numbers = {caption: number for number, caption in enumerate(distinct)}
    key = {"kind": KIND, "encoder": encoder.fingerprint, "captions": _digest(distinct), "tokens": encoder.tokens}

    def produce(start: int, stop: int) -> np.ndarray:
        return encoder.encode(distinct[start:stop]).numpy()

    def progress(done: int, total: int) -> None:
        report({"phase": "latents", "note": "reading captions", "done": float(done), "total": float(total)})

    cache = Cache(runtime.cache_dir)
    store = ArrayStore(cache / "features", runtime.cache_limit_gb * 1e9, cache, runtime.cache_evict)
    spec = ArraySpec(KIND, (encoder.tokens, encoder.width), "float32")
    array = store.open(key, len(distinct), spec, produce, progress)
    places = np.array([numbers[caption] for caption in captions])
    return TrialTexts(array, places, config_hash(key | {"captions": _digest(captions)}))


def _digest(captions: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(list(captions)).encode()).hexdigest()
