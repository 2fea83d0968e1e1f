"""How large trials are, and how far they are, with and without a generator of their own."""

from __future__ import annotations

from itertools import pairwise

import pytest

from drorae.config import PRESETS, Runtime, TrialConfig, override
from drorae.machine.extent import share_done, trial_flops
from drorae.machine.generator import rough_generator
from drorae.machine.needs import measure

QUICKSTART = override(PRESETS["quickstart"], "fusion.expert_hidden_dim", 8)


def with_generator(config: TrialConfig, **fields: object) -> TrialConfig:
    usual = {"epochs": 20, "guidance": "none,autoguidance=1.5"}
    for name, value in (usual | fields).items():
        config = override(config, f"generator.{name}", value)
    return config


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
def test_the_size_by_name_alone_is_that_of_the_networks(preset: str) -> None:
    for variant, width in (("energy", 8), ("energy", 512), ("cross_attention", 128)):
        config = override(override(PRESETS[preset], "fusion.variant", variant), "fusion.expert_hidden_dim", width)
        config = override(config, "images.train_images", 2048)
        phases = measure(config, Runtime(device="cpu"), 2048).phases
        built = sum(phase.flops for phase in phases if phase.name != "phase1")
        assert trial_flops(config) == pytest.approx(built, rel=0.02)


def test_the_size_of_what_nobody_knows() -> None:
    config = PRESETS["quickstart"]
    for name, value in (
        ("encoder.name", "convnext"), ("encoder.name", "vit_large_patch16_224"), ("encoder.name", "patch0"),
        ("encoder.input_size", 1), ("images.train_images", 0), ("phase2.batch_size", 1), ("images.size", 8),
    ):  # fmt: skip
        assert trial_flops(override(config, name, value)) > 0
    # A fusion without weights is not trained at all.
    assert trial_flops(override(config, "fusion.variant", "mean")) == 0


def test_a_generator_adds_its_latents_training_controls_and_images() -> None:
    config = with_generator(QUICKSTART)
    found = rough_generator(config, Runtime())
    assert found is not None and len(found.drawings) == 2
    assert trial_flops(config) == pytest.approx(trial_flops(QUICKSTART) + found.flops)
    # A fusion without weights: the generator is all that is trained.
    config = override(config, "fusion.variant", "mean")
    alone = rough_generator(config, Runtime())
    assert alone is not None and trial_flops(config) == pytest.approx(alone.flops)
    # Photographs have no classes: such a trial is refused, and nobody asks for its size in vain.
    assert trial_flops(with_generator(QUICKSTART, condition="class")) == trial_flops(QUICKSTART)


def test_the_share_that_is_done_goes_on_through_the_generator() -> None:
    config = with_generator(QUICKSTART)
    found = rough_generator(config, Runtime())
    assert found is not None
    first, second = found.drawings
    phases, total = trial_flops(QUICKSTART), trial_flops(config)
    # Rows in the order in which a trial reports them, and what is behind it at each.
    latents = phases + found.latent_flops
    trained = latents + found.train_flops
    drawn = trained + found.control_flops + first.draw_flops
    measured = drawn + first.measure_flops
    rows = [
        (("phase2", 10, 20), phases / 2),
        (("phase2", 20, 20), phases),
        (("evaluation", 0, 0), phases),
        (("latents", 30, 60), phases + found.latent_flops / 2),
        (("generator", 0, 9), latents),
        (("generator", 3, 9), latents + found.train_flops / 3),
        (("generator", 9, 9), trained),
        (("controls", 0, 0), trained),
        (("sampling", 500, 500), drawn),
        (("measuring", 0, 0), drawn),
        (("autoguidance_1.5.sampling", 250, 500), measured + second.draw_flops / 2),
        (("autoguidance_1.5.measuring", 0, 0), total - second.measure_flops),
        (("probe", 0, 0), total),
        (("inspection", 0, 0), total),
    ]
    shares = [share_done(config, *row) for row, _ in rows]
    assert shares == pytest.approx([flops / total for _, flops in rows])
    assert all(one <= other for one, other in pairwise(shares)) and shares[-3] < 1 == shares[-1]  # type: ignore[operator]
    assert share_done(config, "prepare", 1, 2) is None and share_done(config, "phase1", 1, 2) is None
    # Without a generator the evaluation is what is left.
    assert share_done(QUICKSTART, "evaluation", 0, 0) == 1


def test_a_further_guidance_costs_its_drawing_and_no_controls_again() -> None:
    alone, both = (rough_generator(with_generator(QUICKSTART, guidance=names), Runtime()) for names in
                   ("none", "none,autoguidance=1.5"))  # fmt: skip
    assert alone is not None and both is not None
    assert both.flops - alone.flops == pytest.approx(both.drawings[1].flops)
    assert both.control_flops == alone.control_flops > both.drawings[0].measure_flops
