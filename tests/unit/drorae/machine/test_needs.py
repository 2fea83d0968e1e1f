"""What a trial takes, against counts made by hand, product by product."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from drorae.config import DECODERS, PRESETS, Runtime, TrialConfig, override
from drorae.errors import UserError
from drorae.losses.discriminator import DinoDiscriminator
from drorae.losses.perceptual import STAGES, PerceptualNetwork
from drorae.machine.downloads import needed_weights
from drorae.machine.needs import (
    FUSION_NUMBERS,
    KNOWN_SHAPES,
    PERCEPTUAL_FLOPS,
    PERCEPTUAL_NUMBERS,
    PERCEPTUAL_PARAMS,
    EncoderShape,
    Needs,
    check_encoder,
    encoder_shape,
    flops_per_image,
    guessed_shape,
    measure,
    rough_needs,
    train_flops,
)
from drorae.models.backbones import build_vit
from drorae.models.decoder import Decoder
from drorae.models.fusion.registry import LayerFusion
from drorae.models.wheels import LITE0

IMAGES = 1_281_167


C, L, H, N = 768, 12, 3072, 256
"""Encoder width, blocks, expert width, tokens of the paper's setting."""


@pytest.fixture(scope="module")
def paper() -> Needs:
    return measure(PRESETS["paper"], Runtime(), IMAGES)


def vit_flops(depth: int, width: int, mlp: int, tokens: int) -> float:
    """Forward: queries, keys, values and output, the MLP, and the two products of attention."""
    return depth * (2 * tokens * (4 * width**2 + 2 * width * mlp) + 4 * tokens**2 * width)


def test_an_encoder_that_is_not_there_or_not_deep_enough_is_refused_before_it_is_loaded() -> None:
    smoke = PRESETS["smoke"]
    check_encoder(override(smoke, "fusion.num_layers", 12))
    with pytest.raises(UserError, match="^fusion.num_layers: 13 asked for, the encoder has 12"):
        check_encoder(override(smoke, "fusion.num_layers", 13))
    with pytest.raises(UserError, match="^fusion.layers: block 13 asked for, the encoder has 12; use 1 to 12"):
        check_encoder(override(smoke, "fusion.layers", "2,13"))
    for name in ("vit_tiny_patch1_nowhere", "resnet18"):
        with pytest.raises(UserError, match=f"^encoder.name: timm has no ViT named {name!r}"):
            check_encoder(override(smoke, "encoder.name", name))


def test_parameters_of_the_papers_setting(paper: Needs) -> None:
    assert paper.params["fusion"] == 56_779_788
    block = 4 * 1152**2 + 2 * 1152 * 4096 + 4 * 1152 + 4096 + 1152 + 4 * 1152
    decoder = 28 * block + (768 * 1152 + 1152) + 1152 + 2 * 1152 + (1152 * 768 + 768)
    assert paper.params["decoder"] == pytest.approx(decoder, rel=0.001)
    assert paper.params["encoder"] == pytest.approx(86e6, rel=0.05)
    assert paper.params["perceptual"] == 14_714_688, "VGG16's convolutions"


def test_listed_layers_cost_what_as_many_deepest_ones_do() -> None:
    listed, numbered = (
        measure(override(PRESETS["paper"], field, value), Runtime(), IMAGES)
        for field, value in (("fusion.layers", "2,7,12"), ("fusion.num_layers", 3))
    )
    assert listed == numbered != measure(PRESETS["paper"], Runtime(), IMAGES)


def test_arithmetic_of_the_papers_setting(paper: Needs) -> None:
    one, two, three = (phase.flops_per_image for phase in paper.phases)
    encoder = vit_flops(12, C, 4 * C, N + 5) + 2 * N * 3 * 14**2 * C
    assert one["encoder"] == pytest.approx(encoder, rel=0.05)
    forward = vit_flops(28, 1152, 4096, N + 1) + 2 * N * (768 * 1152 + 1152 * 768)
    assert one["decoder"] == pytest.approx(3 * forward, rel=0.05), "twice as much back as forth"
    assert two["decoder"] == pytest.approx(2 * forward, rel=0.05), "frozen: back to the latent alone"
    assert three["decoder"] == one["decoder"]
    fusion = 2 * N * L * (2 * C * H + C * L)
    assert three["fusion"] == pytest.approx(fusion, rel=0.05)
    # Back to the experts' weights and hidden layer, not to the encoder's features.
    assert two["fusion"] == pytest.approx(2 * N * L * (2 * C * H * 2.5 + 2 * C * L), rel=0.05)
    assert one["fusion"] == 0
    convolutions = [(64, 3, 256), (64, 64, 256), (128, 64, 128), (128, 128, 128), (256, 128, 64)]
    convolutions += 2 * [(256, 256, 64)] + [(512, 256, 32)] + 2 * [(512, 512, 32)] + 3 * [(512, 512, 16)]
    vgg = sum(2 * 9 * a * b * side**2 for a, b, side in convolutions)
    assert one["perceptual"] == pytest.approx(3 * vgg, rel=0.05), "original, reconstruction, and back"


def test_steps_memory_and_hours(paper: Needs) -> None:
    phases = {phase.name: phase for phase in paper.phases}
    assert phases["phase1"].steps == 100 * (IMAGES // 256) == phases["phase2"].steps
    assert phases["phase3"].steps == 20 * (IMAGES // 256)
    assert phases["phase2"].optimiser_bytes == pytest.approx(16 * 56_779_788 + 12 * paper.params["discriminator heads"])
    block = 256 * 257 * (34 - 16 + 4 * 4096 / 1152) * 1152
    assert phases["phase1"].activation_bytes == pytest.approx(28 * block, rel=0.05)
    total = sum(phase.images * sum(phase.flops_per_image.values()) for phase in paper.phases)
    assert paper.hours(1e15) == pytest.approx(total / 3.6e18)


def test_what_saves_memory_and_time_shows() -> None:
    config = override(override(PRESETS["paper"], "images.views", 1), "objective.gan_weight", 0)
    config = dataclasses.replace(config, decoder=DECODERS["B"])
    plain, small = (measure(config, Runtime(micro_batch=size), 1024).phases[0] for size in (0, 32))
    assert plain.flops_per_image["encoder"] == 0 and plain.flops_per_image["gan"] == 0, "cached, and no discriminator"
    assert small.activation_bytes == pytest.approx(plain.activation_bytes / 8)
    again = measure(config, Runtime(activation_checkpointing=True), 1024).phases[0]
    assert again.activation_bytes < plain.activation_bytes / 4
    assert again.flops_per_image["decoder"] == pytest.approx(plain.flops_per_image["decoder"] * 4 / 3, rel=0.05)


def test_a_released_decoder_spares_phase_1() -> None:
    config = override(PRESETS["paper"], "decoder.weights", "/nowhere/decoder.pt")
    assert [phase.name for phase in measure(config, Runtime(), 1024).phases] == ["phase2", "phase3"]
    missing = {item.what: item for item in needed_weights(config)}
    assert set(missing) == {"encoder", "discriminator", "LPIPS", "Inception", "decoder"}
    assert not missing["decoder"].here and "nowhere" in missing["decoder"].where


def counted(work: Callable[[], object]) -> float:
    with FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops())


@pytest.mark.parametrize(("variant", "width"), [("energy", 8), ("hirae", 96), ("cross_attention", 128)])
def test_arithmetic_is_what_torch_counts(variant: str, width: int) -> None:
    config = override(override(PRESETS["quickstart"], "fusion.variant", variant), "fusion.expert_hidden_dim", width)
    shape = KNOWN_SHAPES[config.encoder.name]
    with torch.device("meta"):
        fusion = LayerFusion(config.fusion, shape.depth, nn.LayerNorm(shape.width, elementwise_affine=False))
        decoder = Decoder(config.decoder, shape.width, 4, config.images.size)
        layers = torch.zeros(1, shape.depth, 16, shape.width)
        latent = torch.zeros(1, 16, shape.width, requires_grad=True)
    phases = {phase.name: flops_per_image(config, shape, phase, False, False) for phase in config.phases}
    trains = counted(lambda: fusion(layers).latent.sum().backward())
    assert phases["phase2"]["fusion"] == pytest.approx(trains, rel=0.02)
    with torch.no_grad():
        assert phases["phase3"]["fusion"] == pytest.approx(counted(lambda: fusion(layers)), rel=0.02)
    learns = counted(lambda: decoder(latent.detach()).sum().backward())
    assert phases["phase3"]["decoder"] == pytest.approx(learns, rel=0.03)
    decoder.requires_grad_(False)
    assert phases["phase2"]["decoder"] == pytest.approx(counted(lambda: decoder(latent).sum().backward()), rel=0.02)


@pytest.mark.parametrize("trains", ["fusion,decoder", "decoder,encoder", "fusion,decoder,encoder"])
def test_arithmetic_of_parts_trained_together_is_what_torch_counts(trains: str) -> None:
    config = override(override(PRESETS["quickstart"], "phase2.trains", trains), "fusion.expert_hidden_dim", 64)
    # Sizes at which the attention's arithmetic, which torch's counter does not see on every device, is little.
    shape, side = KNOWN_SHAPES[config.encoder.name], config.encoder.input_size
    phase = config.phases[1]
    with torch.device("meta"):
        vit = build_vit(config.encoder.name, img_size=side)
        norm = nn.LayerNorm(shape.width, elementwise_affine=False)
        fusion = LayerFusion(config.fusion, shape.depth, norm).requires_grad_("fusion" in phase.trains)
        decoder = Decoder(config.decoder, shape.width, 4, config.images.size)
        image = torch.zeros(1, 3, side, side)

    def step() -> None:
        vit.requires_grad_("encoder" in phase.trains)
        blocks = vit.forward_intermediates(image, output_fmt="NLC", norm=False, intermediates_only=True)
        decoder(fusion(torch.stack(blocks, 1)).latent).sum().backward()

    found = flops_per_image(config, shape, phase, not config.trains_encoder, False)
    assert sum(found[part] for part in ("encoder", "fusion", "decoder")) == pytest.approx(counted(step), rel=0.05)
    params = measure(config, Runtime(), 64).params
    trained = next(each for each in measure(config, Runtime(), 64).phases if each.name == "phase2")
    assert trained.optimiser_bytes == 12 * sum(params[part] for part in phase.trains)


@pytest.mark.slow
def test_the_discriminator_s_arithmetic_is_what_torch_counts() -> None:
    config = override(PRESETS["paper"], "phase3.gan_start_steps", 0)
    critic = config.discriminator
    with torch.device("meta"):
        vit = build_vit(critic.name, img_size=critic.input_size).requires_grad_(False)
        network = DinoDiscriminator(vit, critic).eval()
        image = torch.zeros(1, 3, critic.input_size, critic.input_size)
    heads = counted(lambda: network(image).sum().backward())
    network.requires_grad_(False)
    with torch.no_grad():
        forward = counted(lambda: network(image))
    back = counted(lambda: network(image.requires_grad_()).sum().backward()) - forward
    features = counted_perceptual_and_last_weight(config)
    shape = KNOWN_SHAPES[config.encoder.name]
    seen = override(config, "discriminator.fakes", "seen")
    whole, without = (flops_per_image(each, shape, config.phases[2], True, False) for each in (config, seen))
    repainted = whole["gan"] - without["gan"]
    assert repainted == pytest.approx(without["fusion"] + without["decoder"] / 3, rel=0.02), "a forward pass"
    assert without["gan"] == pytest.approx(forward + 2 * back + 2 * heads + features, rel=0.02)


def counted_perceptual_and_last_weight(config: TrialConfig) -> float:
    """Back through VGG16 once more, and twice to the decoder's last weight."""
    with torch.device("meta"):
        vgg = torchvision.models.vgg16().features[:30].eval().requires_grad_(False)
        pixels = torch.zeros(1, 3, config.images.size, config.images.size)
    return counted(lambda: vgg(pixels)) + 2 * 2 * config.decoder.width * 3 * config.images.size**2


def test_the_perceptual_network_s_arithmetic_and_parameters_are_torch_s() -> None:
    with torch.device("meta"):
        effnet = timm.create_model(LITE0.network)
        stem = nn.Sequential(effnet.conv_stem, effnet.bn1, *list(effnet.blocks)[: STAGES[-1] + 1]).eval()
        pixels = torch.zeros(1, 3, 64, 64)
    assert counted(lambda: stem(pixels)) == PERCEPTUAL_FLOPS["effnet"] * 64**2
    assert sum(weights.numel() for weights in stem.parameters()) == PERCEPTUAL_PARAMS["effnet"]


@pytest.mark.parametrize(("second", "third"), [(3, 0), (3, 2), (0, 2)])
def test_a_trial_s_own_arithmetic_is_that_of_its_phases_whatever_the_machine(second: int, third: int) -> None:
    config = override(override(PRESETS["quickstart"], "phase2.epochs", second), "phase3.epochs", third)
    shape, images = EncoderShape(12, 384, 14), 1000
    per_image = {
        phase.name: sum(flops_per_image(config, shape, phase, online=False, recompute=False).values())
        for phase in config.phases[1:]
    }
    seen = {"phase2": second * (images // config.phase2.batch_size) * config.phase2.batch_size}
    seen["phase3"] = third * (images // config.phase3.batch_size) * config.phase3.batch_size
    assert config.objective.gan_weight == 0, "the discriminator is not heard in all steps"
    expected = sum(seen[phase] * per_image[phase] for phase in per_image)
    assert train_flops(config, shape, images, 1000) == pytest.approx(expected, rel=1e-12)
    without = seen["phase3"] * per_image["phase3"]
    assert train_flops(config, shape, images, 0) == pytest.approx(without), "nothing to train in phase 2"


@pytest.mark.parametrize("name", list(KNOWN_SHAPES))
def test_known_encoder_shapes_are_timms(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drorae.machine.needs.KNOWN_SHAPES", {})
    assert encoder_shape.__wrapped__(name) == KNOWN_SHAPES[name]


@pytest.mark.parametrize(
    ("name", "size", "prefix"),
    [
        ("vit_small_plus_patch16_dinov3", 256, 5),  # a gated MLP
        ("vit_base_patch16_siglip_256.v2_webli", 256, 0),
        ("vit_base_patch16_224.mae", 224, 1),
        ("vit_so400m_patch14_siglip_224", 224, 0),  # 3.7 times as wide
    ],
)
def test_an_encoder_s_arithmetic_is_what_torch_counts(name: str, size: int, prefix: int) -> None:
    config = override(override(PRESETS["paper"], "encoder.name", name), "encoder.input_size", size)
    shape = encoder_shape(name)
    assert shape is not None
    with torch.device("meta"):
        vit = build_vit(name, img_size=size)
        image = torch.zeros(1, 3, size, size)
    with torch.no_grad():
        found = counted(lambda: vit.forward_intermediates(image, intermediates_only=True))
    estimate = flops_per_image(config, shape, config.phases[0], True, False)["encoder"]
    assert vit.num_prefix_tokens == prefix and estimate == pytest.approx(found, rel=0.03)


@pytest.mark.parametrize(
    "name", ["vit_large_patch16_dinov3", "vit_base_patch16_siglip_256", "vit_so400m_patch14_siglip_224"]
)
def test_a_name_tells_the_sizes_of_an_encoder(name: str) -> None:
    built = encoder_shape(name)
    assert built is not None and guessed_shape(name) == pytest.approx(built, rel=1e-3)


def test_the_estimate_grows_with_what_it_is_about() -> None:
    shape = encoder_shape("vit_base_patch14_reg4_dinov2")
    assert shape == (12, 768, 14, 4)
    paper = rough_needs(PRESETS["paper"], Runtime(), shape)
    # 675 M weights in 28 blocks, 256 tokens, batches of 256: 2 x 3 floating-point operations each, and the rest.
    weights = 28 * (4 * 1152**2 + 2 * 1152 * 4096)
    assert 6 * weights * 256 * 256 < paper.step_flops < 12 * weights * 256 * 256
    assert paper.memory_bytes > 20 * weights
    half = rough_needs(override(PRESETS["paper"], "phase1.batch_size", 128), Runtime(), shape)
    assert half.memory_bytes == paper.memory_bytes, "phase 3 still takes as much"


def kept_numbers(run: Callable[[], object], others: list[torch.Tensor]) -> float:
    """float32 numbers that a forward pass keeps for the backward pass, beside these tensors."""
    known = {tensor.untyped_storage().data_ptr() for tensor in others}
    sizes: dict[int, int] = {}
    alive: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            sizes[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        run()
    return sum(sizes.values()) / 4


def test_what_the_perceptual_network_keeps_is_counted() -> None:
    network = PerceptualNetwork(timm.create_model("tf_efficientnet_lite0"), 64).eval().requires_grad_(False)
    images = torch.rand(4, 3, 64, 64, requires_grad=True)
    others = [*network.parameters(), *network.buffers(), images]
    found = kept_numbers(lambda: network.features(images), others)
    assert found / (4 * 64**2) == pytest.approx(PERCEPTUAL_NUMBERS["effnet"], rel=0.05)
    config = PRESETS["quickstart"]
    phase = measure(config, Runtime(micro_batch=8), 1024).phases[0]
    assert phase.perceptual_bytes == 8 * config.objective.perceptual_size**2 * PERCEPTUAL_NUMBERS["effnet"] * 4
    assert phase.memory_bytes >= phase.perceptual_bytes + phase.activation_bytes


@pytest.mark.parametrize("variant", ["energy", "softmax", "cross_attention", "hirae"])
def test_what_the_fusion_keeps_is_counted(variant: str) -> None:
    """Within 10% of experts that are wider than the encoder."""
    hidden = 512
    torch.manual_seed(0)
    fusion = LayerFusion(
        dataclasses.replace(PRESETS["quickstart"].fusion, variant=variant, expert_hidden_dim=hidden),  # type: ignore[arg-type]
        12, nn.LayerNorm(384, elementwise_affine=False),
    )  # fmt: skip
    layers = torch.randn(64, 12, 16, 384)
    found = kept_numbers(lambda: fusion.latent(layers), [*fusion.parameters(), layers]) / (64 * 16 * 12)
    of_width, of_hidden = FUSION_NUMBERS.get(variant, FUSION_NUMBERS["energy"])
    assert found == pytest.approx(of_width * 384 + of_hidden * hidden, rel=0.1)
