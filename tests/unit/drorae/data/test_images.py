"""The images of a trial."""

from __future__ import annotations

from image_files import user_error

from drorae.config import ImagesConfig


def test_settings_that_do_not_go_together_are_named() -> None:
    assert user_error(ImagesConfig(resize=31)).startswith("images.resize: ")
    assert user_error(ImagesConfig(source="npz")).startswith("images.source=npz needs images.path: ")
