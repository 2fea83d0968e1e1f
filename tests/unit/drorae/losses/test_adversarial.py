"""The adversarial term: its losses, its adaptive weight where the decoder is frozen, and when it begins."""

from __future__ import annotations

import dataclasses
import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from drorae.config import DecoderConfig, DiscriminatorConfig
from drorae.errors import UserError
from drorae.losses.adversarial import adaptive_weight, hinge_loss
from drorae.losses.augment import augment
from drorae.losses.discriminator import load_discriminator
from drorae.models.decoder import Decoder

CPU = torch.device("cpu")
TINY = DiscriminatorConfig(name="vit_tiny_patch16_224", weights="random", input_size=64, lr=2e-2, final_lr=1e-2)


def images(count: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, 64, 64, generator=torch.Generator().manual_seed(seed))


def test_hinge_loss_by_hand() -> None:
    real, fake = torch.tensor([2.0, 0.5]), torch.tensor([-3.0, 0.0, 1.0])
    assert hinge_loss(real, fake) == pytest.approx(((0 + 0.5) / 2 + (0 + 1 + 2) / 3) / 2)


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


def test_augmentation_is_differentiable_and_keeps_the_batch_apart() -> None:
    pictures = (2 * images(4) - 1).requires_grad_()
    torch.manual_seed(0)
    changed = augment(pictures)
    assert changed.shape == pictures.shape and not torch.equal(changed, pictures)
    (gradient,) = torch.autograd.grad(changed[1].sum(), pictures)
    assert gradient[1].abs().sum() > 0 and gradient[[0, 2, 3]].abs().sum() == 0
    torch.manual_seed(0)
    assert torch.equal(augment(pictures), changed)


def test_adaptive_weight_of_a_frozen_decoder_is_that_of_a_trained_one() -> None:
    """Phase 2 freezes the last weight; the ratio must be what autograd gives where it is not frozen."""
    torch.manual_seed(0)
    decoder = Decoder(DecoderConfig(32, 2, 2, 64), 16, 2, 16)
    latent = torch.randn(3, 4, 16, requires_grad=True)

    def losses(offset: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        painted = decoder(latent, offset)
        return painted.abs().mean(), (painted**3).mean()

    expected = [torch.autograd.grad(loss, decoder.head.weight, retain_graph=True)[0].norm() for loss in losses(None)]
    decoder.requires_grad_(False)
    before = decoder.head.weight.clone()
    offset = torch.zeros_like(decoder.head.weight, requires_grad=True)
    gradients = [torch.autograd.grad(loss, offset, retain_graph=True)[0] for loss in losses(offset)]
    weight = adaptive_weight(*gradients, 1e4)
    assert weight == pytest.approx(float(expected[0] / (expected[1] + 1e-6)), rel=1e-5)
    assert adaptive_weight(*gradients, 0.01) == pytest.approx(0.01)
    assert torch.equal(decoder.head.weight, before) and decoder.head.weight.grad is None
    assert not weight.requires_grad


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
