"""Encoder features of a set of images: encoded once into the store, or anew for every batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from drorae.config import EncoderConfig, Runtime
from drorae.data.images import ImageSet
from drorae.errors import UserError
from drorae.losses.perceptual import PerceptualNetwork
from drorae.models.encoder import Encoder
from drorae.runtime import out_of_memory
from drorae.storage.arrays import CHUNK, ArraySpec, ArrayStore
from drorae.storage.cache import Cache

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
ENCODE_BATCH = 64
"""Images encoded at once. A divisor of the store's chunk, so that a resumed cache encodes the same batches."""

Note = Callable[[str, int, int], None]
"""note(what, done, total): progress of filling a cache."""


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
        """The given items [B], with the deepest `num_layers` blocks, on the CPU."""


def _pixels(images: ImageSet, items: np.ndarray, epoch_view: int) -> np.ndarray:
    """Crops [B, S, S, 3] of items, in their order; one call per view among them."""
    views = items // len(images) + epoch_view
    crops: np.ndarray | None = None
    for view in np.unique(views):
        chosen = np.flatnonzero(views == view)
        part = images.crops((items[chosen] % len(images)).tolist(), int(view))
        if crops is None:
            crops = np.empty((len(items), *part.shape[1:]), np.uint8)
        crops[chosen] = part
    if crops is None:
        raise ValueError("no items asked for")
    return crops


def as_images(pixels: Tensor) -> Tensor:
    """uint8 [B, 3, H, W] -> float32 in [0, 1]."""
    return pixels.float() / 255


def _encode(encoder: Encoder, pixels: np.ndarray, dtype: torch.dtype, device: torch.device) -> Tensor:
    """uint8 [B, S, S, 3] -> rounded raw layers [B, L, N, C] on the CPU."""
    images = as_images(torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2))
    return encoder(images).layers.to(dtype).cpu()


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
        pixels = _pixels(self.images, items, epoch if self.views == 0 else 0)
        layers = _encode(self.encoder, pixels, self.dtype, self.device)[:, -num_layers:]
        return Batch(torch.from_numpy(pixels).permute(0, 3, 1, 2), layers, None)


class CachedFeatures:
    """Reads crops, features and perceptual targets from the store, which it fills on first use."""

    def __init__(
        self,
        images: ImageSet,
        encoder: Encoder,
        config: EncoderConfig,
        views: int,
        perceptual: PerceptualNetwork | None,
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
        tokens = encoder.grid**2
        key = {"images": images.fingerprint, "views": views}

        def crops(start: int, stop: int) -> np.ndarray:
            return _pixels(images, np.arange(start, stop), 0)

        self.pixels = store.open(
            {**key, "kind": "pixels"},
            self._count,
            {"pixels": ArraySpec((side, side, 3), "uint8")},
            lambda start, stop: {"pixels": crops(start, stop)},
            lambda done, total: note("cutting crops", done, total),
        )["pixels"]

        at_once = {"encoding images": ENCODE_BATCH, "perceptual targets": CHUNK}

        def in_parts(what: str, work: Callable[[np.ndarray], Tensor], start: int, stop: int) -> Tensor:
            """work(pixels) of items start to stop, as many at once as memory holds."""

            def parts(size: int) -> list[Tensor]:
                return [work(np.array(self.pixels[at : min(at + size, stop)])) for at in range(start, stop, size)]

            done, at_once[what] = out_of_memory.retry_smaller(at_once[what], parts, what)
            return torch.cat(done)

        def encode(start: int, stop: int) -> dict[str, np.ndarray]:
            layers = in_parts(
                "encoding images", lambda pixels: _encode(encoder, pixels, self.dtype, device), start, stop
            )
            plain = layers if self.dtype == torch.float32 else layers.view(torch.int16)
            return {"layers": plain.numpy()}

        self.layers = store.open(
            {**key, "kind": "layers", "encoder": encoder.fingerprint, "dtype": config.feature_dtype},
            self._count,
            {
                "layers": ArraySpec(
                    (encoder.num_layers, tokens, encoder.width),
                    "float32" if self.dtype == torch.float32 else "int16",
                )
            },
            encode,
            lambda done, total: note("encoding images", done, total),
        )["layers"]
        self.targets: np.ndarray | None = None
        if perceptual is not None:
            network = perceptual

            @torch.no_grad()
            def pack(pixels: np.ndarray) -> Tensor:
                images = as_images(torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2))
                return network.pack(network.features(images)).cpu()

            size = perceptual.flat_size()
            self.targets = store.open(
                {**key, "kind": "targets", "network": perceptual.fingerprint},
                self._count,
                {"targets": ArraySpec((size,), "float16")},
                lambda start, stop: {"targets": in_parts("perceptual targets", pack, start, stop).numpy()},
                lambda done, total: note("perceptual targets", done, total),
            )["targets"]

    def __len__(self) -> int:
        return self._count

    def batch(self, items: np.ndarray, epoch: int, num_layers: int) -> Batch:
        # Laid out layer by layer in memory, as the fusion works, while still in the small type.
        by_layer = np.ascontiguousarray(self.layers[items, -num_layers:].swapaxes(0, 1))
        layers = torch.from_numpy(by_layer)
        if self.dtype != torch.float32:
            layers = layers.view(self.dtype)
        layers = layers.transpose(0, 1)
        targets = None if self.targets is None else torch.from_numpy(self.targets[items])
        return Batch(torch.from_numpy(self.pixels[items]).permute(0, 3, 1, 2), layers, targets)


def open_features(
    images: ImageSet,
    encoder: Encoder,
    config: EncoderConfig,
    views: int,
    perceptual: PerceptualNetwork | None,
    runtime: Runtime,
    device: torch.device,
    note: Note = lambda what, done, total: None,
) -> Features:
    """Features of a split, cached or online as `runtime.features` says.

    Raises:
        UserError: the cache has no room, or fresh crops were asked of it.
    """
    if runtime.features == "online":
        return OnlineFeatures(images, encoder, DTYPES[config.feature_dtype], views, device)
    return CachedFeatures(images, encoder, config, views, perceptual, runtime, device, note)
