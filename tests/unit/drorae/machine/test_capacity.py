"""Configs that a machine, or a share of a cluster, cannot hold are refused before anything starts."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from drorae.config import PRESETS, Runtime, override
from drorae.errors import UserError
from drorae.machine.capacity import SMALL_BYTES, check_machine, check_share, memory_bytes
from drorae.machine.needs import encoder_shape, rough_needs

PAPER, SMOKE = PRESETS["paper"], PRESETS["smoke"]
CPU = Runtime(device="cpu")


def test_memory_is_at_most_that_of_the_machine() -> None:
    assert 1e8 < memory_bytes() <= psutil.virtual_memory().total


def test_a_share_without_a_gpu_is_refused_the_paper_s_setting() -> None:
    with pytest.raises(UserError, match="this cluster cannot run this config.*CUDA GPU.*TFLOP.*--preset quickstart"):
        check_share(PAPER, Runtime(), gpus=0, processes=1, memory=1e12)
    check_share(PAPER, Runtime(), gpus=1, processes=1, memory=1e12)
    check_share(SMOKE, CPU, gpus=0, processes=1, memory=8e9)


def test_what_one_process_cannot_hold_several_can() -> None:
    config = SMOKE
    for name, value in (("phase1.batch_size", 4096), ("images.train_images", 4096), ("decoder.width", 512)):
        config = override(config, name, value)
    needed = rough_needs(config, CPU, encoder_shape(config.encoder.name)).memory_bytes  # type: ignore[arg-type]
    assert needed > SMALL_BYTES
    with pytest.raises(UserError, match="GB of memory, .* GB found .smaller phase batch_size"):
        check_share(config, CPU, gpus=0, processes=1, memory=0.6 * needed)
    check_share(config, CPU, gpus=0, processes=2, memory=0.6 * needed)


def test_images_that_are_not_there_are_named_with_their_field(tmp_path: Path) -> None:
    config = override(SMOKE, "images.source", "folder")
    for place, said in (("", "images.path=.empty."), (str(tmp_path / "none"), "images.path=.*none")):
        with pytest.raises(UserError, match=said):
            check_machine(override(config, "images.path", place), CPU)
    config = override(config, "images.path", str(tmp_path))
    check_machine(config, CPU)
    with pytest.raises(UserError, match="images.val_path=.*gone"):
        check_machine(override(config, "images.val_path", str(tmp_path / "gone")), CPU)


def test_a_pattern_is_there_where_all_its_shards_are(tmp_path: Path) -> None:
    (tmp_path / "s-0.tar").touch()
    config = override(SMOKE, "images.source", "webdataset")
    check_machine(override(config, "images.path", f"{tmp_path}/s-{{0..0}}.tar"), CPU)
    with pytest.raises(UserError, match=r"images.path=.*s-\{0..1\}.tar"):
        check_machine(override(config, "images.path", f"{tmp_path}/s-{{0..1}}.tar"), CPU)
