"""What a generator takes, against the generator itself: its weights, its counted operations, what it keeps."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from tiny import tiny_images
from tiny_generator import label
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from drorae.commands.main import main
from drorae.config import GENERATORS, PRESETS, GenerationConfig, GeneratorConfig, Runtime, TrialConfig, override
from drorae.errors import UserError
from drorae.generation.drawing import Drawing, draw_latents
from drorae.generation.guidance import Guidance, Network
from drorae.generation.sampler import Method
from drorae.generation.transformer import DiTDH
from drorae.machine.bounds import bounds
from drorae.machine.generator import (
    EXTRACTOR_FLOPS,
    INCEPTION_FLOPS,
    GeneratorNeeds,
    activation_bytes,
    generator_flops,
    generator_needs,
    generator_params,
    rough_generator,
    text_width,
    training_flops,
)
from drorae.machine.needs import IMAGENET_IMAGES, guessed_shape, rough_needs
from drorae.models.wheels import LITE0, LITE2

CHANNELS, GRID, CLASSES = 48, 6, 5
CONFIG = GeneratorConfig(64, 3, 4, 96, 2, 4)
TOLD, TOLD_WIDTH = replace(CONFIG, condition="text", text_encoder="clip", text_tokens=20), 40
PAPER = override(PRESETS["paper"], "images.train_images", IMAGENET_IMAGES)
XL = replace(PAPER, generator=replace(GenerationConfig.named("dit_dh_xl"), guidance=("none", "autoguidance=1.5")))


def needs_of(config: TrialConfig, runtime: Runtime | None = None) -> GeneratorNeeds:
    found = rough_generator(config, runtime or Runtime())
    assert found is not None
    return found


def built(config: GeneratorConfig, channels: int, grid: int, classes: int) -> int:
    with torch.device("meta"):
        return sum(weight.numel() for weight in DiTDH(config, channels, grid, classes, TOLD_WIDTH).parameters())


def condition(config: GeneratorConfig, count: int) -> torch.Tensor:
    """What so many latents' generator is told."""
    return torch.randn(count, 20, TOLD_WIDTH) if config.condition == "text" else torch.zeros(count).long()


def counted(config: GeneratorConfig, back: bool) -> float:
    """Operations of one latent that torch sees."""
    model, count = DiTDH(config, CHANNELS, GRID, CLASSES, TOLD_WIDTH), 4
    # Of fused attention the counter knows the CUDA kernels alone.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        found = model(torch.randn(count, CHANNELS, GRID, GRID), torch.rand(count), condition(config, count))
        if back:
            torch.autograd.backward(sum(part.square().mean() for part in found if part is not None))
    return counter.get_total_flops() / count


def kept(config: GeneratorConfig, bf16: bool) -> float:
    """Bytes that one more latent has autograd keep."""
    model, totals = DiTDH(config, CHANNELS, GRID, CLASSES, TOLD_WIDTH), []
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    for count in (1, 3):
        sizes: dict[int, int] = {}
        alive = []

        def keep(
            tensor: torch.Tensor, sizes: dict[int, int] = sizes, alive: list[torch.Tensor] = alive
        ) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                sizes[storage.data_ptr()] = storage.nbytes()
                alive.append(tensor)
            return tensor

        noisy, t, labels = torch.randn(count, CHANNELS, GRID, GRID), torch.rand(count), condition(config, count)
        with (
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
            torch.autocast("cpu", torch.bfloat16, enabled=bf16),
        ):
            model(noisy, t, labels).final.square().mean()
        totals.append(sum(sizes.values()))
    return (totals[1] - totals[0]) / 2


@pytest.mark.parametrize("name", list(GENERATORS))
@pytest.mark.parametrize(
    "changes",
    [{}, {"condition": "none"}, {"condition": "text", "text_encoder": "clip"}, {"early_depth": 1}, {"head_width": 0}],
)
def test_parameters_are_those_of_the_network(name: str, changes: dict[str, object]) -> None:
    config = GENERATORS[name]
    if "head_width" in changes:
        # Nothing to be widened.
        changes = {"head_width": config.width, "head_heads": config.heads}
    config = replace(config, **changes)  # type: ignore[arg-type]
    assert generator_params(config, 768, 1000, TOLD_WIDTH) == built(config, 768, 16, 1000)


def test_published_sizes() -> None:
    assert generator_params(GENERATORS["dit_dh_xl"], 768, 1000) == 838_380_628
    assert generator_params(GENERATORS["dit_dh_s"], 768, 1000) == 196_357_204


@pytest.mark.parametrize(
    "config", [CONFIG, TOLD, replace(CONFIG, early_depth=1), replace(CONFIG, depth=7), replace(CONFIG, head_width=64)]
)
def test_arithmetic_is_what_torch_counts(config: GeneratorConfig) -> None:
    assert generator_flops(config, CHANNELS, GRID, TOLD_WIDTH) == pytest.approx(counted(config, False), rel=0.02)
    assert training_flops(config, CHANNELS, GRID, TOLD_WIDTH) == pytest.approx(counted(config, True), rel=0.02)


@pytest.mark.parametrize(("config", "precision"), product((CONFIG, TOLD, replace(CONFIG, depth=9)), ("fp32", "bf16")))
def test_activations_are_what_autograd_keeps(config: GeneratorConfig, precision: str) -> None:
    # What comes before and behind the blocks is not estimated.
    blocks = kept(config, precision == "bf16") - kept(replace(config, depth=1, head_depth=1), precision == "bf16")
    estimate = activation_bytes(config, GRID, precision)
    estimate -= activation_bytes(replace(config, depth=1, head_depth=1), GRID, precision)
    assert estimate == pytest.approx(blocks, rel=0.05)
    assert activation_bytes(config, GRID, precision) == pytest.approx(kept(config, precision == "bf16"), rel=0.25)


@pytest.mark.parametrize("method", ["euler", "heun"])
@pytest.mark.parametrize("guidance", ["none", "cfg=1.5", "autoguidance=1.5", "internal=1.5"])
def test_images_cost_what_drawing_them_does(guidance: str, method: Method) -> None:
    settings = replace(
        GenerationConfig.named("tiny"), early_depth=1, samples=10, steps=3, method=method, guidance=(guidance,)
    )
    config = replace(override(PAPER, "encoder.input_size", 28), generator=settings)
    model, shape = settings.run(0, True).model, guessed_shape(config.encoder.name)
    network = Network(DiTDH(model, shape.width, 2, CLASSES), model)
    drawing = Drawing(10, tuple(range(CLASSES)), 3, method, Guidance.parse(guidance))
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        draw_latents(drawing, range(10), (shape.width, 2, 2), network, network, torch.device("cpu"))
    (found,) = needs_of(config).drawings
    forward = generator_flops(model, shape.width, 2)
    assert found.passes * 10 * forward == pytest.approx(counter.get_total_flops(), rel=0.02)
    # And the tokenizer's decoder, once for an image.
    decoder, tokens = config.decoder, 4
    blocks = decoder.depth * 2 * (tokens + 1) * (4 * decoder.width**2 + 2 * decoder.width * decoder.mlp_dim)
    ends = 2 * decoder.width * (tokens * 768 + 3 * 256**2)
    assert found.draw_flops - 10 * found.passes * forward == pytest.approx(10 * (blocks + ends), rel=0.02)


@pytest.mark.parametrize(("name", "network"), [("effnet", LITE0.network), ("effnet2", LITE2.network)])
def test_extractors_cost_what_torch_counts(name: str, network: str) -> None:
    model = timm.create_model(network).eval()
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        model.to("meta")(torch.zeros(1, 3, 224, 224))
    assert EXTRACTOR_FLOPS[name] * 224**2 == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_inception_costs_what_torch_counts() -> None:
    with torch.device("meta"):
        model = torchvision.models.inception_v3(weights=None, aux_logits=False, init_weights=False).eval()
        with FlopCounterMode(display=False) as counter:
            model(torch.zeros(1, 3, 299, 299))
    assert counter.get_total_flops() == pytest.approx(INCEPTION_FLOPS, rel=0.01)


def test_the_paper_s_generator_adds_up() -> None:
    found = needs_of(XL)
    assert (found.params, found.classes, found.precision) == (838_380_628, 1000, "fp32")
    # 80 epochs in whole batches of 256; gradients, two moments and the average beside the weights.
    assert found.steps == 80 * (IMAGENET_IMAGES // 256) and found.images == 256 * found.steps
    assert found.weight_bytes + found.optimiser_bytes == 20 * found.params
    assert found.train_flops == found.images * training_flops(GENERATORS["dit_dh_xl"], 768, 16)
    assert found.memory_bytes == pytest.approx(
        20 * found.params + 256 * activation_bytes(GENERATORS["dit_dh_xl"], 16, "fp32")
    )
    assert needs_of(XL, Runtime(micro_batch=8)).activation_bytes * 32 == found.activation_bytes
    # Two bytes for each element of an image's latent and its flip's.
    assert found.latent_bytes == 2 * IMAGENET_IMAGES * 768 * 256 * 2
    plain, guided = found.drawings
    assert [plain.passes, guided.passes] == [50, 100] and plain.images == 500
    assert found.flops == found.latent_flops + found.train_flops + found.control_flops + plain.flops + guided.flops
    needs = rough_needs(XL, Runtime(), guessed_shape(XL.encoder.name))
    without, with_it = (
        {bound.what: bound for bound in bounds(XL, Runtime(), needs, IMAGENET_IMAGES, 3e14, generator)}
        for generator in (None, found)
    )
    added = [name for name in with_it if name not in without]
    assert added == ["latents", "generator", "controls", "drawing, none", "drawing, autoguidance=1.5"]
    assert with_it["in all"].hours == pytest.approx(without["in all"].hours + found.flops / 3e14 / 3600)  # type: ignore[operator]
    assert sum(with_it[name].hours for name in added) == pytest.approx(found.flops / 3e14 / 3600)  # type: ignore[misc]
    assert with_it["memory"].gigabytes == found.memory_bytes / 1e9
    assert with_it["checkpoint"].gigabytes == found.optimiser_bytes / 1e9


def test_what_a_generator_is_told_depends_on_the_images() -> None:
    shape = guessed_shape(XL.encoder.name)
    unlabelled = generator_needs(XL, Runtime(), shape, IMAGENET_IMAGES, 0)
    assert unlabelled is not None and (unlabelled.condition, unlabelled.classes) == ("none", 0)
    assert needs_of(XL).params - unlabelled.params == 1000 * 1152
    with pytest.raises(UserError, match=r"generator\.condition=none"):
        generator_needs(override(XL, "generator.condition", "class"), Runtime(), shape, IMAGENET_IMAGES, 0)
    assert rough_generator(PAPER, Runtime()) is None


def test_a_text_encoder_s_folder_says_how_wide_its_states_are(tmp_path: Path) -> None:
    assert text_width("openai/clip-vit-large-patch14") == text_width(str(tmp_path)) == 768
    for number, (kind, fields) in enumerate(
        (("clip", {"text_config": {"hidden_size": 8}}), ("tower", {"hidden_size": 16}), ("t5", {"d_model": 24}))
    ):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "config.json").write_text(json.dumps(fields))
        assert text_width(str(tmp_path / kind)) == 8 * (number + 1)
    told = override(override(XL, "generator.condition", "text"), "generator.text_encoder", str(tmp_path / "t5"))
    assert needs_of(told).params == needs_of(XL).params + (24 + 1) * 1152 - 1000 * 1152


def dry_run(capsys: pytest.CaptureFixture[str], *words: str, status: int = 0) -> tuple[dict[str, object], str]:
    """What a dry run prints as JSON, and in words."""
    assert main([*words, "--dry-run", "--json"]) == status
    tree = json.loads(capsys.readouterr().out)
    assert main([*words, "--dry-run"]) == status
    return tree, capsys.readouterr().out


def test_a_trial_s_dry_run_tells_its_generator(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paper = ["train", "--preset", "paper"]
    # The images are not here, which is the last thing that it says.
    without, shown = dry_run(capsys, *paper, status=2)
    assert "generator" not in without and "generator" not in shown
    words = [
        *paper,
        "--set",
        "generator=dit_dh_xl",
        "generator.guidance=none,autoguidance=1.5",
        "generator.samples=50000",
    ]
    tree, shown = dry_run(capsys, *words, status=2)
    found = tree["generator"]
    assert found["params"] == 838_380_628 and found["classes"] == 1000  # type: ignore[index]
    assert found["train_hours"] == pytest.approx(found["flops"] / 3e14 / 3600)  # type: ignore[index]
    assert tree["gpu_hours"] == pytest.approx(without["gpu_hours"] + found["gpu_hours"])  # type: ignore[index, operator]
    assert tree["memory_bytes"] == found["memory_bytes"]  # type: ignore[index]
    assert [(item["guidance"], item["images"]) for item in found["drawings"]] == [  # type: ignore[index]
        ("none", 50000), ("autoguidance=1.5", 50000)
    ]  # fmt: skip
    assert {name: without[name] for name in ("params", "phases")} == {name: tree[name] for name in ("params", "phases")}
    assert all(
        text in shown
        for text in ("838,380,628", "told 1,000 classes", "autoguidance=1.5", "h to measure", "controls, once")
    )


def test_a_trial_s_dry_run_counts_the_classes_of_its_images(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = label(tiny_images(elsewhere / "images.npz"), 3)
    words = ["train", "--preset", "smoke", "--set", "images.source=npz", f"images.path={images}", "generator=tiny"]
    tree, _ = dry_run(capsys, *words)
    count = len(np.load(images)["train"])
    assert tree["generator"]["classes"] == 3 and tree["images_per_epoch"] == min(count, 96)  # type: ignore[index]


def test_a_sweep_s_dry_run_tells_the_generators(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["sweep", "--preset", "capacity"]
    without, shown = dry_run(capsys, *words)
    assert "largest_trial_generator" not in without and "generator" not in json.dumps(without) + shown
    tree, shown = dry_run(capsys, *words, "--set", "generator.size=dit_dh_s", "generator.epochs=20")
    assert {row["generator_params"] for row in tree["trials"]} == {196_357_204}  # type: ignore[attr-defined]
    found = tree["largest_trial_generator"]
    assert found["steps"] == 20 * (IMAGENET_IMAGES // 128)  # type: ignore[index]
    more = tree["gpu_hours"] - without["gpu_hours"]  # type: ignore[operator]
    # The latents of smaller fusions take a little less.
    assert more == pytest.approx(len(tree["trials"]) * found["gpu_hours"], rel=0.02)  # type: ignore[arg-type, index]
    assert "196,357,204" in shown and "drawing, none" in shown
    # Trials with a generator beside trials without.
    words = ["sweep", "--preset", "smoke", "--no-check-convergence", "--axis", "generator.epochs=0,3", "capacity=8"]
    tree, shown = dry_run(capsys, *words)
    assert [row["generator_params"] is None for row in tree["trials"]] == [True, False]  # type: ignore[attr-defined]
    assert "told nothing" in shown


def test_a_generator_by_name_is_its_fields_and_what_is_said_of_one_counts(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "--preset", "smoke", "--dry-run", "--json"]
    assert main([*words, "--set", "generator.epochs=3", "generator=dit_dh_s", "generator.batch_size=32"]) == 0
    found = json.loads(capsys.readouterr().out)["generator"]
    assert (found["size"], found["steps"]) == ("dit_dh_s", 9)
    assert main([*words, "--set", "generator=dit_dh_m"]) == 2
    assert "choose one of dit_dh_xl" in capsys.readouterr().err
    assert main([*words, "--set", "generator=tiny", "generator=small"]) == 2
    assert "expected one of them" in capsys.readouterr().err
