"""Drawing latents: which images, of which classes or prompts, how many steps, under which guidance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from drorae.config import GeneratorConfig
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
    prompts: tuple[str, ...] = ()
    """Of a generator that is told texts: `per_prompt` images of the first, as many of the second, and again from the
    first after the last; empty: nothing is said."""
    per_prompt: int = 1

    def __post_init__(self) -> None:
        numbers = {"n-per-prompt": self.per_prompt, "n": self.count, "steps": self.steps, "batch-size": self.batch_size}
        for name, value in numbers.items():
            if value < 1:
                raise UserError(f"--{name} {value}: expected 1 or more")
        if self.classes and self.prompts:
            raise UserError("--classes: expected none with --prompts, as a generator is told one or the other")

    def batches(self) -> list[range]:
        """Returns the numbers of the images, batch by batch."""
        return [
            range(start, min(start + self.batch_size, self.count)) for start in range(0, self.count, self.batch_size)
        ]

    def labels(self, known: int) -> list[int]:
        """Returns the class of each image, drawn by a generator that knows so many; none where it is told none."""
        classes = self.classes or tuple(range(known))
        return [classes[image % len(classes)] for image in range(self.count)] if classes else []

    def given(self, images: Sequence[int], said: Tensor | None = None) -> Tensor | None:
        """Returns what is told of some images; None where that is nothing.

        Args:
            images: their numbers.
            said: the states of the prompts, [prompts, L, D].

        Returns:
            Classes, int64 [B], or states [B, L, D].
        """
        if self.classes:
            return torch.tensor([self.classes[image % len(self.classes)] for image in images])
        if said is None or not self.prompts:
            return None
        return said[[image // self.per_prompt % len(self.prompts) for image in images]]


def check_drawing(
    drawing: Drawing, good: Network, bad: Network | None, classes: int, said: Tensor | None = None
) -> None:
    """Checks that a generator that was told so many classes can draw so.

    Raises:
        UserError: a class that it does not know, or a guidance that it was not trained for.
    """
    for label in drawing.classes:
        if not 0 <= label < classes:
            known = f"0 to {classes - 1}" if classes else "none, as it was trained without"
            raise UserError(f"--classes {label}: the generator knows {known}")
    lead(drawing.guidance, good, bad, drawing.given([0], said))


def check_prompts(drawing: Drawing, config: GeneratorConfig) -> None:
    """Raises UserError where there are prompts for a generator that is not told texts."""
    if drawing.prompts and config.condition != "text":
        raise UserError(
            f"--prompts: the generator has generator.condition={config.condition}; train one with --set "
            "generator.condition=text generator.text_encoder=DIR"
        )


@torch.no_grad()
def draw_latents(
    drawing: Drawing,
    images: Sequence[int],
    shape: Sequence[int],
    good: Network,
    bad: Network | None,
    device: torch.device,
    said: Tensor | None = None,
) -> Tensor:
    """Draws the normalised latents [B, C, S, S] of some images, float32 on the device.

    Args:
        drawing: how.
        images: their numbers.
        shape: of a latent.
        good: the generator.
        bad: the worse one of AutoGuidance; None for any other guidance.
        device: where both are.
        said: the states of the drawing's prompts, [prompts, L, D]; None where there are none.
    """
    given = drawing.given(images, said)
    field = lead(drawing.guidance, good, bad, None if given is None else given.to(device))
    noise = initial_noise(images, shape, drawing.seed).to(device)
    times = time_grid(drawing.steps, time_shift(good.config, noise[0].numel()))
    return integrate(field, noise, times, drawing.method)
