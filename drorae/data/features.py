"""Encoder features of a set of images: encoded once into the store, or anew for every batch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from drorae.config import EncoderConfig, Runtime
from drorae.data.batch import Batch, Cutter, crops_of
from drorae.data.crops import ImageSet
from drorae.data.pixels import as_images
from drorae.errors import UserError
from drorae.models.encoder import Encoder, LayerFeatures
from drorae.runtime import out_of_memory
from drorae.runtime.compiled import compiled
from drorae.storage.arrays import CHUNK, ArraySpec, ArrayStore, Produce, StoredArray
from drorae.storage.cache import Cache

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
ENCODE_BATCH = 64
"""Images encoded at once. A power of two, as a shard's items and the store's chunk are: a cache that is resumed or
mended encodes the same batches."""

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


class Features(Protocol):
    """Features of one split. Item i is view i // images of image i % images."""

    def __len__(self) -> int:
        """Items of one epoch."""

    def batch(self, items: np.ndarray, epoch: int, num_layers: int) -> Batch:
        """Returns the given items [B], with the deepest `num_layers` blocks; with 0, pixels alone.

        From the store they are on the CPU; encoded now, where the encoder is.
        """


class TrainingFeatures(Features, Protocol):
    """Features whose batches can be had in two parts, the first ahead of the step; `batch` is both."""

    @property
    def cutter(self) -> Cutter | None:
        """What another process can do of `read`; None: nothing, it is all in the store."""

    def read(self, items: np.ndarray, epoch: int, num_layers: int) -> Batch:
        """The first part, on the CPU, in any one thread at a time: online features still lack their layers."""

    def finish(self, read: Batch, num_layers: int) -> Batch:
        """The second part, in the step's turn."""


def _as_images(pixels: np.ndarray, device: torch.device) -> Tensor:
    """Returns uint8 [B, S, S, 3] as float32 [B, 3, S, S] in [0, 1] on a device."""
    return as_images(torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2))


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    """Lets torch take so many CPU threads meanwhile; 0: those that it has."""
    usual = torch.get_num_threads()
    torch.set_num_threads(count or usual)
    try:
        yield
    finally:
        torch.set_num_threads(usual)


def _in_parts(
    pixels: StoredArray, device: torch.device, what: str, size: int, work: Callable[[Tensor], Tensor]
) -> Produce:
    """Returns a producer of work(images) that takes `size` of the crops at once, or as many as memory holds."""

    @torch.no_grad()
    def produce(start: int, stop: int) -> np.ndarray:
        nonlocal size

        def parts(at_once: int) -> list[Tensor]:
            pieces = (pixels.take(np.arange(at, min(at + at_once, stop))) for at in range(start, stop, at_once))
            return [work(_as_images(piece, device)).cpu() for piece in pieces]

        done, size = out_of_memory.retry_smaller(size, parts, what)
        return torch.cat(done).numpy()

    return produce


class OnlineFeatures:
    """Encodes every batch when it is asked for, and leaves it where the encoder is.

    `views = 0` takes a fresh crop of every image each epoch.
    """

    def __init__(
        self, images: ImageSet, encoder: Callable[[Tensor, int], LayerFeatures], dtype: torch.dtype, views: int,
        device: torch.device,
    ) -> None:  # fmt: skip
        self.cutter, self.encoder, self.dtype, self.device = Cutter(images, views), encoder, dtype, device

    def __len__(self) -> int:
        return len(self.cutter.images) * max(self.cutter.views, 1)

    def batch(self, items: np.ndarray, epoch: int, num_layers: int) -> Batch:
        """Returns the given items [B], encoded now; without targets."""
        return self.finish(self.read(items, epoch, num_layers), num_layers)

    def read(self, items: np.ndarray, epoch: int, num_layers: int) -> Batch:
        """Returns the crops alone."""
        return self.cutter(items, epoch)

    def finish(self, read: Batch, num_layers: int) -> Batch:
        """Encodes crops."""
        pixels = read.pixels.to(self.device, non_blocking=True)
        layers = torch.empty(len(pixels), 0, dtype=self.dtype, device=self.device)
        if num_layers:
            layers = self.encoder(as_images(pixels), num_layers).layers.to(self.dtype)
        return Batch(pixels, layers, None)


class CachedFeatures:
    """Reads crops, features and perceptual targets from the store, which it fills on first use.

    Of the encoder's layers the store holds the deepest ones that are asked for, or more; where more are read later, an
    entry of so many is made then.
    """

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
        depth: int,
    ) -> None:
        if views < 1:
            raise UserError("images.views=0 (fresh crops) cannot be cached; use --features online or images.views=1")
        cache = Cache(runtime.cache_dir)
        self._store = ArrayStore(cache / "features", runtime.cache_limit_gb * 1e9, cache, runtime.cache_evict)
        self.cutter = None
        self._count, self._note = len(images) * views, note
        self._of = {"images": images.fingerprint, "views": views}
        self._encoder, self._threads, self._device = encoder, runtime.encoding_threads, device
        self.dtype, self._dtype = DTYPES[config.feature_dtype], config.feature_dtype
        side = images.crops([0]).shape[1]
        self.pixels = self._entry(
            "cutting crops", {}, ArraySpec("pixels", (side, side, 3), "uint8"),
            lambda start, stop: crops_of(images, np.arange(start, stop), 0),
        )  # fmt: skip
        self.layers = self._deepest(depth or encoder.num_layers)
        self.targets: StoredArray | None = None
        if network is not None:
            self.targets = self._entry(
                "perceptual targets",
                {"network": network.fingerprint},
                ArraySpec("targets", (network.flat_size(),), "float16"),
                _in_parts(self.pixels, device, "perceptual targets", CHUNK, network.targets),
            )

    def _key(self, kind: str, key: Mapping[str, object]) -> dict[str, object]:
        return {**self._of, "kind": kind, **key}

    def _entry(self, what: str, key: Mapping[str, object], spec: ArraySpec, produce: Produce) -> StoredArray:
        def progress(done: int, total: int) -> None:
            self._note(what, done, total)

        return self._store.open(self._key(spec.name, key), self._count, spec, produce, progress)

    def _deepest(self, wanted: int) -> StoredArray:
        """Returns the shallowest entry there is of `wanted` layers or more, or else makes that of `wanted`."""
        encoder, kind = self._encoder, "layers"

        def key(layers: int) -> dict[str, object]:
            # An entry that does not say how many it holds has all of them, as those of older versions.
            held = {"deepest": layers} if layers < encoder.num_layers else {}
            return {"encoder": encoder.fingerprint, "dtype": self._dtype, **held}

        enough = range(wanted, encoder.num_layers + 1)
        layers = next((n for n in enough if self._store.holds(self._key(kind, key(n)))), wanted)

        # Not of self, which would hold itself and so its files until garbage is collected.
        threads, dtype = self._threads, self.dtype

        def encode(crops: Tensor) -> Tensor:
            # The same to the last bit whatever the threads, which the targets' convolutions are not.
            with _threads(threads):
                found: Tensor = encoder(crops).layers[:, -layers:].to(dtype)
            return found if dtype == torch.float32 else found.view(torch.int16)

        shape = (layers, encoder.grid**2, encoder.width)
        spec = ArraySpec(kind, shape, "float32" if dtype == torch.float32 else "int16")
        produce = _in_parts(self.pixels, self._device, "encoding images", ENCODE_BATCH, encode)
        return self._entry("encoding images", key(layers), spec, produce)

    def __len__(self) -> int:
        return self._count

    def batch(self, items: np.ndarray, epoch: int, num_layers: int) -> Batch:
        """Returns the given items [B] from the store; for errors, see `read`."""
        return self.read(items, epoch, num_layers)

    def finish(self, read: Batch, num_layers: int) -> Batch:
        """Returns what was read."""
        return read

    def read(self, items: np.ndarray, epoch: int, num_layers: int) -> Batch:
        """Returns the given items [B] from the store.

        Raises:
            UserError: more layers are asked for than it holds, and there is no room for them.
        """
        targets = None if self.targets is None else torch.from_numpy(self.targets.take(items))
        pixels = torch.from_numpy(self.pixels.take(items)).permute(0, 3, 1, 2)
        if not num_layers:
            return Batch(pixels, torch.empty(len(items), 0, dtype=self.dtype), targets)
        if num_layers > self.layers.shape[1]:
            self.layers = self._deepest(num_layers)
        # Laid out layer by layer in memory, as the fusion works, while still in the small type.
        first = self.layers.shape[1] - num_layers
        by_layer = np.ascontiguousarray(self.layers.take(items, first).swapaxes(0, 1))
        layers = torch.from_numpy(by_layer)
        if self.dtype != torch.float32:
            layers = layers.view(self.dtype)
        return Batch(pixels, layers.transpose(0, 1), targets)


def open_features(
    images: ImageSet,
    encoder: Encoder,
    config: EncoderConfig,
    views: int,
    network: TargetNetwork | None,
    runtime: Runtime,
    device: torch.device,
    note: Note = lambda what, done, total: None,
    depth: int = 0,
) -> TrainingFeatures:
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
        depth: of the encoder's layers, how many of the deepest will be read; 0: all of them.

    Raises:
        UserError: the cache has no room, or fresh crops were asked of it.
    """
    if runtime.features == "online":
        encode = compiled(encoder) if runtime.compile else encoder
        return OnlineFeatures(images, encode, DTYPES[config.feature_dtype], views, device)
    return CachedFeatures(images, encoder, config, views, network, runtime, device, note, depth)
