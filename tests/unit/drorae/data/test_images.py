"""Settings of images, whatever the source."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from image_files import user_error

from drorae.config import ImagesConfig


@pytest.mark.parametrize(
    "change",
    [{"size": 0}, {"resize": 31}, {"train_images": -1}, {"val_images": -1}, {"views": -1}, {"seed": -1}]
    + [{"val_fraction": share} for share in (0.0, 1.0)],
)
def test_settings_out_of_range_are_named(change: dict[str, Any]) -> None:
    assert f"images.{next(iter(change))}:" in user_error(replace(ImagesConfig(), **change))
