"""The perceptual distance behaves as one."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from photographs import photo
from torch import Tensor

from drorae.config import ObjectiveConfig
from drorae.losses.perceptual import PerceptualNetwork, load_perceptual, resize
from drorae.models.effnet import load_effnet
from drorae.models.wheels import LITE0


def blurred(images: Tensor, sigma: float) -> Tensor:
    offsets = torch.arange(-8, 9).float()
    kernel = torch.exp(-(offsets**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).expand(3, 1, 1, -1)
    wide = F.conv2d(F.pad(images, (8, 8, 0, 0), mode="reflect"), kernel, groups=3)
    return F.conv2d(F.pad(wide, (0, 0, 8, 8), mode="reflect"), kernel.transpose(2, 3), groups=3)


@pytest.fixture(scope="module")
def network() -> PerceptualNetwork:
    found = load_perceptual(ObjectiveConfig(perceptual_size=64))
    assert found is not None
    return found


@pytest.mark.parametrize(("height", "width", "size"), [(32, 32, 64), (50, 37, 24), (64, 64, 64)])
def test_resizing_by_products_is_torch_s_own(height: int, width: int, size: int) -> None:
    images = torch.rand(2, 3, height, width, dtype=torch.float64, requires_grad=True)
    expected = F.interpolate(images, size=(size, size), mode="bilinear", antialias=True)
    with torch.autocast("cpu", torch.bfloat16):
        found = resize(images, size)
    torch.testing.assert_close(found, expected)
    weights = torch.rand_like(expected)
    gradients = [torch.autograd.grad((value * weights).sum(), images)[0] for value in (found, expected)]
    torch.testing.assert_close(*gradients)
    assert resize(images.bfloat16(), size).dtype == torch.float32


def test_distance_is_lpips_with_unit_weights(network: PerceptualNetwork) -> None:
    """Against arXiv 1801.03924, Eq. 1, written out over the unmodified network's stages."""
    a, b = photo("astronaut", 64), photo("coffee", 64)
    model = load_effnet(LITE0)

    def stages(images: Tensor) -> list[Tensor]:
        found = model.forward_intermediates((images - 0.5) / 0.5, intermediates_only=True)
        return [f / f.norm(dim=1, keepdim=True) for f in found if isinstance(f, Tensor)]

    # timm's intermediates are the deepest output at strides 2, 4, 8, 16 and 32.
    expected = sum((f - g).square().sum(1).mean() for f, g in zip(stages(a)[:4], stages(b)[:4], strict=True))
    found = network.distance(network.features(a), network.features(b))
    torch.testing.assert_close(found, torch.as_tensor(expected), rtol=1e-4, atol=0)


def test_distance_grows_with_blur_and_is_zero_with_itself(network: PerceptualNetwork) -> None:
    images = torch.cat([photo("astronaut", 64), photo("chelsea", 64), photo("coffee", 64)])
    target = network.features(images)
    distances = [float(network.distance(network.features(blurred(images, s)), target)) for s in (0.5, 1.0, 2.0, 4.0)]
    assert network.distance(target, target) == 0
    assert 0 < distances[0] < distances[1] < distances[2] < distances[3]


def test_distance_is_a_mean_over_images(network: PerceptualNetwork) -> None:
    a = torch.cat([photo("astronaut", 64), photo("chelsea", 64)])
    b = blurred(a, 2.0)
    single = [network.distance(network.features(a[i : i + 1]), network.features(b[i : i + 1])) for i in (0, 1)]
    both = network.distance(network.features(a), network.features(b))
    torch.testing.assert_close(both, torch.stack(single).mean(), rtol=1e-4, atol=0)


def test_gradient_reaches_pixels_outside_the_range_too(network: PerceptualNetwork) -> None:
    target = network.features(photo("astronaut", 32))
    painted = (photo("coffee", 32) * 1.6 - 0.3).requires_grad_()
    assert painted.detach().min() < 0 and painted.detach().max() > 1
    network.distance(network.features(painted), target).backward()
    assert painted.grad is not None and torch.isfinite(painted.grad).all()
    outside = (painted.detach() < 0) | (painted.detach() > 1)
    assert (painted.grad[outside] != 0).float().mean() > 0.99
    assert all(p.grad is None for p in network.parameters())


def test_descending_the_distance_restores_the_photo(network: PerceptualNetwork) -> None:
    image = photo("chelsea", 64)
    target = network.features(image)
    painted = blurred(image, 3.0).requires_grad_()
    optimiser = torch.optim.Adam([painted], lr=0.01)
    losses = []
    for _ in range(15):
        optimiser.zero_grad()
        loss = network.distance(network.features(painted), target)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


def test_bf16_distances_are_close_and_gradients_point_the_same_way(network: PerceptualNetwork) -> None:
    """Within the rounding of bf16, which relu6's many layers make a fortieth of the features."""
    low = load_perceptual(ObjectiveConfig(perceptual_size=64, perceptual_precision="bf16"))
    assert low.fingerprint == f"{network.fingerprint}-bf16"
    a, b = photo("astronaut", 64).clone().requires_grad_(), photo("coffee", 64)
    exact, rounded = (each.distance(each.features(a), each.features(b)) for each in (network, low))
    torch.testing.assert_close(rounded, exact, rtol=0.01, atol=0)
    expected, found = (torch.autograd.grad(distance, a)[0] for distance in (exact, rounded))
    assert found.dtype == torch.float32
    assert F.cosine_similarity(found.flatten(), expected.flatten(), dim=0) > 0.9
    assert found.norm() / expected.norm() == pytest.approx(1, abs=0.1)
    for features, whole in zip(low.features(b), network.features(b), strict=True):
        assert features.dtype == torch.float32 and 0 < (features - whole).norm() < 0.05 * whole.norm()
        # Norms are float32: bf16's would be off by up to a 256th.
        torch.testing.assert_close(features.norm(dim=1), torch.ones_like(features[:, 0]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [32, 64, 100])
def test_packing_round_trip(size: int) -> None:
    network = load_perceptual(ObjectiveConfig(perceptual_size=size))
    assert network is not None
    images = photo("coffee", 48).expand(2, -1, -1, -1)
    target, packed = network.features(images), network.targets(images)
    assert packed.shape == (2, network.flat_size()) and packed.dtype == torch.float16
    unpacked = network.unpack(packed)
    assert [f.shape for f in unpacked] == [f.shape for f in target]
    for found, wanted in zip(unpacked, target, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-6)
    # The rounding moves a training loss by less than its fourth digit.
    other = network.features(photo("astronaut", 48).expand(2, -1, -1, -1))
    torch.testing.assert_close(network.distance(other, unpacked), network.distance(other, target), rtol=1e-4, atol=0)


def test_features_have_unit_norm_and_the_fingerprint_tells_sizes_apart(network: PerceptualNetwork) -> None:
    for features in network.features(photo("astronaut", 64)):
        torch.testing.assert_close(features.norm(dim=1), torch.ones_like(features[:, 0]), rtol=0, atol=1e-4)
    other = load_perceptual(ObjectiveConfig(perceptual_size=32))
    assert other is not None and other.fingerprint != network.fingerprint
