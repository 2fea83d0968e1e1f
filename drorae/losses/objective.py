"""The training objective without its adversarial term: L1 + perceptual."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from drorae.config import ObjectiveConfig
from drorae.data.pixels import as_images
from drorae.losses.lpips import Lpips, load_lpips
from drorae.losses.perceptual import PerceptualNetwork, load_perceptual


class Objective(nn.Module):
    """L = L1 + perceptual_weight * perceptual (arXiv 2605.10780, Eq. 6; `Adversary` adds the third term)."""

    def __init__(self, config: ObjectiveConfig, perceptual: PerceptualNetwork | Lpips | None) -> None:
        super().__init__()
        self.weight = config.perceptual_weight
        self.perceptual = perceptual

    @property
    def fingerprint(self) -> str:
        """The perceptual network and its weights; `none` without one."""
        return "none" if self.perceptual is None else self.perceptual.fingerprint

    @property
    def cached(self) -> PerceptualNetwork | None:
        """The network whose targets are worth caching; LPIPS's at 256 px are 40 times the image."""
        return self.perceptual if isinstance(self.perceptual, PerceptualNetwork) else None

    def forward(self, painted: Tensor, pixels: Tensor, targets: Tensor | None) -> dict[str, Tensor]:
        """Scalars `loss`, `l1` and, with a perceptual network, `perceptual`.

        Args:
            painted: float [B, 3, S, S], nominally in [0, 1].
            pixels: uint8 [B, 3, S, S], what should have been painted.
            targets: [B, D] the cached network's packed features of `pixels`; None: computed here.
        """
        return self.of_each((painted,), pixels, targets)[0]

    def of_each(self, painted: Sequence[Tensor], pixels: Tensor, targets: Tensor | None) -> list[dict[str, Tensor]]:
        """The same for several reconstructions of one batch, which go through the perceptual network together."""
        wanted = as_images(pixels)
        found = []
        for each, perceptual in zip(painted, self._distances(painted, wanted, targets), strict=True):
            l1 = (each - wanted).abs().mean()
            if perceptual is None:
                found.append({"loss": l1, "l1": l1})
            else:
                found.append({"loss": l1 + self.weight * perceptual, "l1": l1, "perceptual": perceptual})
        return found

    def _distances(self, painted: Sequence[Tensor], wanted: Tensor, targets: Tensor | None) -> list[Tensor | None]:
        """The perceptual distance of each reconstruction; None without a network."""
        if self.perceptual is None:
            return [None] * len(painted)
        if isinstance(self.perceptual, Lpips):
            return [self.perceptual(each, wanted).mean() for each in painted]
        network = self.perceptual
        # Rounded as cached ones are, so that both ways give the same numbers.
        goal = network.unpack(network.targets(wanted) if targets is None else targets)
        stages = [torch.split(stage, len(wanted)) for stage in network.features(torch.cat(tuple(painted)))]
        return [network.distance(list(features), goal) for features in zip(*stages, strict=True)]


def load_objective(config: ObjectiveConfig) -> Objective:
    """The objective a config describes.

    Raises:
        UserError: the perceptual network's weights cannot be had, with how to get them.
    """
    if config.perceptual == "lpips_vgg":
        return Objective(
            config, load_lpips("vgg", config.lpips_path, "objective.lpips_path", config.perceptual_precision)
        )
    return Objective(config, load_perceptual(config) if config.perceptual == "effnet" else None)
