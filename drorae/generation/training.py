"""Training a generator on a tokenizer's latents: its steps, which `drorae.training.loop.PhaseRun` takes in its loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from drorae.config import GeneratorRun, GeneratorTraining, Runtime
from drorae.errors import UserError
from drorae.generation.transformer import DiTDH
from drorae.generation.transport import Draws, FlowLoss, draw, flow_loss
from drorae.training.checkpoint import WeightAverage
from drorae.training.schedule import epoch_order, step_seed
from drorae.training.step import Sums, my_share, retry_smaller, update

NAME = "generator"
"""Of its rows, beside the phases'."""
EARLY_SHARE = 14 / 80
"""Of the training, where the earlier average is taken that AutoGuidance has for its bad model: RAE's is at epoch 14
(arXiv 2510.11690), its good one at 80."""
NO_CAPTIONS = (
    "generator.condition=text needs captions, and the images have none; put NAME.txt beside every image, or use "
    "generator.condition=none"
)


def early_step(total: int) -> int:
    """Returns after how many of a training's steps the bad model of AutoGuidance is taken; 1 at least."""
    return max(1, round(EARLY_SHARE * total))


def rate_at(settings: GeneratorTraining, step: int, total: int) -> float:
    """Returns the learning rate of a step (counted from 0) of `total`: constant, then a line to that of the last."""
    if settings.schedule == "constant":
        return settings.lr
    constant = settings.constant_epochs * total // settings.epochs
    share = (step - constant) / max(total - 1 - constant, 1)
    return settings.lr + (settings.final_lr - settings.lr) * min(max(share, 0.0), 1.0)


@dataclass(frozen=True)
class TrainingLatents:
    """What a generator is trained on."""

    images: int
    take: Callable[[np.ndarray], Tensor]
    """take(items [B]): float32 [B, C, S, S] of image i % images, flipped where i // images is 1; on any device."""
    normalise: Callable[[Tensor], Tensor]
    """To mean 0 and deviation 1, element by element."""
    labels: np.ndarray | None
    """int64 [images]; None where the images have no classes."""
    texts: Callable[[np.ndarray], Tensor] | None = None
    """texts(images [B]): the states of their captions, float32 [B, L, D]; None where nothing is told of them."""


class Piece(NamedTuple):
    """Images of a batch that go through a generator at once."""

    items: np.ndarray
    given: Tensor | None
    """What the generator is told of them, [b, ...]."""
    null: Tensor | None
    """What stands for nothing said."""
    draws: Draws
    share: float
    """Of this process's images."""


def named(loss: FlowLoss) -> dict[str, Tensor]:
    """Returns losses by their names in a generator's rows."""
    if loss.early is None:
        return {"loss": loss.total}
    return {"loss": loss.total, "final_loss": loss.final, "early_loss": loss.early}


class GeneratorStepper:
    """Takes a generator's steps, each a function of the weights and its number alone.

    Every image comes once an epoch, as it is or flipped. What is random is drawn for the whole batch, so that pieces of
    it, or processes that share it, make the same training.

    Attributes: as those of `drorae.training.loop.TakesSteps`.

    Raises:
        UserError: there are no images, no labels or captions where the generator is told them, or the batch cannot be
            shared by the processes.
    """

    adversary = None
    name = NAME
    number = 5
    """Beside those of the phases, 1 to 3, and the probe's, so that no two have random numbers in common."""

    def __init__(
        self, module: DiTDH, run: GeneratorRun, latents: TrainingLatents, device: torch.device, runtime: Runtime
    ) -> None:
        self.run, self.latents, self.device, self.settings = run, latents, device, run.training
        self.batch_size = min(self.settings.batch_size, latents.images)
        if not self.batch_size:
            raise UserError("images: no training images; check images.path and images.train_images")
        if run.model.condition == "class" and latents.labels is None:
            raise UserError(
                "generator.condition=class needs labels, and the images have none; use generator.condition=none"
            )
        if run.model.condition == "text" and latents.texts is None:
            raise UserError(NO_CAPTIONS)
        self._mine = my_share(self.batch_size, self.name)
        self.share = self._mine.stop - self._mine.start
        self.micro_batch = min(runtime.micro_batch or self.share, self.share)
        self.steps_per_epoch = latents.images // self.batch_size
        self.total = self.settings.epochs * self.steps_per_epoch
        self.module = module.requires_grad_(True).train()
        self.parameters = list(module.parameters())
        settings = self.settings
        self.optimiser = torch.optim.AdamW(
            self.parameters, lr=settings.lr, betas=settings.betas, weight_decay=settings.weight_decay, fused=True
        )
        self.average = WeightAverage(module, settings.ema_decay) if settings.ema_decay else None
        self._chance = torch.Generator(device)
        self.autocast = torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bf16")

    def rate(self, step: int) -> float:
        """Returns the learning rate of a step (counted from 0)."""
        return rate_at(self.settings, step, self.total)

    def take(self, step: int) -> dict[str, Tensor]:
        """Takes a step (counted from 0); `loss`, and of a generator with a second output those of both.

        Raises:
            UserError: not even one image fits into memory.
        """
        self.begin(step)
        where = f"{self.name}, step {step + 1}"
        losses = retry_smaller(self, where, lambda piece: self._gradients(step, piece))
        self.move(where)
        return losses

    def begin(self, step: int) -> None:
        """Sets the step's learning rate."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate(step)

    def move(self, where: str) -> None:
        """Moves the weights by the gradients that they have, the mean over the processes.

        Raises:
            UserError: memory ran out: the weights may have moved, and fewer images at once would be no help.
        """
        update(self, where, self.settings.clip_norm)

    def items(self, step: int) -> np.ndarray:
        """Returns the items of a step's batch, of all processes together."""
        epoch, position = divmod(step, self.steps_per_epoch)
        count, seed = self.latents.images, self.run.seed
        order = epoch_order(seed, self.number, epoch, count)
        flipped = np.random.default_rng([seed, self.number, epoch, 1]).integers(0, 2, count)
        chosen = order[position * self.batch_size :][: self.batch_size]
        return np.asarray(chosen + count * flipped[chosen])

    def weights(self) -> dict[str, Tensor]:
        """Returns the state that would be handed on now: the average's weights, where there is one."""
        average = self.average.average if self.average is not None else {}
        return {name: average.get(name, value).detach().clone() for name, value in self.module.state_dict().items()}

    def rest(self) -> None:
        """Leaves the generator as it samples."""
        self.module.requires_grad_(False).eval()

    def close(self) -> None:
        """Nothing reads ahead."""

    def pieces(self, step: int, piece: int) -> Iterator[Piece]:
        """Yields this process's share of a step's batch, `piece` images at a time."""
        config, items = self.run.model, self.items(step)[self._mine]
        shape = self.latents.take(items[:1]).shape[1:]
        self._chance.manual_seed(step_seed(self.run.seed, self.number, step))
        draws = draw(config, (self.batch_size, *shape), config.condition != "none", self._chance).part(self._mine)
        for start in range(0, self.share, piece):
            part = items[start : start + piece]
            given = self._given(part % self.latents.images)
            null = None if given is None else self.module.condition.null(len(part))
            yield Piece(part, given, null, draws.part(slice(start, start + len(part))), len(part) / self.share)

    def clean(self, piece: Piece) -> Tensor:
        """Returns the normalised latents of a piece, float32 [b, C, S, S], where the networks are."""
        return self.latents.normalise(self.latents.take(piece.items).to(self.device))

    def _gradients(self, step: int, piece: int) -> dict[str, Tensor]:
        """The gradients of a step's loss, `piece` images at once; moves no weight."""
        self.optimiser.zero_grad(set_to_none=True)
        sums = Sums()
        for part in self.pieces(step, piece):
            with self.autocast:
                found = flow_loss(self.module, self.run.model, self.clean(part), part.given, part.null, part.draws)
            sums.add(named(found), part.share)
            torch.autograd.backward(found.total * part.share)
        return sums

    def _given(self, images: np.ndarray) -> Tensor | None:
        """What is told of images."""
        told, latents = self.run.model.condition, self.latents
        if told == "class" and latents.labels is not None:
            return torch.from_numpy(latents.labels[images]).to(self.device)
        if told == "text" and latents.texts is not None:
            return latents.texts(images).to(self.device)
        return None
