"""The training objective: L1 + perceptual."""

from __future__ import annotations

from torch import Tensor, nn

from drorae.config import ObjectiveConfig
from drorae.features import as_images
from drorae.losses.perceptual import PerceptualNetwork


class Objective(nn.Module):
    """L = L1 + perceptual_weight * perceptual (arXiv 2605.10780, Eq. 6 without its adversarial term)."""

    def __init__(self, config: ObjectiveConfig, perceptual: PerceptualNetwork | None) -> None:
        super().__init__()
        self.weight = config.perceptual_weight
        self.perceptual = perceptual

    def forward(self, painted: Tensor, pixels: Tensor, targets: Tensor | None) -> dict[str, Tensor]:
        """Scalars `loss`, `l1` and, with a perceptual network, `perceptual`.

        Args:
            painted: float [B, 3, S, S], nominally in [0, 1].
            pixels: uint8 [B, 3, S, S], what should have been painted.
            targets: [B, D] the network's packed features of `pixels`; None: computed here.
        """
        wanted = as_images(pixels)
        l1 = (painted - wanted).abs().mean()
        if self.perceptual is None:
            return {"loss": l1, "l1": l1}
        goal = self.perceptual.features(wanted) if targets is None else self.perceptual.unpack(targets)
        perceptual = self.perceptual.distance(self.perceptual.features(painted), goal)
        return {"loss": l1 + self.weight * perceptual, "l1": l1, "perceptual": perceptual}
