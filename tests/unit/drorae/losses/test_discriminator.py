"""The discriminator: its heads, their norms, and the transformer that they read."""

from __future__ import annotations

import dataclasses
import functools
import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file
from small_discriminator import CPU, TINY, images

from drorae.config import DiscriminatorConfig
from drorae.errors import UserError
from drorae.losses.discriminator import DinoDiscriminator, load_discriminator
from drorae.models.backbones import load_weights


def test_the_discriminator_has_five_heads_and_its_transformer_is_not_its_own() -> None:
    network = load_discriminator(TINY, CPU, seed=0)
    assert network.eval()(2 * images(2) - 1).shape == (2, 5 * 16)
    assert network.depths == [11, 2, 5, 8, 11], "the last block and RAE's key depths of a 12-block ViT"
    width = 192
    # Weight, bias and affine norm of two convolutions of width 1 and 9, and the last to one channel.
    head = (width * width + 3 * width) + (9 * width * width + 3 * width) + (width + 1)
    assert sum(p.numel() for p in network.parameters()) == 5 * head
    assert all(name.startswith("heads.") for name in network.state_dict())
    again = load_discriminator(TINY, CPU, seed=0)
    assert torch.equal(network(images(1)), again.eval()(images(1)))


def test_spectral_norms_bound_every_convolution() -> None:
    network = load_discriminator(TINY, CPU, seed=0).train()
    for _ in range(30):
        network(images(1))
    for module in network.eval().modules():
        if isinstance(module, torch.nn.Conv1d):
            assert float(torch.linalg.matrix_norm(module.weight.detach().flatten(1), ord=2)) == pytest.approx(
                1, abs=0.05
            )


def test_missing_weights_name_the_remedy(tmp_path: Path) -> None:
    missing = dataclasses.replace(TINY, weights="file", path=str(tmp_path / "none.pth"))
    with pytest.raises(UserError, match="none.pth"):
        load_discriminator(missing, CPU, seed=0)
    with pytest.raises(UserError, match="discriminator"):
        load_discriminator(dataclasses.replace(TINY, name="no_such_vit"), CPU, seed=0)


def test_weights_from_a_file_are_those_of_the_file(tmp_path: Path) -> None:
    import timm

    torch.manual_seed(1)
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=0)
    path = tmp_path / "dino.pth"
    torch.save(vit.state_dict(), path)
    network = load_discriminator(dataclasses.replace(TINY, weights="file", path=str(path)), CPU, seed=0)
    assert torch.equal(network.vit.blocks[3].mlp.fc1.weight, vit.blocks[3].mlp.fc1.weight)


@pytest.mark.parametrize("source", ["file", "hub"])
@pytest.mark.parametrize("name", ["vit", "dinov2 with registers", "siglip2"])
def test_weights_of_another_size_are_resampled_as_transformers_does(
    name: str, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DINO's transformers are its ViTModel: bicubic without antialiasing; with register tokens, with it."""
    transformers_vits = pytest.importorskip("transformers_vits")
    family = transformers_vits.FAMILIES[name]
    model = transformers_vits.randomise(family.model())
    path, size = tmp_path / "weights.safetensors", family.sizes[0]
    create: Any = functools.partial(timm.create_model, depth=transformers_vits.DEPTH)
    monkeypatch.setattr(timm, "create_model", create)
    transformers_vits.save_official(family, model, path)
    config = DiscriminatorConfig(name=family.name, weights="file", path=str(path), input_size=size)
    if source == "hub":
        config = dataclasses.replace(config, weights="hub", path="")

        def download(*arguments: Any, pretrained: bool = False, **options: Any) -> Any:
            vit = create(*arguments, **options)
            if pretrained:
                load_weights(vit, load_file(path))
            return vit

        monkeypatch.setattr(timm, "create_model", download)
    network = load_discriminator(config, CPU, seed=0)
    normalised = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    found: Any = network.vit.forward_intermediates(normalised, output_fmt="NLC", norm=False, intermediates_only=True)
    theirs = transformers_vits.block_outputs(family, model, normalised)
    assert transformers_vits.relative_error(torch.stack(found, dim=1), theirs) < 1e-5


def test_the_transformer_before_is_let_go_before_the_next_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    before = weakref.ref(load_discriminator(TINY, CPU, seed=0).vit)
    assert load_discriminator(TINY, CPU, seed=1).vit is before(), "one for all phases and trials"
    create, alive = timm.create_model, []

    def create_model(*arguments: Any, **options: Any) -> Any:
        gc.collect()
        alive.append(before() is not None)
        return create(*arguments, **options)

    monkeypatch.setattr(timm, "create_model", create_model)
    load_discriminator(dataclasses.replace(TINY, input_size=32), CPU, seed=0)
    assert alive == [False]


@pytest.mark.parametrize(
    ("name", "kernel", "millions"),
    [
        ("vit_small_patch8_224.dino", 9, 7.4),
        ("vit_base_patch16_224.dino", 9, 29.5),
        ("vit_base_patch16_224.dino", 7, 23.6),
    ],
)
def test_the_sizes_of_raes_recipes_and_the_one_that_the_paper_prints(name: str, kernel: int, millions: float) -> None:
    """The paper's Table 5 has a discriminator 768 wide of 24 M parameters: five heads on a ViT-B are that at 7."""
    config = DiscriminatorConfig(name=name, kernel=kernel)
    with torch.device("meta"):
        network = DinoDiscriminator(timm.create_model(name, num_classes=0), config)
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)


def test_two_power_iterations_a_step_are_those_of_two_steps() -> None:
    once, twice = (
        load_discriminator(dataclasses.replace(TINY, power_iterations=count), CPU, seed=0).train() for count in (1, 2)
    )
    twice.load_state_dict(once.state_dict())
    once(images(1)), once(images(1)), twice(images(1))
    for name, value in twice.named_buffers():
        assert torch.equal(value, dict(once.named_buffers())[name]), name
