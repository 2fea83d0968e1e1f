"""Configs that a machine, or a share of a cluster, cannot hold are refused before anything starts."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from drorae.config import PRESETS, Runtime, TrialConfig, override
from drorae.errors import UserError
from drorae.machine.capacity import SMALL_BYTES, check_machine, check_share, memory_bytes
from drorae.machine.generator import rough_generator
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


def told(config: TrialConfig, **fields: object) -> TrialConfig:
    for name, value in fields.items():
        config = override(config, f"generator.{name}", value)
    return config


GENERATED = told(SMOKE, size="dit_dh_s", epochs=1, batch_size=96)
"""Phases that fit anywhere, and a generator of 4 GB of weights and their optimiser."""


def test_a_generator_that_does_not_fit_is_named_with_what_makes_it_fit() -> None:
    needed = rough_generator(GENERATED, CPU)
    assert needed is not None and needed.weight_bytes + needed.optimiser_bytes == 20 * needed.params
    # Less than it needs, and more than with any one remedy.
    memory = 0.9 * needed.memory_bytes
    said = f"this cluster .* needs about {needed.memory_bytes / 1e9:.0f} GB of memory for the generator, " + (
        rf"{memory / 1e9:.0f} GB found \(generator.precision=bf16, --micro-batch, or smaller generator.batch_size or "
        "generator.size\\); --preset"
    )
    with pytest.raises(UserError, match=said) as caught:
        check_share(GENERATED, CPU, gpus=0, processes=1, memory=memory)
    assert "\n" not in str(caught.value) and "phase batch_size" not in str(caught.value)
    for smaller in (told(GENERATED, precision="bf16"), told(GENERATED, batch_size=8), told(GENERATED, size="small")):
        check_share(smaller, CPU, gpus=0, processes=1, memory=memory)
    check_share(GENERATED, Runtime(device="cpu", micro_batch=8), gpus=0, processes=1, memory=memory)
    check_share(GENERATED, CPU, gpus=0, processes=2, memory=memory)
    check_share(override(GENERATED, "generator.epochs", 0), CPU, gpus=0, processes=1, memory=memory)
    with pytest.raises(UserError, match=r"for the generator, .* found \(--micro-batch, or smaller"):
        check_share(told(GENERATED, precision="bf16"), CPU, gpus=0, processes=1, memory=0.2 * memory)


def test_a_machine_is_asked_for_its_generator_s_memory_too() -> None:
    check_machine(SMOKE, CPU)
    # A latent of 65,536 tokens: more than any machine has.
    huge = told(SMOKE, size="dit_dh_xl", training="drorae", epochs=1)
    huge = override(override(huge, "images.train_images", 100_000), "encoder.input_size", 3584)
    huge = told(huge, batch_size=4096)
    with pytest.raises(UserError, match=r"this machine .*GPU for the generator \(a training step.*for the generator"):
        check_machine(huge, CPU)


def test_phases_and_generator_are_both_named_where_neither_fits() -> None:
    config = told(PAPER, size="dit_dh_xl", training="drorae", epochs=80)
    with pytest.raises(UserError) as caught:
        check_share(config, Runtime(), gpus=0, processes=1, memory=64e9)
    assert str(caught.value).count("a CUDA GPU") == 2 and "smaller phase batch_size" in str(caught.value)
    check_share(config, Runtime(), gpus=1, processes=1, memory=64e9)


def test_classes_that_photographs_lack_are_missed_before_anything_is_started() -> None:
    with pytest.raises(UserError, match=r"generator\.condition=class needs labels"):
        check_machine(told(SMOKE, size="tiny", epochs=1, condition="class"), CPU)
