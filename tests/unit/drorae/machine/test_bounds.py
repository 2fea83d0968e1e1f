"""What bounds a trial: every part is listed, and adds up."""

from __future__ import annotations

import json

import pytest

from drorae.commands.main import main
from drorae.config import PRESETS, Runtime, override
from drorae.machine.bounds import LOADER_RATES, bounds
from drorae.machine.needs import IMAGENET_IMAGES, IMAGENET_VALIDATION, Needs, guessed_shape, rough_needs

LISTED = ["loader", "encoder", "fusion", "decoder", "perceptual", "discriminator", "evaluation", "checkpoint", "disk",
          "memory", "in all"]  # fmt: skip
PAPER = override(PRESETS["paper"], "images.train_images", IMAGENET_IMAGES)


def needs_of(config: object, runtime: Runtime) -> Needs:
    return rough_needs(config, runtime, guessed_shape(config.encoder.name))  # type: ignore[arg-type, attr-defined]


def test_the_paper_s_bounds_add_up() -> None:
    runtime = Runtime(features="online")
    needs = needs_of(PAPER, runtime)
    found = {bound.what: bound for bound in bounds(PAPER, runtime, needs, IMAGENET_IMAGES, 3e14)}
    assert list(found) == LISTED and all(bound.how for bound in found.values())
    parts = [found[name].hours for name in LISTED[1:6]]
    assert sum(parts) == pytest.approx(needs.hours(3e14))  # type: ignore[arg-type]
    evaluation = found["evaluation"].hours
    assert found["in all"].hours == pytest.approx(needs.hours(3e14) + evaluation)  # type: ignore[operator]
    read = sum(phase.images for phase in needs.phases)
    assert found["loader"].hours == pytest.approx(read / LOADER_RATES["torch"] / 3600)
    # Per image: the encoder, the decoder's 28 blocks and the fusion's experts, once each.
    flops = 256 * 2 * (12 * 12 * 768**2 + 28 * (4 * 1152**2 + 2 * 1152 * 4096) + 12 * 2 * 768 * 3072)
    assert evaluation == pytest.approx(3 * IMAGENET_VALIDATION * flops / 3e14 / 3600, rel=0.1)
    assert found["memory"].gigabytes == needs.memory_bytes / 1e9
    assert found["checkpoint"].gigabytes == max(phase.optimiser_bytes for phase in needs.phases) / 1e9


def test_cached_features_lie_on_the_disk_and_are_read_and_encoded_once() -> None:
    config = override(override(PAPER, "images.views", 1), "images.resampling", "pillow")
    found = {
        bound.what: bound for bound in bounds(config, Runtime(), needs_of(config, Runtime()), IMAGENET_IMAGES, 3e14)
    }
    assert found["loader"].hours == pytest.approx(IMAGENET_IMAGES / LOADER_RATES["pillow"] / 3600)
    assert found["disk"].gigabytes == pytest.approx(IMAGENET_IMAGES * (12 * 256 * 768 * 2 + 3 * 256**2) / 1e9, rel=0.02)


@pytest.mark.parametrize("words", [["sweep", "--preset", "capacity"], ["sweep", "--preset", "smoke"]])
def test_a_dry_run_lists_every_bound(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "--dry-run", "--json"]) == 0
    tree = json.loads(capsys.readouterr().out)
    assert [bound["what"] for bound in tree["largest_trial_bounds"]] == LISTED
    assert main([*words, "--dry-run"]) == 0
    assert ("estimated from arithmetic" in capsys.readouterr().out) == (words[2] == "capacity")
