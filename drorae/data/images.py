"""The images of a trial: `load_images` turns an `ImagesConfig` into a training and a validation set.

Both hand out uint8 RGB crops of `size` pixels a side, decoded when asked for. A training crop depends only on
(seed, image, view); a validation crop is always the centre crop.
"""

from __future__ import annotations

from drorae.config import ImagesConfig
from drorae.data.crops import Images
from drorae.data.folder import load_folder
from drorae.data.npz import load_npz
from drorae.data.photos import load_photos


def load_images(config: ImagesConfig) -> Images:
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

    npz: two arrays, or one that is split (`drorae.data.npz.load_npz`).

    What a reader of the results should know (files left out, images converted, or on both sides) is warned of once and
    kept in `Images.notices`.

    Raises:
        UserError: settings that do not go together, images missing, too few or of the wrong kind, or more than
            `BAD_SHARE` of a folder unusable.
    """
    config.check()
    if config.source == "photos":
        return load_photos(config)
    return load_folder(config) if config.source == "folder" else load_npz(config)
