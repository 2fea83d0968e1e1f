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
from drorae.models.effnet import MEAN, STD, load_effnet
from drorae.models.encoder import Encoder, load_encoder
from drorae.models.folding import streamline
from drorae.models.weights import read_state, state_fingerprint
from drorae.models.wheels import LITE0, LITE2, Wheel
from drorae.runtime.products import at_least_float32, marked, products_in
from drorae.storage.remote import expanded

INCEPTION_REMEDY = (
    "download weights-inception-2015-12-05-6726825d.pth of torch-fidelity's release v0.2.0 "
    "and set evaluation.inception_path to it"
)

SPATIAL_CHANNELS = 7
"""Of the layer of sFID: the first, which makes 7 x 17 x 17 = 2023 features, about as many as FID has (Nash et al. 2021,
arXiv 2103.03841; openai/guided-diffusion, evaluations/evaluator.py)."""


class FeatureExtractor(nn.Module):
    """A frozen network as a function from uint8 images to features.

    Attributes:
        name: what the config calls it.
        metric: name of the Frechet distance in its features.
        kernel_metric: name of the kernel distance in its features.
        generated_metric: name of generated images' Frechet distance in its features.
        precision_metric: name of their precision.
        recall_metric: name of their recall.
        score_metric: name of their Inception Score by its classes; empty: it has none.
        spatial_metric: name of their Frechet distance in features that keep their places; empty: it has none.
        dim: width of the features.
        input_size: side in pixels it works at; it resizes by itself.
        fingerprint: network, weights, input size and precision.
    """

    name: str
    metric: str
    kernel_metric: str
    generated_metric: str
    precision_metric: str
    recall_metric: str
    score_metric: str = ""
    spatial_metric: str = ""
    dim: int
    input_size: int
    fingerprint: str

    @property
    def device(self) -> torch.device:
        """Where its network is."""
        return next((tensor.device for tensor in self.state_dict().values()), torch.device("cpu"))

    def forward(self, images: Tensor) -> Tensor:
        """uint8 [B, 3, H, W] -> float [B, dim]."""
        raise NotImplementedError

    def logits(self, features: Tensor) -> Tensor:
        """Its classes' logits [B, K] out of its features [B, dim]; only of one with a `score_metric`."""
        raise NotImplementedError

    def with_places(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Its features [B, dim] and those that keep their places [B, dim']; only of one with a `spatial_metric`."""
        raise NotImplementedError

    def is_of(self, encoder: Encoder) -> bool:
        """Whether its network is a tokenizer's encoder, to the last weight."""
        return False


class Dinov2Extractor(FeatureExtractor):
    """Mean over the patch tokens of the offline ViT-S/14's final-norm output (384 features)."""

    name, metric, kernel_metric = "dinov2", "rfd_dinov2", "kd_dinov2"
    generated_metric, precision_metric, recall_metric = "gfd_dinov2", "precision_dinov2", "recall_dinov2"

    def __init__(self, config: EvaluationConfig, cache_dir: str | Path) -> None:
        super().__init__()
        self.encoder = load_encoder(
            EncoderConfig(input_size=config.dinov2_size, norm_affine=True, precision=config.precision), cache_dir
        )
        self.dim, self.input_size = self.encoder.width, config.dinov2_size
        self.fingerprint = f"{self.encoder.fingerprint}-mean"

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """As `FeatureExtractor.forward`."""
        features: Tensor = self.encoder(as_images(images)).base
        return features.mean(1)

    def is_of(self, encoder: Encoder) -> bool:
        """As `FeatureExtractor.is_of`, at whatever input size."""
        ours, theirs = self.encoder.vit.state_dict(), encoder.vit.state_dict()
        same = ours.keys() == theirs.keys() and all(
            # Positions are resampled to the input's grid.
            name == "pos_embed" or torch.equal(value, theirs[name].to(value.device))
            for name, value in ours.items()
        )
        return bool(same)


CPU_IMAGES = 32
"""Images that go through EfficientNet-Lite at once on a CPU. Lite2 at 128 px on one thread takes 191 a second in 16s,
207 in 32s and 133 in 128s, when activations leave the cache; as timm has it, 118 in 32s."""


class EffnetExtractor(FeatureExtractor):
    """Pooled penultimate features of ImageNet's EfficientNet-Lite0 (1280)."""

    name, metric, kernel_metric, dim = "effnet", "rfd_effnet", "kd_effnet", 1280
    generated_metric, precision_metric, recall_metric = "gfd_effnet", "precision_effnet", "recall_effnet"
    score_metric = "is_effnet"
    wheel: Wheel = LITE0

    def __init__(self, config: EvaluationConfig, cache_dir: str | Path) -> None:
        super().__init__()
        self.network = load_effnet(self.wheel)
        streamline(self.network, in_place=True)
        self.network.to(memory_format=torch.channels_last)
        self.input_size = getattr(config, f"{self.name}_size")
        self.precision = config.precision
        self.fingerprint = marked(f"{self.wheel.fingerprint}-{self.input_size}px", config.precision)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """As `FeatureExtractor.forward`."""
        pieces = torch.split(images, CPU_IMAGES) if images.device.type == "cpu" else [images]
        return torch.cat([self._features(piece) for piece in pieces])

    @torch.no_grad()
    def logits(self, features: Tensor) -> Tensor:
        """As `FeatureExtractor.logits`, of ImageNet's 1000 classes."""
        found: Tensor = self.network.get_classifier()(features)
        return found

    def _features(self, images: Tensor) -> Tensor:
        pixels = as_images(images)
        if images.shape[-1] != self.input_size:
            pixels = F.interpolate(pixels, size=(self.input_size,) * 2, mode="bilinear", antialias=True)
        pixels = ((pixels - MEAN) / STD).contiguous(memory_format=torch.channels_last)
        with products_in(self.precision, images.device):
            features = self.network.forward_features(pixels)
        return self.network.forward_head(at_least_float32(features), pre_logits=True)


class Effnet2Extractor(EffnetExtractor):
    """The same of EfficientNet-Lite2 (1280), which no loss looks through."""

    name, metric, kernel_metric = "effnet2", "rfd_effnet2", "kd_effnet2"
    generated_metric, precision_metric, recall_metric = "gfd_effnet2", "precision_effnet2", "recall_effnet2"
    score_metric = "is_effnet2"
    wheel = LITE2


class InceptionExtractor(FeatureExtractor):
    """torch-fidelity's Inception of the FID paper, 2048 features of its last pooling."""

    name, metric, kernel_metric = "inception", "rfid_inception", "kid_inception"
    generated_metric, precision_metric, recall_metric = "gfid_inception", "precision_inception", "recall_inception"
    score_metric, spatial_metric = "is_inception", "sfid_inception"
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
        self.network.AvgPool.register_forward_pre_hook(lambda module, inputs: (at_least_float32(inputs[0]),))
        self.precision = config.precision
        network = f"inception-v3-compat-{state_fingerprint(self.network.state_dict())}"
        self.fingerprint = marked(network, config.precision)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """As `FeatureExtractor.forward`."""
        with products_in(self.precision, images.device):
            features: Tensor = self.network(images)[0]
        return features

    @torch.no_grad()
    def logits(self, features: Tensor) -> Tensor:
        """As `FeatureExtractor.logits`: of its 1008 classes, without the bias, as torch-fidelity and ADM score."""
        return features.mm(self.network.fc.weight.T)

    @torch.no_grad()
    def with_places(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """As `FeatureExtractor.with_places`: [B, 2023], row by row, in ADM's order, channels innermost.

        `mixed_6/conv` of the published graph, whose blocks are numbered from `mixed` (Mixed_5b) on: the 1x1 branch of
        Mixed_6d, after its ReLU, 17 x 17.
        """
        seen: list[Tensor] = []
        hook = self.network.Mixed_6d.branch1x1.register_forward_hook(lambda *call: seen.append(call[2]))
        try:
            features = self(images)
        finally:
            hook.remove()
        return features, at_least_float32(seen[0])[:, :SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1)


EXTRACTORS: dict[str, Callable[[EvaluationConfig, str | Path], FeatureExtractor]] = {
    kind.name: kind for kind in (InceptionExtractor, Effnet2Extractor, Dinov2Extractor, EffnetExtractor)
}
"""Made of a config and the cache's folder, by name."""


def load_extractor(
    name: str, config: EvaluationConfig, cache_dir: str | Path, device: torch.device | str
) -> FeatureExtractor:
    """Loads a feature extractor, frozen, onto a device.

    Args:
        name: of one (`EXTRACTORS`).
        config: input sizes, and where weights lie.
        cache_dir: the cache, which keeps converted weights.
        device: where it works.

    Raises:
        UserError: another name, or weights that cannot be had.
    """
    if name not in EXTRACTORS:
        raise UserError(f"evaluation.extractors: {name!r} is not known; choose from {', '.join(EXTRACTORS)}")
    return EXTRACTORS[name](config, cache_dir).eval().requires_grad_(False).to(device)
