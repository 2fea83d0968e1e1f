"""The images of a trial: `load_images` turns an `ImagesConfig` into a training and a validation set.

Both hand out uint8 RGB crops of `size` pixels a side, decoded when asked for. A training crop depends only on
(seed, image, view); a validation crop is always the centre crop.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator

from drorae.config import ImagesConfig
from drorae.data.crops import Images
from drorae.data.folder import load_folder
from drorae.data.npz import load_npz
from drorae.data.photos import load_photos
from drorae.data.webdataset import load_webdataset
from drorae.storage.cache import Cache


def load_images(config: ImagesConfig, cache: Cache | None = None) -> Images:
    """Opens the images that `config` names.

    photos: crops of the photographs in scikit-image and scikit-learn, at log-uniform scales of one to
    `drorae.data.photos.LARGEST_SCALE` pixels per pixel, training and validation from disjoint parts of every
    photograph.
    `train_images` and `val_images` say how many crops.

    folder: every file below `path` of a format that Pillow decodes by itself, hidden ones and thumbnails apart. EXIF
    orientation is applied, greyscale, palettes, CMYK and 16 bits become 8-bit RGB, transparency is laid on white.
    Folders in `path` named after splits are the split, else `val_path`, else the `val_fraction` of the files whose
    relative paths have the lowest SHA-256. Unusable files are skipped with one warning and listed in `Images.skipped`.
    The fingerprint covers relative path, size and content hash; above `FULL_CHECK_FILES` files the content of
    `SAMPLE_FILES` and the beginnings of the rest.

    parquet, webdataset, datasets: the same of encoded images in the rows of a table or the members of tar files. The
    same images under the same names, in the same order, have the same fingerprint and crops whatever holds them. The
    split of a file is told by its name, else by `val_path` and `val_fraction`.

    npz: two arrays, or one that is split (`drorae.data.npz.load_npz`).

    Labels and captions come with the images where there are any (`drorae.data.labels`): the first folder, an array, a
    column, or the file beside an image. Crops and fingerprints do not depend on them.

    What a reader of the results should know (files left out, images converted, or on both sides) is warned of once and
    kept in `Images.notices`.

    Args:
        config: which, and how they are cut.
        cache: keeps what the checks of more than `FULL_CHECK_FILES` images found, so that the next call only looks at
            what changed; None: nothing is kept.

    Raises:
        UserError: settings that do not go together, images missing, too few or of the wrong kind, or more than
            `BAD_SHARE` of a folder unusable.
    """
    config.check()
    if config.source == "photos":
        return load_photos(config)
    if config.source == "npz":
        return load_npz(config)
    with _without_collector():
        return _loader(config.source)(config, cache)


def _loader(source: str) -> Callable[[ImagesConfig, Cache | None], Images]:
    """What opens encoded images, which `drorae.data.collection` then checks, splits and cuts."""
    if source == "folder":
        return load_folder
    if source == "webdataset":
        return load_webdataset
    # With pyarrow, which the others need not wait for.
    from drorae.data.arrow import load_arrow
    from drorae.data.parquet import load_parquet

    return load_parquet if source == "parquet" else load_arrow


@contextlib.contextmanager
def _without_collector() -> Iterator[None]:
    """Python's collector of garbage rests: it would go through the records of a million images again and again."""
    rests = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if rests:
            gc.enable()
