"""LPIPS: the perceptual distance of arXiv 1801.03924 with its learned channel weights."""

from __future__ import annotations

import torch
import torchvision
from torch import Tensor, nn

from drorae.errors import UserError, brief
from drorae.models.weights import packaged_file, read_state, state_fingerprint
from drorae.runtime.products import at_least_float32, marked, products_in

STAGES = {"vgg": (4, 9, 16, 23, 30), "alex": (2, 5, 8, 10, 12)}
"""Where the features of torchvision's network are cut: after relu1_2, 2_2, 3_3, 4_3, 5_3 of VGG16, and after each of
AlexNet's five (as published: richzhang/PerceptualSimilarity, pretrained_networks.py)."""
BACKBONES = {
    "vgg": torchvision.models.VGG16_Weights.IMAGENET1K_V1,
    "alex": torchvision.models.AlexNet_Weights.IMAGENET1K_V1,
}
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""Of images in [-1, 1] (the same code, lpips.py)."""
EPS = 1e-8
"""Under the root of a feature vector's norm, as torchmetrics has it; the original adds 1e-10 outside, where the
gradient of a vector of zeros is not finite."""


class Lpips(nn.Module):
    """LPIPS 0.1, frozen.

    Attributes:
        name: vgg or alex.
        fingerprint: network, weights and precision.
    """

    shift: Tensor
    scale: Tensor

    def __init__(
        self, name: str, layers: nn.Sequential, channel_weights: list[Tensor], precision: str = "fp32"
    ) -> None:
        super().__init__()
        starts = (0, *STAGES[name][:-1])
        self.stages = nn.ModuleList(layers[start:stop] for start, stop in zip(starts, STAGES[name], strict=True))
        self.register_buffer("shift", torch.tensor(SHIFT).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor(SCALE).view(1, 3, 1, 1))
        for index, weight in enumerate(channel_weights):
            self.register_buffer(f"weight{index}", weight)
        self.name, self.precision = name, precision
        self.fingerprint = marked(f"lpips-{name}-{state_fingerprint(self.state_dict())}", precision)
        self.eval().requires_grad_(False)

    def features(self, images: Tensor) -> list[Tensor]:
        """Float [B, 3, H, W], nominally in [0, 1], 32 px or more a side -> five [B, C_i, h_i, w_i] of unit norm."""
        x = (2 * images - 1 - self.shift) / self.scale
        found = []
        with products_in(self.precision, images.device):
            for stage in self.stages:
                x = stage(x)
                features = at_least_float32(x)
                found.append(features / (features.square().sum(1, keepdim=True) + EPS).sqrt())
        return found

    def distance(self, predicted: list[Tensor], target: list[Tensor]) -> Tensor:
        """Sum over stages of the mean over positions of w . (f - g)^2 (Eq. 1): features of both -> [B]."""
        parts = [
            torch.einsum("bchw,c->bhw", (f - g).square(), self.get_buffer(f"weight{index}")).mean((1, 2))
            for index, (f, g) in enumerate(zip(predicted, target, strict=True))
        ]
        return torch.stack(parts).sum(0)

    def forward(self, predicted: Tensor, target: Tensor | list[Tensor]) -> Tensor:
        """Images, and images or their features -> [B]. The gradient goes to either."""
        goal = self.features(target) if isinstance(target, Tensor) else target
        return self.distance(self.features(predicted), goal)


def load_lpips(
    net: str = "vgg", backbone_path: str = "", setting: str = "evaluation.lpips_path", precision: str = "fp32"
) -> Lpips:
    """LPIPS with torchvision's ImageNet VGG16 or AlexNet and the channel weights packaged with torchmetrics.

    Args:
        net: vgg or alex.
        backbone_path: torchvision's weights as .safetensors or weights-only .pth; the classifier's may be missing.
            Empty: torchvision's own file in torch's hub folder, downloaded where it is not there.
        setting: what the user sets the path by, for messages.
        precision: of its convolutions: fp32, tf32 or bf16 (`drorae.runtime.products`).

    Raises:
        UserError: another network, or weights that cannot be had.
    """
    if net not in STAGES:
        raise UserError(f"lpips: {net!r} is not known; choose from {', '.join(STAGES)}")
    weights = BACKBONES[net]
    file = weights.url.rsplit("/", 1)[-1]
    remedy = f"download {weights.url} and set {setting} to it, or put it at {torch.hub.get_dir()}/checkpoints/{file}"
    if backbone_path:
        state = read_state(backbone_path)
    else:
        try:
            state = dict(weights.get_state_dict(progress=False, check_hash=True, weights_only=True))
        except Exception as error:
            raise UserError(f"LPIPS needs ImageNet weights ({file}: {brief(error, 120)}); {remedy}") from None
    with torch.device("meta"):
        layers = (torchvision.models.vgg16() if net == "vgg" else torchvision.models.alexnet()).features
    prefix = "features."
    wanted = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    try:
        layers.load_state_dict(wanted, assign=True)
    except RuntimeError as error:
        source = backbone_path or file
        raise UserError(f"{source}: not torchvision's {file} ({brief(error, 160)}); {remedy}") from None
    heads = read_state(packaged_file("torchmetrics", f"functional/image/lpips_models/{net}.pth"))
    weights_of_channels = [heads[f"lin{i}.model.1.weight"].flatten() for i in range(len(STAGES[net]))]
    return Lpips(net, layers.float(), weights_of_channels, precision)
