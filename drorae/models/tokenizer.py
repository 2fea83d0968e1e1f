"""The visual tokenizer: encode, fuse, decode."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from drorae.config import TrialConfig
from drorae.models.decoder import Decoder
from drorae.models.encoder import Encoder
from drorae.models.fusion.registry import FusionOutput, LayerFusion
from drorae.runtime.products import at_least_float32


class Tokenizer(nn.Module):
    """An encoder, a fusion module and a decoder.

    Training reads a frozen encoder's features from the store, so `fuse` and `decode` start from the encoder's layers;
    `encode` starts from images.

    Attributes:
        encodes: whether the encoder is this tokenizer's own, trained or to be trained, so that only pixels are of use
            and never the features of the frozen one.
    """

    def __init__(self, encoder: Encoder, fusion: LayerFusion, decoder: Decoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.fusion = fusion
        self.decoder = decoder
        self.encodes = False

    def base(self, layers: Tensor) -> Tensor:
        """Layers [B, n, N, C], in any floating type -> z_base [B, N, C], the RAE latent."""
        last = layers[:, -1]
        base: Tensor = self.encoder.norm(at_least_float32(last))
        return base

    def fuse(self, layers: Tensor) -> FusionOutput:
        """Layers [B, n, N, C], raw -> the fused latent."""
        output: FusionOutput = self.fusion(layers)
        return output

    def latent(self, layers: Tensor, fused: bool = True) -> Tensor:
        """Layers [B, n, N, C], raw -> what the decoder reads [B, N, C]: the fusion's latent, or z_base."""
        return self.fusion.latent(layers) if fused else self.base(layers)

    def encode(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [0, 1] -> latent [B, N, C]."""
        return self.latent(self.encoder(images).layers)

    def decode(self, latent: Tensor, head_offset: Tensor | None = None) -> Tensor:
        """Latent [B, N, C] -> images [B, 3, S, S], nominally in [0, 1]; `head_offset` as in `Decoder.forward`."""
        images: Tensor = self.decoder(latent, head_offset)
        return images

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [0, 1] -> their reconstruction [B, 3, S, S]."""
        return self.decode(self.encode(images))


def build_tokenizer(config: TrialConfig, encoder: Encoder) -> Tokenizer:
    """A tokenizer with a freshly initialised fusion (`config.seed`) and decoder (`config.decoder.seed`).

    Where the trial trains the encoder, it gets a copy of it.
    """
    if config.trains_encoder:
        encoder = copy.deepcopy(encoder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.decoder.seed)
        normalisation = (encoder.mean, encoder.std)
        decoder = Decoder(config.decoder, encoder.width, encoder.grid, config.images.size, normalisation)
        torch.manual_seed(config.seed)
        fusion = LayerFusion(config.fusion, encoder.num_layers, encoder.norm)
    tokenizer = Tokenizer(encoder, fusion, decoder)
    tokenizer.encodes = config.trains_encoder
    return tokenizer
