"""Files of references: drorae's own statistics, with what they were measured on, and ADM's statistics and images."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from drorae.errors import UserError, brief
from drorae.metrics.extractors import FeatureExtractor
from drorae.metrics.frechet import FeatureStatistics, Moments
from drorae.metrics.samples import FeatureSample
from drorae.storage.files import file_sha256, replacing
from drorae.storage.remote import expanded

INCEPTION = "rfid_inception"
"""What mu and sigma without a name are of: ADM's files, pytorch-fid's, clean-fid's."""
IMAGES = "arr_0"
"""The array of ADM's files that holds images, uint8 [N, H, W, 3]."""
BATCH = 128
"""Images of a file that go through a network at once."""
EXPECTED = f"expected an .npz file with mu [d] and sigma [d, d], or images {IMAGES}, uint8 [N, H, W, 3]"
_BROKEN = (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile)


@dataclass(frozen=True)
class Origin:
    """What statistics were measured on."""

    metric: str
    """The Frechet distance they serve."""
    extractor: str = ""
    """Fingerprint of the network; empty: unknown."""
    images: str = ""
    """Fingerprint of the set of images, which covers their crop; empty: unknown."""
    crop: str = ""
    """How the images were cut, as `drorae.data.crops.evaluation_crop` says it; empty: unknown."""
    n: int = 0
    """Number of images; 0: unknown."""


@dataclass(frozen=True)
class Reference:
    """The content of a file of statistics."""

    path: Path
    moments: Moments
    origin: Origin
    sha256: str
    places: Moments | None = None
    """`mu_s` and `sigma_s`, of sFID's features; None: not in the file."""

    def doubts(self, wanted: Origin) -> list[str]:
        """Says why a distance to these statistics may not be what reconstructions of `wanted` should be measured by.

        The commonest mistake: ADM's VIRTUAL_imagenet256 statistics, of training images cut another way, give RAE's
        reconstructions an FID of 1.9 to 4.0, where the identically cropped originals give 0.57.
        """
        found, origin = [], self.origin
        if not origin.crop:
            found.append(f"it does not say how its images were cropped (the reconstructions: {wanted.crop})")
        elif origin.crop != wanted.crop:
            found.append(f"its images were cropped otherwise ({origin.crop}, the reconstructions {wanted.crop})")
        elif origin.images and origin.images != wanted.images:
            found.append("its images are others, though cropped alike")
        if origin.n and origin.n != wanted.n:
            found.append(f"it is of {origin.n} images, the reconstructions are {wanted.n}")
        if origin.extractor and origin.extractor != wanted.extractor:
            found.append(f"its network or input size is another ({origin.extractor}, here {wanted.extractor})")
        return found


def write_reference(path: str | Path, statistics: FeatureStatistics, origin: Origin) -> None:
    """Writes mu, sigma and their origin as .npz, atomically. Tools that read ADM's files read it too."""
    with replacing(Path(path)) as temporary, temporary.open("wb") as stream:
        np.savez(stream, mu=statistics.mean.numpy(), sigma=statistics.cov.numpy(), **asdict(origin))


def read_reference(path: str | Path, extractors: Sequence[FeatureExtractor] = ()) -> Reference:
    """Reads an npz file with `mu` [d] and `sigma` [d, d]; the rest of what `write_reference` wrote may be missing.

    Of ADM's files `mu_s` and `sigma_s` are read as well. A file that holds nothing but images, `arr_0`, is measured
    here, in the first extractor's features.

    Args:
        path: the file.
        extractors: the config's; none by default: images alone are then refused.

    Raises:
        UserError: no such file, or one of another kind.
    """
    path = expanded(path)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            images_alone = "mu" not in arrays and IMAGES in arrays
            if not (extractors and images_alone):
                return _statistics(path, arrays)
    except FileNotFoundError:
        raise UserError(f"evaluation.reference: no file {path}; {EXPECTED}") from None
    except _BROKEN as error:
        raise UserError(f"evaluation.reference: {path}: {brief(error, 120)}; {EXPECTED}") from None
    statistics = reference_sample(path, extractors[0]).statistics
    origin = Origin(extractors[0].metric, extractors[0].fingerprint, n=statistics.n)
    return Reference(path, Moments(statistics.mean, statistics.cov), origin, file_sha256(path))


def _statistics(path: Path, arrays: np.lib.npyio.NpzFile) -> Reference:
    moments = _moments(path, arrays, "mu", "sigma")
    places = _moments(path, arrays, "mu_s", "sigma_s") if "mu_s" in arrays else None
    n = int(arrays["n"]) if "n" in arrays else 0
    notes = {name: str(arrays[name]) for name in ("metric", "extractor", "images", "crop") if name in arrays}
    return Reference(path, moments, Origin(**{"metric": INCEPTION, **notes}, n=n), file_sha256(path), places)


def _moments(path: Path, arrays: np.lib.npyio.NpzFile, mean: str, cov: str) -> Moments:
    mu, sigma = (np.asarray(arrays[name], np.float64) for name in (mean, cov))
    if mu.ndim != 1 or sigma.shape != (len(mu), len(mu)) or not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
        raise UserError(
            f"evaluation.reference: {path}: {mean} is {mu.shape}, {cov} {sigma.shape}; {EXPECTED}, all finite"
        )
    return Moments(torch.from_numpy(mu), torch.from_numpy(sigma))


def reference_sample(path: str | Path, extractor: FeatureExtractor, size: int = BATCH) -> FeatureSample:
    """Returns the features of a file's images (`reference_images`), which precision and recall are measured against.

    Raises:
        UserError: no such file, or one without images.
    """
    sample = FeatureSample(extractor.dim)
    for images in reference_images(path, size):
        sample.update(extractor(images.to(extractor.device)))
    return sample


def reference_images(path: str | Path, size: int = BATCH) -> Iterator[Tensor]:
    """Yields the images `arr_0` of an npz file in ADM's layout, uint8 [B, 3, H, W], `size` of them in memory at once.

    Raises:
        UserError: no such file, or one without images.
    """
    path = expanded(path)
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{IMAGES}.npy") as stream:
            version = np.lib.format.read_magic(stream)
            header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, fortran, dtype = header(stream)
            if len(shape) != 4 or shape[3] != 3 or dtype != np.uint8 or fortran or shape[0] < 2:
                raise ValueError(f"{IMAGES} is {dtype} of shape {list(shape)}")
            for start in range(0, shape[0], size):
                part = (min(size, shape[0] - start), *shape[1:])
                # A stream may give less than it is asked for only at its end, where frombuffer refuses it.
                images = np.frombuffer(bytearray(stream.read(math.prod(part))), np.uint8).reshape(part)
                yield torch.from_numpy(images).permute(0, 3, 1, 2)
    except FileNotFoundError:
        raise UserError(f"evaluation.reference: no file {path}; {EXPECTED}") from None
    except _BROKEN as error:
        raise UserError(f"evaluation.reference: {path}: {brief(error, 120)}; {EXPECTED}") from None


def extractor_of(reference: Reference, extractors: list[FeatureExtractor]) -> FeatureExtractor:
    """Finds the extractor whose statistics a file holds.

    Raises:
        UserError: it is not among the config's, or its features have another width.
    """
    metric, width = reference.origin.metric, len(reference.moments.mean)
    extractor = next((item for item in extractors if item.metric == metric), None)
    if extractor is None:
        names = ", ".join(item.metric for item in extractors) or "none"
        raise UserError(
            f"evaluation.reference: {reference.path} holds statistics for {metric}, the config measures {names}; "
            "add its network to evaluation.extractors"
        )
    if extractor.dim != width:
        raise UserError(f"evaluation.reference: {reference.path} holds {width} features, {metric} has {extractor.dim}")
    return extractor
