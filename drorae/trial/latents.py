"""A finished tokenizer's latents of the training images, made once: what a generator is trained on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from drorae.config import config_hash
from drorae.data.features import DTYPES, ENCODE_BATCH, Features, OnlineFeatures, open_features
from drorae.data.mirrored import VIEWS, Mirrored
from drorae.diagnostics.latents import BatchMoments, LatentStatistics, as_map, latent_batches, merged_statistics
from drorae.models.tokenizer import Tokenizer
from drorae.runtime import distributed, out_of_memory
from drorae.storage.arrays import CHUNK, ArraySpec, ArrayStore, StoredArray
from drorae.storage.cache import Cache
from drorae.training.loop import Report
from drorae.trial.shared import Workshop
from drorae.trial.weights import own_digests

KIND = "latents"
"""Of an entry of the store, beside crops, layers and targets."""


@dataclass(frozen=True)
class TrialLatents:
    """The fused latents of all training images through the evaluation crop, then those of their flips.

    Item i is image i % images, flipped where i // images is 1.
    """

    array: StoredArray
    """[2 images, C, S, S] in the type that features are rounded to; bfloat16 and float16 by their bits, as int16."""
    dtype: torch.dtype
    labels: np.ndarray | None
    """int64 [images], the images' classes; None where they have none."""
    classes: int
    """How many there are, those that no training image is of among them; 0: the images have none."""
    address: str
    """What they are of, as a hash: images and their labels, encoder, the trial and its weights."""

    def take(self, items: np.ndarray) -> Tensor:
        """Returns items [B] as float32 [B, C, S, S], on the CPU."""
        found = torch.from_numpy(self.array.take(items))
        return (found if self.dtype == torch.float32 else found.view(self.dtype)).float()

    def statistics(self) -> LatentStatistics:
        """Takes mean and deviation of every element over all items, in one pass; in all processes of a trial alike.

        Several read a chunk each, in turn, and all merge them in their order: the same bits as one process's.
        """
        return merged_statistics(self._moments())

    def _moments(self) -> Iterator[BatchMoments]:
        """Those of the chunks, in their order."""
        total = len(self.array)
        starts, processes = range(0, total, CHUNK), distributed.world_size()
        for first in range(0, len(starts), processes):
            mine = starts[first : first + processes][distributed.rank() :][:1]
            read = [BatchMoments.of(self.take(np.arange(start, min(start + CHUNK, total)))) for start in mine]
            for found in distributed.gathered(read):
                yield from found


def mirrored_features(workshop: Workshop, images: Mirrored) -> OnlineFeatures:
    """Returns the frozen encoder's features of centre crops and their flips, encoded as they are asked for."""
    dtype = DTYPES[workshop.config.encoder.feature_dtype]
    return OnlineFeatures(images, workshop.encoder, dtype, VIEWS, workshop.device)


def _features(workshop: Workshop, tokenizer: Tokenizer, images: Mirrored, report: Report) -> Features:
    """What latents are fused of: encoded once for all trials that share an encoder, where features are cached."""
    runtime, config = workshop.runtime, workshop.config.encoder
    if runtime.features == "online" or tokenizer.encodes:
        return mirrored_features(workshop, images)

    def note(what: str, done: int, total: int) -> None:
        report({"phase": "latents", "note": f"{what} {done} of {total}"})

    return open_features(
        images, workshop.encoder, config, VIEWS, None, runtime, workshop.device, note, tokenizer.fusion.reads
    )  # fmt: skip


def open_latents(workshop: Workshop, tokenizer: Tokenizer, report: Report = lambda row: None) -> TrialLatents:
    """Opens a finished trial's latents in the store, which is filled on first use; in all processes of a trial alike.

    Several processes fuse a shard of the store each, in turn, in the batches that one process takes. The features that
    are fused are kept in the store, too, unless `runtime.features` is online: other trials fuse the same.

    Args:
        workshop: the trial's.
        tokenizer: as the trial left it (`drorae.trial.reload.load_trained`).
        report: gets rows of progress, as `open_workshop` has them.

    Raises:
        UserError: the cache has no room, or memory does not hold one image.
    """
    config, runtime = workshop.config, workshop.runtime
    images = workshop.images
    mirrored = Mirrored(images.train)
    key = {
        "kind": KIND,
        "images": mirrored.fingerprint,
        "encoder": workshop.encoder.fingerprint,
        "dtype": config.encoder.feature_dtype,
        "trial": config_hash(config),
        "weights": own_digests(config, tokenizer),
    }
    cache = Cache(runtime.cache_dir)
    store = ArrayStore(cache / "features", runtime.cache_limit_gb * 1e9, cache, runtime.cache_evict)
    here = distributed.from_main(distributed.is_main() and store.holds(key))
    features = mirrored_features(workshop, mirrored) if here else _features(workshop, tokenizer, mirrored, report)
    dtype, grid = DTYPES[config.encoder.feature_dtype], tokenizer.encoder.grid
    spec = ArraySpec(
        KIND, (tokenizer.encoder.width, grid, grid), "float32" if dtype == torch.float32 else "int16"
    )  # fmt: skip

    def fused(items: np.ndarray, size: int) -> np.ndarray:
        batches = latent_batches(tokenizer, features, items, size)
        found = torch.cat([as_map(tokens).to(dtype).cpu() for tokens, _ in batches])
        return (found if dtype == torch.float32 else found.view(torch.int16)).numpy()

    def produce(start: int, stop: int) -> np.ndarray:
        work = partial(fused, np.arange(start, stop))
        return out_of_memory.retry_smaller(ENCODE_BATCH, work, "a generator's latents")[0]

    def progress(done: int, total: int) -> None:
        report({"phase": "latents", "note": "fusing latents", "done": float(done), "total": float(total)})

    array = store.open(key, len(features), spec, produce, progress)
    address = config_hash(key | {"labels": images.train.labels_fingerprint})
    return TrialLatents(array, dtype, images.train.labels, images.classes, address)
