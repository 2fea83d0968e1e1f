"""Named feature extractors for the Frechet distance. A metric carries the name of the one it was measured in."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drorae.config import EncoderConfig, EvaluationConfig
from drorae.data.features import as_images
from drorae.errors import UserError, brief
from drorae.models.effnet import MEAN, NAME, SHA256, STD, load_effnet
from drorae.models.encoder import load_encoder
from drorae.models.weights import read_state, state_fingerprint

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
        return self.encoder(as_images(images)).base.mean(1)


class EffnetExtractor(FeatureExtractor):
    """Pooled penultimate features of ImageNet's EfficientNet-Lite0 (1280)."""

    name, metric, kernel_metric, dim = "effnet", "rfd_effnet", "kd_effnet", 1280

    def __init__(self, config: EvaluationConfig) -> None:
        super().__init__()
        self.network = load_effnet().to(memory_format=torch.channels_last)
        self.input_size = config.effnet_size
        self.fingerprint = f"{NAME}-{SHA256[:12]}-{config.effnet_size}px"

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        pixels = as_images(images)
        if images.shape[-1] != self.input_size:
            pixels = F.interpolate(pixels, size=(self.input_size,) * 2, mode="bilinear", antialias=True)
        pixels = ((pixels - MEAN) / STD).contiguous(memory_format=torch.channels_last)
        network = self.network
        return network.forward_head(network.forward_features(pixels), pre_logits=True)


class InceptionExtractor(FeatureExtractor):
    """torch-fidelity's Inception of the FID paper, 2048 features of its last pooling."""

    name, metric, kernel_metric = "inception", "rfid_inception", "kid_inception"
    dim, input_size = 2048, 299

    def __init__(self, config: EvaluationConfig) -> None:
        super().__init__()
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        except ImportError:
            raise UserError(
                "evaluation.extractors: inception needs torch-fidelity; pip install torch-fidelity"
            ) from None
        path = config.inception_path
        if path and not Path(path).is_file():
            raise UserError(f"evaluation.inception_path: no file {path}; {INCEPTION_REMEDY}")
        if path:
            # torch-fidelity unpickles the file without restriction, so it must be one of plain tensors.
            read_state(path)
        try:
            self.network = FeatureExtractorInceptionV3(
                "inception-v3-compat", ["2048"], feature_extractor_weights_path=path or None
            )
        except Exception as error:
            reason = brief(error, 120)
            source = path or "torch-fidelity's download"
            raise UserError(f"inception weights from {source} did not load ({reason}); {INCEPTION_REMEDY}") from None
        self.fingerprint = f"inception-v3-compat-{state_fingerprint(self.network.state_dict())}"

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)[0]


def load_extractor(
    name: str, config: EvaluationConfig, cache_dir: str | Path, device: torch.device | str
) -> FeatureExtractor:
    """The extractor `inception`, `dinov2` or `effnet`, frozen, on a device.

    Raises:
        UserError: another name, or weights that cannot be had.
    """
    extractor: FeatureExtractor
    if name == "dinov2":
        extractor = Dinov2Extractor(config, cache_dir)
    elif name == "effnet":
        extractor = EffnetExtractor(config)
    elif name == "inception":
        extractor = InceptionExtractor(config)
    else:
        raise UserError(f"evaluation.extractors: {name!r} is not known; choose from inception, dinov2, effnet")
    return extractor.eval().requires_grad_(False).to(device)
