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
from drorae.errors import UserError


def load_images(config: ImagesConfig) -> Images:
    """Opens the images that `config` names.

    photos: crops of the photographs in scikit-image and scikit-learn, at log-uniform scales of one to
    `drorae.data.photos.LARGEST_SCALE` pixels per pixel, training and validation from disjoint parts of every
    photograph.
    `train_images` and `val_images` say how many crops.

    folder: every JPEG, PNG and WebP below `path`, hidden files apart. EXIF orientation is applied, greyscale
    and palettes become RGB, transparency is laid on white. `train` and `val` folders in `path` make the split,
    else `val_path`, else the `val_fraction` of the files whose relative paths have the lowest SHA-256. Unusable
    files are skipped with one warning and listed in `Images.skipped`. The fingerprint covers relative path,
    size and content hash; above `FULL_CHECK_FILES` files the content of `SAMPLE_FILES` and the beginnings of the rest.

    npz: arrays `train` and `val`, uint8 [N, H, W, 3].

    Raises:
        UserError: a setting out of range, images missing, too few or of the wrong kind, or more than
            `BAD_SHARE` of a folder unusable.
    """
    _check_settings(config)
    if config.source == "photos":
        return load_photos(config)
    if not config.path:
        what = "the folder of images" if config.source == "folder" else "the npz file"
        raise UserError(f"images.source={config.source} needs images.path: name {what}")
    return load_folder(config) if config.source == "folder" else load_npz(config)


def _check_settings(config: ImagesConfig) -> None:
    if config.size < 1:
        raise UserError(f"images.size: {config.size} is no side of a crop; give 1 pixel or more")
    if config.resize and config.resize < config.size:
        raise UserError(
            f"images.resize: a crop of {config.size} does not fit into a shorter side of {config.resize}; "
            f"give 0 or at least {config.size}"
        )
    for name in ("train_images", "val_images", "views", "seed"):
        if getattr(config, name) < 0:
            raise UserError(f"images.{name}: {getattr(config, name)} is negative; give 0 or more")
    if not 0 < config.val_fraction < 1:
        raise UserError(f"images.val_fraction: {config.val_fraction} is no share; give a number between 0 and 1")
