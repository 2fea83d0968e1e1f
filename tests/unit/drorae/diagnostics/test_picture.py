"""The picture of held-out images: it says which step it is of, and no half of one is ever taken."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from drorae.diagnostics.picture import mosaic, read_picture, write_picture


def test_a_picture_is_known_by_its_step(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 8, 3)).astype(np.uint8)
    path = tmp_path / "folder" / "held_out.png"
    write_picture(path, images[0], images[1], 40)
    assert read_picture(path, 20) is None and read_picture(tmp_path / "none.png", 40) is None
    pixels = np.asarray(read_picture(path, 40))
    # One white pixel between images of 8.
    assert pixels.shape == (17, 26, 3) and (pixels[8] == 255).all()
    assert (pixels[:8, 9:17] == images[0, 1]).all() and (pixels[9:, 18:] == images[1, 2]).all()
    path.write_bytes(path.read_bytes()[:20])
    assert read_picture(path, 40) is None


def test_a_mosaic_has_gaps_of_nan() -> None:
    found = mosaic([np.zeros((2, 3, 3)), np.ones((2, 3, 3))], 1)
    assert found.shape == (7, 7) and np.isnan(found[3]).all() and found[:3, :3].sum() == 0 and found[4:, 4:].sum() == 9
