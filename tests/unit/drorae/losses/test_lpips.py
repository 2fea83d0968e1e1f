"""LPIPS against torchmetrics' own network with the same weights, and how its weights are found."""

from __future__ import annotations

import urllib.error
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor

from drorae.errors import UserError
from drorae.losses.lpips import BACKBONES, Lpips, load_lpips
from drorae.models.weights import save_state


def untrained(net: str) -> dict[str, Tensor]:
    """Weights of torchvision's layout, without the classifier: VGG16's alone is half a gigabyte."""
    with torch.device("meta"):
        layers = (torchvision.models.vgg16() if net == "vgg" else torchvision.models.alexnet()).features
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, value in layers.state_dict().items():
        fan_in = value[0].numel() if value.ndim > 1 else 100
        state[f"features.{name}"] = torch.randn(value.shape, generator=generator) * (2 / fan_in) ** 0.5
    return state


def images(n: int, size: int, seed: int) -> Tensor:
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("backbones")
    paths = {net: folder / f"{net}.safetensors" for net in ("vgg", "alex")}
    for net, path in paths.items():
        save_state(path, untrained(net))
    return paths


@pytest.fixture(scope="module")
def vgg(files: dict[str, Path]) -> Lpips:
    return load_lpips("vgg", str(files["vgg"]))


@pytest.mark.parametrize("net", ["vgg", "alex"])
def test_equals_torchmetrics_with_the_same_weights(
    net: str, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = pytest.importorskip("torchmetrics.functional.image.lpips")
    state = {name.removeprefix("features."): value for name, value in untrained(net).items()}

    def same_weights(name: str, pretrained: bool = False) -> torch.nn.Sequential:
        with torch.device("meta"):
            layers = getattr(torchvision.models, name)().features
        layers.load_state_dict(state, assign=True)
        return layers

    # In place of torchvision's download; all else is theirs, the channel weights too.
    monkeypatch.setattr(module, "_get_tv_model_features", same_weights)
    a, b = images(3, 64, 0), images(3, 64, 1)
    expected = module.learned_perceptual_image_patch_similarity(a, b, net, reduction="none", normalize=True)
    found = load_lpips(net, str(files[net]))(a, b)
    assert found.shape == (3,) and found.min() > 0.01
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)


def test_the_target_s_features_can_be_kept(vgg: Lpips) -> None:
    a, b = images(2, 32, 0), images(2, 32, 1)
    torch.testing.assert_close(vgg(a, vgg.features(b)), vgg(a, b))
    assert vgg(a, a).abs().max() == 0
    torch.testing.assert_close(vgg(a[1:], b[1:]), vgg(a, b)[1:], rtol=1e-4, atol=0)


def test_gradient_reaches_the_first_argument_alone(vgg: Lpips) -> None:
    painted, target = images(2, 32, 0).requires_grad_(), images(2, 32, 1)
    vgg(painted, target).sum().backward()
    assert painted.grad is not None and torch.isfinite(painted.grad).all() and painted.grad.abs().min() > 0
    assert not any(parameter.requires_grad for parameter in vgg.parameters())
    # Flat black pictures have feature vectors of zeros somewhere; a loss must survive them.
    black = torch.zeros(1, 3, 32, 32, requires_grad=True)
    vgg(black, target[:1]).sum().backward()
    assert black.grad is not None and torch.isfinite(black.grad).all()


def test_bf16_distances_are_close_and_gradients_point_the_same_way(files: dict[str, Path], vgg: Lpips) -> None:
    low, tf32 = (load_lpips("vgg", str(files["vgg"]), precision=precision) for precision in ("bf16", "tf32"))
    assert [low.fingerprint, tf32.fingerprint] == [f"{vgg.fingerprint}-bf16", f"{vgg.fingerprint}-tf32"]
    a, b = images(2, 32, 0).requires_grad_(), images(2, 32, 1)
    exact, rounded = vgg(a, b), low(a, b)
    assert torch.equal(tf32(a, b), exact) and rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, exact, rtol=0.01, atol=0)
    expected, found = (torch.autograd.grad(distance.sum(), a)[0] for distance in (exact, rounded))
    assert torch.nn.functional.cosine_similarity(found.flatten(), expected.flatten(), dim=0) > 0.95
    assert found.norm() / expected.norm() == pytest.approx(1, abs=0.1)
    for features in low.features(b):
        # Norms and distances are float32's, whose unit is 2^-24; bf16's is 2^-9.
        torch.testing.assert_close(features.norm(dim=1), torch.ones_like(features[:, 0]), rtol=0, atol=1e-5)


def test_torchvision_s_own_file_is_found(
    files: dict[str, Path], vgg: Lpips, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    checkpoints = tmp_path / "checkpoints"
    checkpoints.mkdir()
    torch.save(untrained("vgg"), checkpoints / BACKBONES["vgg"].url.rsplit("/", 1)[-1])
    assert load_lpips("vgg").fingerprint == vgg.fingerprint
    assert load_lpips("alex", str(files["alex"])).fingerprint != vgg.fingerprint


def test_missing_and_wrong_weights_are_named(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*arguments: object, **options: object) -> None:
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    where = rf"{tmp_path}/checkpoints/vgg16-397923af.pth"
    with pytest.raises(UserError, match=rf"Name or service.*download https.*vgg16-397923af.pth and set here.*{where}"):
        load_lpips("vgg", setting="here")
    with pytest.raises(UserError, match="no such weights file"):
        load_lpips("vgg", str(tmp_path / "none.pth"))
    with pytest.raises(UserError, match="alex.safetensors: not torchvision's vgg16-397923af.pth"):
        load_lpips("vgg", str(files["alex"]))
    with pytest.raises(UserError, match="'squeeze' is not known; choose from vgg, alex"):
        load_lpips("squeeze")

    class Hostile:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "executed",))

    (tmp_path / "checkpoints").mkdir(exist_ok=True)
    torch.save({"features.0.weight": Hostile()}, tmp_path / "checkpoints" / "vgg16-397923af.pth")
    with pytest.raises(UserError, match="LPIPS needs ImageNet weights"):
        load_lpips("vgg")
    assert not (tmp_path / "executed").exists()
