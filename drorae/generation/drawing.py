"""Drawing latents: which images, of which classes, how many steps, under which guidance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from drorae.errors import UserError
from drorae.generation.guidance import UNGUIDED, Guidance, Network, lead
from drorae.generation.sampler import Method, initial_noise, integrate, time_grid
from drorae.generation.transport import time_shift


@dataclass(frozen=True)
class Drawing:
    """How images are drawn: image i is a function of this, of the generator and of i.

    Where `count` cuts the last batch short, its images are those of a full one up to the last bits of floats.

    Raises:
        UserError: numbers that draw nothing.
    """

    count: int = 64
    classes: tuple[int, ...] = ()
    """Image i is of class i mod their number among these; empty: of no class."""
    steps: int = 50
    method: Method = "euler"
    guidance: Guidance = UNGUIDED
    seed: int = 0
    batch_size: int = 64
    """Images drawn at once; batches begin at its multiples, so that the same ones are always drawn together."""

    def __post_init__(self) -> None:
        for name, value in (("n", self.count), ("steps", self.steps), ("batch-size", self.batch_size)):
            if value < 1:
                raise UserError(f"--{name} {value}: expected 1 or more")

    def batches(self) -> list[range]:
        """Returns the numbers of the images, batch by batch."""
        return [
            range(start, min(start + self.batch_size, self.count)) for start in range(0, self.count, self.batch_size)
        ]

    def labels(self, images: Sequence[int]) -> Tensor | None:
        """Returns the classes of some images, int64 [B]; None where they are of none."""
        if not self.classes:
            return None
        return torch.tensor([self.classes[image % len(self.classes)] for image in images])


def check_drawing(drawing: Drawing, good: Network, bad: Network | None, classes: int) -> None:
    """Checks that a generator that was told so many classes can draw so.

    Raises:
        UserError: a class that it does not know, or a guidance that it was not trained for.
    """
    for label in drawing.classes:
        if not 0 <= label < classes:
            known = f"0 to {classes - 1}" if classes else "none, as it was trained without"
            raise UserError(f"--classes {label}: the generator knows {known}")
    lead(drawing.guidance, good, bad, drawing.labels([0]))


@torch.no_grad()
def draw_latents(
    drawing: Drawing,
    images: Sequence[int],
    shape: Sequence[int],
    good: Network,
    bad: Network | None,
    device: torch.device,
) -> Tensor:
    """Draws the normalised latents [B, C, S, S] of some images, float32 on the device.

    Args:
        drawing: how.
        images: their numbers.
        shape: of a latent.
        good: the generator.
        bad: the worse one of AutoGuidance; None for any other guidance.
        device: where both are.
    """
    labels = drawing.labels(images)
    field = lead(drawing.guidance, good, bad, None if labels is None else labels.to(device))
    noise = initial_noise(images, shape, drawing.seed).to(device)
    times = time_grid(drawing.steps, time_shift(good.config, noise[0].numel()))
    return integrate(field, noise, times, drawing.method)
