"""Files of reference statistics: drorae's own, with what they were measured on, and the mu and sigma of others."""

from __future__ import annotations

import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from drorae.errors import UserError, brief
from drorae.metrics.extractors import FeatureExtractor
from drorae.metrics.frechet import FeatureStatistics, Moments
from drorae.storage.files import file_sha256, replacing
from drorae.storage.remote import expanded

INCEPTION = "rfid_inception"
"""What mu and sigma without a name are of: ADM's files, pytorch-fid's, clean-fid's."""


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


def read_reference(path: str | Path) -> Reference:
    """Reads an npz file with `mu` [d] and `sigma` [d, d]; the rest of what `write_reference` wrote may be missing.

    Raises:
        UserError: no such file, or one of another kind.
    """
    path = expanded(path)
    expected = "expected an .npz file with mu [d] and sigma [d, d]"
    try:
        with np.load(path, allow_pickle=False) as arrays:
            mu, sigma = (np.asarray(arrays[name], np.float64) for name in ("mu", "sigma"))
            n = int(arrays["n"]) if "n" in arrays else 0
            notes = {name: str(arrays[name]) for name in ("metric", "extractor", "images", "crop") if name in arrays}
    except FileNotFoundError:
        raise UserError(f"evaluation.reference: no file {path}; {expected}") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"evaluation.reference: {path}: {brief(error, 120)}; {expected}") from None
    if mu.ndim != 1 or sigma.shape != (len(mu), len(mu)) or not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
        raise UserError(f"evaluation.reference: {path}: mu is {mu.shape}, sigma {sigma.shape}; {expected}, all finite")
    moments = Moments(torch.from_numpy(mu), torch.from_numpy(sigma))
    origin = Origin(**{"metric": INCEPTION, **notes}, n=n)
    return Reference(path, moments, origin, file_sha256(path))


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
