"""Named feature extractors for the Frechet distance. A metric carries the name of the one it was measured in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drorae.config import EncoderConfig, EvaluationConfig
from drorae.data.pixels import as_images
from drorae.errors import UserError, brief
from drorae.models.effnet import MEAN, NAME, SHA256, STD, load_effnet
from drorae.models.encoder import load_encoder
from drorae.models.weights import read_state, state_fingerprint
from drorae.storage.remote import expanded

INCEPTION_REMEDY = (
    "download weights-inception-2015-12-05-6726825d.pth of torch-fidelity's release v0.2.0 "
    "and set evaluation.inception_path to it"
)


class FeatureExtractor(nn.Module):
    """A frozen network as a function from uint8 images to features.

    Attributes:
        name: what the config calls it.
        metric: name of the Frechet distance in its features.
        kernel_metric: name of the kernel distance in its features.
        dim: width of the features.
        input_size: side in pixels it works at; it resizes by itself.
        fingerprint: network, weights and input size.
    """

    name: str
    metric: str
    kernel_metric: str
    dim: int
    input_size: int
    fingerprint: str

    def forward(self, images: Tensor) -> Tensor:
        """uint8 [B, 3, H, W] -> float [B, dim]."""
        raise NotImplementedError


class Dinov2Extractor(FeatureExtractor):
    """Mean over the patch tokens of the offline ViT-S/14's final-norm output (384 features)."""

    name, metric, kernel_metric = "dinov2", "rfd_dinov2", "kd_dinov2"

    def __init__(self, config: EvaluationConfig, cache_dir: str | Path) -> None:
        super().__init__()
        self.encoder = load_encoder(EncoderConfig(input_size=config.dinov2_size, norm_affine=True), cache_dir)
        self.dim, self.input_size = self.encoder.width, config.dinov2_size
        self.fingerprint = f"{self.encoder.fingerprint}-mean"

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """As `FeatureExtractor.forward`."""
        features: Tensor = self.encoder(as_images(images)).base
        return features.mean(1)


class EffnetExtractor(FeatureExtractor):
    """Pooled penultimate features of ImageNet's EfficientNet-Lite0 (1280)."""

    name, metric, kernel_metric, dim = "effnet", "rfd_effnet", "kd_effnet", 1280

    def __init__(self, config: EvaluationConfig, cache_dir: str | Path) -> None:
        super().__init__()
        self.network = load_effnet().to(memory_format=torch.channels_last)
        self.input_size = config.effnet_size
        self.fingerprint = f"{NAME}-{SHA256[:12]}-{config.effnet_size}px"

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """As `FeatureExtractor.forward`."""
        pixels = as_images(images)
        if images.shape[-1] != self.input_size:
            pixels = F.interpolate(pixels, size=(self.input_size,) * 2, mode="bilinear", antialias=True)
        pixels = ((pixels - MEAN) / STD).contiguous(memory_format=torch.channels_last)
        return self.network.forward_head(self.network.forward_features(pixels), pre_logits=True)


class InceptionExtractor(FeatureExtractor):
    """torch-fidelity's Inception of the FID paper, 2048 features of its last pooling."""

    name, metric, kernel_metric = "inception", "rfid_inception", "kid_inception"
    dim, input_size = 2048, 299

    def __init__(self, config: EvaluationConfig, cache_dir: str | Path) -> None:
        super().__init__()
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        except ImportError:
            remedy = "pip install torch-fidelity"
            raise UserError(f"evaluation.extractors: inception needs torch-fidelity; {remedy}") from None
        path = str(expanded(config.inception_path)) if config.inception_path else None
        if path and not Path(path).is_file():
            raise UserError(f"evaluation.inception_path: no file {path}; {INCEPTION_REMEDY}")
        if path:
            # torch-fidelity unpickles the file without restriction, so it must be one of plain tensors.
            read_state(path)
        try:
            self.network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], path)
        except Exception as error:
            reason, source = brief(error, 120), path or "torch-fidelity's download"
            raise UserError(f"inception weights from {source} did not load ({reason}); {INCEPTION_REMEDY}") from None
        self.fingerprint = f"inception-v3-compat-{state_fingerprint(self.network.state_dict())}"

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """As `FeatureExtractor.forward`."""
        features: Tensor = self.network(images)[0]
        return features


EXTRACTORS: dict[str, Callable[[EvaluationConfig, str | Path], FeatureExtractor]] = {
    kind.name: kind for kind in (InceptionExtractor, Dinov2Extractor, EffnetExtractor)
}
"""Made of a config and the cache's folder, by name."""


def load_extractor(
    name: str, config: EvaluationConfig, cache_dir: str | Path, device: torch.device | str
) -> FeatureExtractor:
    """Loads a feature extractor, frozen, onto a device.

    Args:
        name: `inception`, `dinov2` or `effnet`.
        config: input sizes, and where weights lie.
        cache_dir: the cache, which keeps converted weights.
        device: where it works.

    Raises:
        UserError: another name, or weights that cannot be had.
    """
    if name not in EXTRACTORS:
        raise UserError(f"evaluation.extractors: {name!r} is not known; choose from {', '.join(EXTRACTORS)}")
    return EXTRACTORS[name](config, cache_dir).eval().requires_grad_(False).to(device)
