"""Encoder features of a set of images: encoded once into the store, or anew for every batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from drorae.config import EncoderConfig, Runtime
from drorae.data.crops import ImageSet
from drorae.data.pixels import as_images
from drorae.errors import UserError
from drorae.models.encoder import Encoder
from drorae.runtime import out_of_memory
from drorae.storage.arrays import CHUNK, ArraySpec, ArrayStore, Produce
from drorae.storage.cache import Cache

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
ENCODE_BATCH = 64
"""Images encoded at once. A divisor of the store's chunk, so that a resumed cache encodes the same batches."""

Note = Callable[[str, int, int], None]
"""note(what, done, total): progress of filling a cache."""


class TargetNetwork(Protocol):
    """A frozen network whose features of the crops are the targets of a loss, and are cached."""

    fingerprint: str

    def flat_size(self) -> int:
        """Returns the numbers per image in a packed target."""
        ...

    def targets(self, images: Tensor) -> Tensor:
        """Returns the packed features [B, flat_size], float16, of images [B, 3, H, W] in [0, 1]."""
        ...


class Batch(NamedTuple):
    """B training items."""

    pixels: Tensor
    """uint8 [B, 3, H, W]: the crops, as the decoder should paint them."""
    layers: Tensor
    """[B, n, N, C] in the feature type: raw outputs of the deepest n blocks."""
    targets: Tensor | None
    """[B, D] float16: the perceptual network's packed features of the crops; None: not cached."""


class Features(Protocol):
    """Features of one split. Item i is view i // images of image i % images."""

    def __len__(self) -> int:
        """Items of one epoch."""

    def batch(self, items: np.ndarray, epoch: int, num_layers: int) -> Batch:
        """Returns the given items [B], with the deepest `num_layers` blocks, on the CPU; with 0, pixels alone."""


def _pixels(images: ImageSet, items: np.ndarray, epoch_view: int) -> np.ndarray:
    """Returns crops [B, S, S, 3] of items, in their order; one call per view among them."""
    views = items // len(images) + epoch_view
    if len(np.unique(views)) == 1:
        return images.crops((items % len(images)).tolist(), int(views[0]))
    places = [np.flatnonzero(views == view) for view in np.unique(views)]
    crops = [images.crops((items[place] % len(images)).tolist(), int(views[place[0]])) for place in places]
    return np.concatenate(crops)[np.argsort(np.concatenate(places))]


def _as_images(pixels: np.ndarray, device: torch.device) -> Tensor:
    """Returns uint8 [B, S, S, 3] as float32 [B, 3, S, S] in [0, 1] on a device."""
    return as_images(torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2))


def _in_parts(
    pixels: np.ndarray, device: torch.device, what: str, size: int, work: Callable[[Tensor], Tensor]
) -> Produce:
    """Returns a producer of work(images) that takes `size` of the crops at once, or as many as memory holds."""

    @torch.no_grad()
    def produce(start: int, stop: int) -> np.ndarray:
        nonlocal size

        def parts(at_once: int) -> list[Tensor]:
            pieces = (np.array(pixels[at : min(at + at_once, stop)]) for at in range(start, stop, at_once))
            return [work(_as_images(piece, device)).cpu() for piece in pieces]

        done, size = out_of_memory.retry_smaller(size, parts, what)
        return torch.cat(done).numpy()

    return produce


class OnlineFeatures:
    """Encodes every batch when it is asked for.

    `views = 0` takes a fresh crop of every image each epoch.
    """

    def __init__(
        self, images: ImageSet, encoder: Encoder, dtype: torch.dtype, views: int, device: torch.device
    ) -> None:
        self.images, self.encoder, self.dtype, self.views, self.device = images, encoder, dtype, views, device

    def __len__(self) -> int:
        return len(self.images) * max(self.views, 1)

    def batch(self, items: np.ndarray, epoch: int, num_layers: int) -> Batch:
        """Returns the given items [B], encoded now; without targets."""
        pixels = _pixels(self.images, items, epoch if self.views == 0 else 0)
        layers = torch.empty(len(items), 0, dtype=self.dtype)
        if num_layers:
            layers = self.encoder(_as_images(pixels, self.device)).layers.to(self.dtype).cpu()[:, -num_layers:]
        return Batch(torch.from_numpy(pixels).permute(0, 3, 1, 2), layers, None)


class CachedFeatures:
    """Reads crops, features and perceptual targets from the store, which it fills on first use."""

    def __init__(
        self,
        images: ImageSet,
        encoder: Encoder,
        config: EncoderConfig,
        views: int,
        network: TargetNetwork | None,
        runtime: Runtime,
        device: torch.device,
        note: Note,
    ) -> None:
        if views < 1:
            raise UserError("images.views=0 (fresh crops) cannot be cached; use --features online or images.views=1")
        cache = Cache(runtime.cache_dir)
        store = ArrayStore(cache / "features", runtime.cache_limit_gb * 1e9, cache)
        self._count = len(images) * views
        self.dtype = DTYPES[config.feature_dtype]
        side = images.crops([0]).shape[1]

        def entry(what: str, key: Mapping[str, object], spec: ArraySpec, produce: Produce) -> np.ndarray:
            key = {"images": images.fingerprint, "views": views, "kind": spec.name, **key}
            return store.open(key, self._count, spec, produce, lambda done, total: note(what, done, total))

        def encode(crops: Tensor) -> Tensor:
            layers: Tensor = encoder(crops).layers.to(self.dtype)
            return layers if self.dtype == torch.float32 else layers.view(torch.int16)

        self.pixels = entry(
            "cutting crops", {}, ArraySpec("pixels", (side, side, 3), "uint8"),
            lambda start, stop: _pixels(images, np.arange(start, stop), 0),
        )  # fmt: skip
        shape = (encoder.num_layers, encoder.grid**2, encoder.width)
        self.layers = entry(
            "encoding images",
            {"encoder": encoder.fingerprint, "dtype": config.feature_dtype},
            ArraySpec("layers", shape, "float32" if self.dtype == torch.float32 else "int16"),
            _in_parts(self.pixels, device, "encoding images", ENCODE_BATCH, encode),
        )
        self.targets: np.ndarray | None = None
        if network is not None:
            self.targets = entry(
                "perceptual targets",
                {"network": network.fingerprint},
                ArraySpec("targets", (network.flat_size(),), "float16"),
                _in_parts(self.pixels, device, "perceptual targets", CHUNK, network.targets),
            )

    def __len__(self) -> int:
        return self._count

    def batch(self, items: np.ndarray, epoch: int, num_layers: int) -> Batch:
        """Returns the given items [B] from the store."""
        # Laid out layer by layer in memory, as the fusion works, while still in the small type.
        first = self.layers.shape[1] - num_layers
        by_layer = np.ascontiguousarray(self.layers[items, first:].swapaxes(0, 1))
        layers = torch.from_numpy(by_layer)
        if self.dtype != torch.float32:
            layers = layers.view(self.dtype)
        targets = None if self.targets is None else torch.from_numpy(self.targets[items])
        return Batch(torch.from_numpy(self.pixels[items]).permute(0, 3, 1, 2), layers.transpose(0, 1), targets)


def open_features(
    images: ImageSet,
    encoder: Encoder,
    config: EncoderConfig,
    views: int,
    network: TargetNetwork | None,
    runtime: Runtime,
    device: torch.device,
    note: Note = lambda what, done, total: None,
) -> Features:
    """Opens the features of a split, cached or online as `runtime.features` says.

    Args:
        images: the split.
        encoder: the frozen encoder.
        config: its config, for the type that features are rounded to.
        views: distinct crops of an image; 0: a fresh one every epoch.
        network: whose targets are cached beside the features; None: none.
        runtime: the cache and its limit.
        device: where images are encoded.
        note: hears of the progress of filling the cache.

    Raises:
        UserError: the cache has no room, or fresh crops were asked of it.
    """
    if runtime.features == "online":
        return OnlineFeatures(images, encoder, DTYPES[config.feature_dtype], views, device)
    return CachedFeatures(images, encoder, config, views, network, runtime, device, note)
