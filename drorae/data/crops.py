"""The one training crop and the one evaluation crop, and sets of images that hand them out."""

from __future__ import annotations

import copy
import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from drorae.config import ImagesConfig

# Raise it when a crop or the layout of the photographs changes, so that caches made before are not taken for new.
_CROP_VERSION = 1

STRIP = 8
"""Times its shorter side: a picture that is longer is a strip."""

Picture = Image.Image | np.ndarray
"""RGB of any size; arrays are uint8 [H, W, 3]."""
Resampling = Literal["pillow", "torch"]
Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""
ENCODED = ("folder", "parquet", "webdataset", "datasets")
"""Sources of encoded images."""
DRAFT_MARGIN = 2
"""Times the shorter side wanted: what a picture decoded at a fraction of its size still has (`images.draft`)."""


class Reduced(NamedTuple):
    """A picture decoded at a fraction of its size, where the whole was not asked for."""

    picture: Image.Image
    size: tuple[int, int]
    """Width and height of the whole."""
    box: Box
    """Where the whole lies in it, in its pixels: of a JPEG they go on to the end of a block."""


Read = Callable[[int, np.random.Generator, int], Picture | Reduced]
"""read(item, generator, least): opens the image at a position of its source.

What it leaves to chance comes from the generator. It may be reduced to no less than `least` pixels of the shorter side;
0: not at all.
"""


class ImageSet(Protocol):
    """An ordered set of images that hands out crops."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hexadecimal) of the content and of every setting that the crops depend on."""
        ...

    def __len__(self) -> int: ...

    def crops(self, indices: Sequence[int], view: int = 0) -> np.ndarray:
        """Crops as uint8 RGB [len(indices), size, size, 3]. Validation sets ignore `view`."""
        ...


class Annotations(NamedTuple):
    """What is said of the images of a set, in their order."""

    labels: np.ndarray | None = None
    """int64 [N]; None: there are none."""
    label_names: tuple[str, ...] = ()
    """By label; empty where they are not known."""
    captions: Sequence[str] | None = None
    """None: there are none."""

    def taken(self, items: np.ndarray) -> Annotations:
        """Returns those of the images at some positions [n]."""
        labels = None if self.labels is None else self.labels[items]
        captions = None if self.captions is None else tuple(self.captions[item] for item in items.tolist())
        return Annotations(labels, self.label_names, captions)

    @property
    def labels_fingerprint(self) -> str:
        """SHA-256 (hexadecimal) of the labels and their names; empty where there are none."""
        if self.labels is None:
            return ""
        digest = hashlib.sha256(json.dumps(self.label_names).encode())
        digest.update(self.labels.astype("<i8").tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class Images:
    """Training and validation images, and what was left out."""

    train: CropSet
    val: CropSet
    skipped: tuple[str, ...] = ()
    """`path: reason` of every file that was not usable."""
    notices: tuple[str, ...] = ()
    """What else a reader of the results should know: what was left out, converted, or found on both sides."""
    label_names: tuple[str, ...] = ()
    """Names of the classes by label, of both sets; empty where they are not known."""

    @property
    def classes(self) -> int:
        """How many classes there are, those that no training image is of among them; 0: the images have none."""
        labels = self.train.labels
        return 0 if labels is None else max(len(self.label_names), int(labels.max()) + 1)


def train_crop(
    image: Picture | Reduced,
    size: int,
    resize: int,
    generator: np.random.Generator,
    resampling: Resampling = "pillow",
) -> np.ndarray:
    """The training crop: shorter side to `resize` (0: `size`) by bicubic, then a uniformly placed square.

    RAE's recipe (arXiv 2510.11690, published code): Resize(384) and RandomCrop(256), without a flip.

    Args:
        image: RGB, of any size; arrays are uint8 [H, W, 3]. Of a reduced one the square is where the whole has it.
        size: side of the crop in pixels.
        resize: shorter side in pixels before it is cut; 0: `size`.
        generator: places the square.
        resampling: whose bicubic (`images.resampling`).

    Returns:
        uint8 [size, size, 3].
    """
    if isinstance(image, Reduced):
        picture, whole, box = image
    else:
        picture = _as_picture(image)
        whole, box = picture.size, (0.0, 0.0, *picture.size)
    target, shorter = resize or size, min(whole)
    width, height = (side * target // shorter for side in whole)
    left, top = (int(generator.integers(side - size + 1)) for side in (width, height))
    return _square(picture, box, (width, height), left, top, size, resampling)


def centre_crop(image: Picture, size: int) -> np.ndarray:
    """The evaluation crop of ADM (arXiv 2105.05233, published code).

    Halves with a box filter while the shorter side is at least twice `size`, takes it to `size` by bicubic and cuts
    out the centre.

    Args:
        image: RGB, of any size; arrays are uint8 [H, W, 3].
        size: side of the crop in pixels.

    Returns:
        uint8 [size, size, 3].
    """
    picture = _as_picture(image)
    while min(picture.size) >= 2 * size:
        picture = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.BOX)
    shorter = min(picture.size)
    # Scale first, then round: ADM's order, which decides ties as ADM does.
    width, height = (round(side * (size / shorter)) for side in picture.size)
    left, top = ((side - size) // 2 for side in (width, height))
    return _square(picture, (0.0, 0.0, *picture.size), (width, height), left, top, size)


def _square(
    picture: Image.Image,
    whole: Box,
    scaled: tuple[int, int],
    left: int,
    top: int,
    size: int,
    resampling: Resampling = "pillow",
) -> np.ndarray:
    """The square of `size` pixels at (left, top) of a box of a picture taken to another size by bicubic."""
    if max(scaled) > STRIP * min(scaled):
        # A strip would be made huge for the sake of one square: that square alone, up to rounding the same.
        x, y = whole[:2]
        across, down = (whole[2] - x) / scaled[0], (whole[3] - y) / scaled[1]
        box = (x + left * across, y + top * down, x + (left + size) * across, y + (top + size) * down)
        return np.array(picture.resize((size, size), Image.Resampling.BICUBIC, box=box))
    if picture.size == scaled:
        return np.array(picture.crop((left, top, left + size, top + size)))
    # torch's has no boxes, so none that ends within a pixel.
    if resampling == "torch" and all(float(edge).is_integer() for edge in whole):
        inner = picture if whole == (0, 0, *picture.size) else picture.crop(whole)
        return _torch_resize(inner, scaled)[top : top + size, left : left + size]
    picture = picture.resize(scaled, Image.Resampling.BICUBIC, box=whole)
    return np.array(picture.crop((left, top, left + size, top + size)))


def _torch_resize(picture: Image.Image, scaled: tuple[int, int]) -> np.ndarray:
    """A picture at another size, uint8 [H, W, 3]: antialiased bicubic, of the same kernel as Pillow's."""
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None]
    taken = F.interpolate(pixels, scaled[::-1], mode="bicubic", antialias=True)
    return taken[0].permute(1, 2, 0).numpy()


def evaluation_crop(size: int) -> str:
    """How `centre_crop` cuts, in words that statistics of its crops carry: equal words, equal cut."""
    return f"ADM centre crop {size} px, version {_CROP_VERSION}"


class CropSet:
    """The image set of every source: `read` opens an item, the crop function does the rest.

    Args:
        read: opens the image at a position of the source.
        items: position of each image in its source before a subset was taken; an image keeps its crops in any subset.
        config: how the crops are cut.
        training: whether they are training crops.
        content: what the images are, piece by piece, for the fingerprint.
        threads: images read at once.
        annotations: labels and captions of the images, which neither crops nor fingerprint depend on.
    """

    def __init__(
        self,
        read: Read,
        items: np.ndarray,
        config: ImagesConfig,
        training: bool,
        content: Iterable[bytes],
        threads: int = 1,
        annotations: Annotations | None = None,
    ) -> None:
        self.annotations = annotations or Annotations()
        self.read, self.items, self.config, self.training, self.threads = read, items, config, training, threads
        settings: dict[str, object] = {"crop": "train" if training else "centre", "size": config.size}
        if training:
            settings |= {"resize": config.resize or config.size, "views": config.views}
            settings |= {"draft": True} if config.draft and config.source in ENCODED else {}
            settings |= {"resampling": config.resampling} if config.resampling != "pillow" else {}
        if training or config.source == "photos":
            settings["seed"] = config.seed
        # An encoded image is the same wherever its bytes lie.
        source = "folder" if config.source in ENCODED else config.source
        settings |= {"version": _CROP_VERSION, "source": source}
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
        digest.update(items.astype("<i8").tobytes())
        length, together = functools.cache(lambda size: size.to_bytes(8, "little")), bytearray()
        for piece in content:
            together += length(len(piece))
            together += piece
            # Millions of small pieces, each hashed by itself, take seconds.
            if len(together) > 2**20:
                digest.update(together)
                together.clear()
        digest.update(together)
        self.fingerprint = digest.hexdigest()

    def __len__(self) -> int:
        return len(self.items)

    @property
    def labels(self) -> np.ndarray | None:
        """Classes of the images, int64 [N] from 0; None: there are none."""
        return self.annotations.labels

    @property
    def captions(self) -> Sequence[str] | None:
        """Captions of the images, empty where one has none; None: there are none at all."""
        return self.annotations.captions

    @property
    def labels_fingerprint(self) -> str:
        """SHA-256 (hexadecimal) of the labels and their names; empty where there are none."""
        return self.annotations.labels_fingerprint

    def crops(self, indices: Sequence[int], view: int = 0) -> np.ndarray:
        """Returns crops as uint8 RGB [len(indices), size, size, 3]."""
        wrong = [index for index in indices if not 0 <= index < len(self)]
        if wrong:
            raise IndexError(f"image {wrong[0]} of {len(self)}")
        out = self._room(len(indices))
        with ThreadPoolExecutor(self.threads) as pool:
            several = self.threads > 1 and len(indices) > 1
            cut = (pool.map if several else map)(partial(self._crop, view=view), indices)
            for row, crop in enumerate(cut):
                out[row] = crop
        return out

    def _room(self, count: int) -> np.ndarray:
        """Room for so many crops, laid out as they are cut: torch's are a plane for each colour."""
        size = self.config.size
        if self.training and self.config.resampling == "torch":
            return np.empty((count, 3, size, size), np.uint8).transpose(0, 2, 3, 1)
        return np.empty((count, size, size, 3), np.uint8)

    def one_by_one(self) -> CropSet:
        """Returns the same images, read by one thread."""
        other = copy.copy(self)
        other.threads = 1
        return other

    def centred(self) -> CropSet:
        """Returns the same images through the evaluation crop."""
        other = copy.copy(self)
        other.training = False
        other.fingerprint = hashlib.sha256(f"centred {self.fingerprint}".encode()).hexdigest()
        return other

    def _crop(self, index: int, view: int) -> np.ndarray:
        item, config = int(self.items[index]), self.config
        if not self.training:
            whole = self.read(item, np.random.default_rng([config.seed, 1, item]), 0)
            assert not isinstance(whole, Reduced)
            return centre_crop(whole, config.size)
        generator = np.random.default_rng([config.seed, 0, item, view])
        least = DRAFT_MARGIN * (config.resize or config.size) if config.draft else 0
        picture = self.read(item, generator, least)
        return train_crop(picture, config.size, config.resize, generator, config.resampling)


def subset(count: int, limit: int, seed: int) -> np.ndarray:
    """Returns at most `limit` (0: all) of `count` positions, ascending.

    A smaller limit takes a part of a larger one's.
    """
    if not limit or limit >= count:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).permutation(count)[:limit])


def _as_picture(image: Picture) -> Image.Image:
    return Image.fromarray(image) if isinstance(image, np.ndarray) else image
