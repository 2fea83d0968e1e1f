"""What cuts a batch's crops: the right view of the right image, and the same after it was sent to another process."""

from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import torch

from drorae.config import ImagesConfig
from drorae.data.batch import Cutter
from drorae.data.images import load_images


def test_items_are_views_of_images_here_and_in_another_process() -> None:
    images = load_images(ImagesConfig(train_images=6, val_images=4)).train
    items = np.array([7, 2, 11, 2])
    expected = np.concatenate([images.crops([item % 6], item // 6) for item in items.tolist()])
    cutter = Cutter(images, 2)
    for each in (cutter, pickle.loads(pickle.dumps(cutter))):
        batch = each(items, epoch=5)
        assert np.array_equal(batch.pixels.permute(0, 2, 3, 1).numpy(), expected)
        assert batch.layers.shape == (4, 0) and batch.targets is None
    fresh = [Cutter(images, 0)(np.arange(6), epoch).pixels for epoch in (0, 1, 1)]
    assert not torch.equal(fresh[0], fresh[1]) and torch.equal(fresh[1], fresh[2])


def test_a_process_that_cuts_need_not_import_the_encoder() -> None:
    code = "import sys, drorae.data.loading; sys.exit(any(name.startswith('timm') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
