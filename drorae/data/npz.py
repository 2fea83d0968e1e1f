"""Images in an npz archive."""

from __future__ import annotations

import zipfile
from functools import partial
from itertools import chain

import numpy as np

from drorae.config import ImagesConfig
from drorae.data.crops import CropSet, Images, subset
from drorae.errors import UserError, printable


def load_npz(config: ImagesConfig) -> Images:
    """Opens an archive of uint8 arrays `train` and `val` [N, H, W, 3].

    Raises:
        UserError: there is none, or it holds something else.
    """
    expected = "expected uint8 arrays named train and val of shape [N, H, W, 3]"
    try:
        archive = np.load(config.path, allow_pickle=False)
    except FileNotFoundError:
        raise UserError(f"images.path: no file {printable(config.path)}; {expected} in an npz file") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        raise UserError(f"images.path: {printable(config.path)} is not a readable npz file; {expected}") from None
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise UserError(f"images.path: {printable(config.path)} is a single array; {expected} in an npz file")

    def build(name: str, limit: int) -> CropSet:
        if name not in archive.files:
            found = ", ".join(map(printable, archive.files)) or "nothing"
            raise UserError(f"images.path: {printable(config.path)} holds {found}, no {name}; {expected}")
        try:
            array = archive[name]
        except MemoryError:
            raise
        except Exception:
            # Broken archives make zipfile, zlib and numpy raise whatever they stumble over.
            raise UserError(
                f"images.path: array {name} of {printable(config.path)} is damaged or holds Python objects; {expected}"
            ) from None
        if array.dtype != np.uint8 or array.ndim != 4 or array.shape[3] != 3 or not array.size:
            found = f"{array.dtype} of shape {list(array.shape)}"
            raise UserError(f"images.path: array {name} of {printable(config.path)} is {found}; {expected}")
        items = subset(len(array), limit, config.seed)
        chosen = dict(zip(items.tolist(), array[items], strict=True)) if len(items) < len(array) else array
        content = chain([str(array.shape[1:]).encode()], (array[item].tobytes() for item in items))
        return CropSet(partial(_take, chosen), items, config, name == "train", content)

    with archive:
        return Images(build("train", config.train_images), build("val", config.val_images))


def _take(arrays: np.ndarray | dict[int, np.ndarray], item: int, generator: np.random.Generator) -> np.ndarray:
    return arrays[item]
