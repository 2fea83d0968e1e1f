"""One training step: a batch in, the phase's module and its adversary moved a little."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from drorae.config import Phase, Runtime
from drorae.data.features import Batch, Features
from drorae.data.pixels import as_images, to_uint8
from drorae.errors import UserError
from drorae.losses.augment import Draws, draw
from drorae.losses.objective import Objective
from drorae.models.tokenizer import Tokenizer
from drorae.runtime import distributed, out_of_memory
from drorae.training.adversary import Adversary
from drorae.training.checkpoint import WeightAverage
from drorae.training.phases import trained
from drorae.training.schedule import epoch_order, learning_rate, step_seed

T = TypeVar("T")


class _Seen(NamedTuple):
    """What the tokenizer has seen of a piece, for the discriminator to learn from."""

    read: Tensor
    """Layers [b, n, N, C], or the crops of a tokenizer that encodes by itself, where the store left them."""
    painted: Tensor
    wanted: Tensor
    """Reconstructions and originals, float32 [b, 3, S, S] in [0, 1]."""


class Painter(nn.Module):
    """A phase's forward pass, up to images, as one module, because that is what several processes wrap."""

    def __init__(self, tokenizer: Tokenizer, phase: Phase) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.fused = phase.fused

    def forward(self, seen: Tensor, noise: Tensor | None, head_offset: Tensor | None) -> Tensor:
        """Layers [B, n, N, C], noise on the latent [B, N, C] -> images [B, 3, S, S].

        A tokenizer with an encoder of its own takes crops uint8 [B, 3, H, W] in place of layers.
        """
        layers = self.tokenizer.encoder(as_images(seen)).layers if self.tokenizer.encodes else seen
        latent = self.tokenizer.latent(layers, self.fused)
        return self.tokenizer.decode(latent if noise is None else latent + noise, head_offset)


class _Piece(NamedTuple):
    """Images of a batch that go through the networks at once."""

    chosen: slice
    """Which of the share's."""
    batch: Batch
    noise: Tensor | None
    last: bool

    @property
    def size(self) -> int:
        """Number of images."""
        return int(self.chosen.stop - self.chosen.start)


class _Sums(dict[str, Tensor]):
    """Losses by name, added up over the pieces of a batch."""

    def add(self, losses: dict[str, Tensor], share: float) -> None:
        """Adds a piece's, of `share` of the batch."""
        for name, value in losses.items():
            self[name] = self.get(name, 0) + value.detach() * share


class Stepper:
    """Takes the steps of one phase, each a function of the weights and its number alone.

    Attributes:
        steps_per_epoch, total: numbers of steps.
        optimiser, average: what a checkpoint keeps beside the module; `average` is None without an EMA.
        micro_batch: images that go through the networks at once. Where memory runs out it is halved, with a
            `Notice`, and the step taken again from its beginning: the same batch, the same gradients up to rounding.

    Raises:
        UserError: there are no images for one batch, or the batch cannot be shared by the processes.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        phase: Phase,
        features: Features,
        objective: Objective,
        adversary: Adversary | None,
        *,
        seed: int,
        device: torch.device,
        runtime: Runtime,
    ) -> None:
        self.tokenizer, self.phase, self.features = tokenizer, phase, features
        self.settings = settings = phase.settings
        self.objective, self.adversary, self.seed, self.device = objective, adversary, seed, device
        self.batch_size = min(settings.batch_size, len(features))
        self.steps_per_epoch = len(features) // self.batch_size if self.batch_size else 0
        if self.steps_per_epoch == 0:
            raise UserError("images: no training images; check images.path and images.train_images")
        processes = distributed.world_size()
        if self.batch_size % processes:
            raise UserError(
                f"{phase.name}.batch_size: {self.batch_size} images cannot be shared by {processes} processes; "
                f"use a multiple of {processes}"
            )
        self.share = self.batch_size // processes
        first = distributed.rank() * self.share
        # What is random is drawn for the whole batch, so that sharing it out changes nothing.
        self._mine = slice(first, first + self.share)
        self.micro_batch = min(runtime.micro_batch or self.share, self.share)
        self.total = settings.epochs * self.steps_per_epoch
        module = trained(tokenizer, phase)
        self.parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self.optimiser = torch.optim.AdamW(
            self.parameters, lr=settings.lr, betas=settings.betas, weight_decay=settings.weight_decay, foreach=True
        )
        self.average = WeightAverage(module, settings.ema_decay) if settings.ema_decay else None
        self.module = module
        self._alone = Painter(tokenizer, phase)
        # Of an encoder that is trained, some parameters have no say in its blocks' outputs, such as its own last norm.
        self._painter = distributed.parallel(self._alone, device, partly="encoder" in phase.trains)
        # The fusion reads several of the deepest layers, decoders of z_base only the last, and a tokenizer that encodes
        # by itself none.
        depth = tokenizer.fusion.reads if phase.fused else 1
        self._depth = 0 if tokenizer.encodes else depth
        self._noises = torch.Generator(device)
        self._autocast = torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bf16")
        self._order, self._ordered = np.empty(0, np.int64), -1

    def take(self, step: int) -> dict[str, Tensor]:
        """Takes step `step` (counted from 0); its losses by name, scalars, of this process's share of the batch.

        Raises:
            UserError: not even one image fits into memory, or memory ran out in one of several processes.
        """
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.settings, step, self.total)
        where = f"{self.phase.name}, step {step + 1}"
        torch.manual_seed(step_seed(self.seed, self.phase.number, step))
        # Drawn here, because an attempt that memory does not hold is made again.
        draws = self._draws() if self.adversary is not None and self.adversary.speaks(step) else None
        losses, seen = self._retry_smaller(where, lambda piece: self._gradients(step, piece, draws))
        # A failure from here on leaves moved weights, and fewer images at once would be no help.
        with out_of_memory.as_user_error(f"{where}, the optimiser"):
            if self.settings.clip_norm:
                torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.clip_norm)
            self.optimiser.step()
            if self.average is not None:
                self.average.update(self.module)
        if self.adversary is not None and self.adversary.learns(step):
            both = self._draws(), self._draws()
            losses |= self._retry_smaller(
                f"{where}, the discriminator", lambda piece: self._teach(step, seen, both, piece)
            )
        return losses

    def _retry_smaller(self, what: str, work: Callable[[int], T]) -> T:
        """work(micro_batch), with a smaller one where memory runs out."""
        if distributed.world_size() > 1:
            # The others already wait for this process's gradients and cannot be called back. It fails, and whoever
            # started them (Ray Train) ends them all.
            with out_of_memory.as_user_error(
                what, f"several processes cannot change --micro-batch {self.micro_batch} midway: lower it"
            ):
                return work(self.micro_batch)
        same = "the same batch, gradients added; --micro-batch begins with that"
        result, self.micro_batch = out_of_memory.retry_smaller(self.micro_batch, work, what, same)
        return result

    def _items(self, step: int) -> np.ndarray:
        """The batch's items [batch_size], in the order of its epoch."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if epoch != self._ordered:
            # Once an epoch: a permutation of a million images takes as long as a step.
            self._order = epoch_order(self.seed, self.phase.number, epoch, len(self.features))
            self._ordered = epoch
        return self._order[position * self.batch_size : (position + 1) * self.batch_size]

    def _noise(self, step: int) -> Tensor | None:
        """What is added to the latents of this process's share [share, N, C]."""
        if not self.settings.latent_noise:
            return None
        self._noises.manual_seed(step_seed(self.seed, self.phase.number, step))
        sigma = torch.rand(self.batch_size, 1, 1, generator=self._noises, device=self.device)
        shape = (self.batch_size, self.tokenizer.encoder.grid**2, self.tokenizer.encoder.width)
        normal = torch.randn(shape, generator=self._noises, device=self.device)
        return (sigma * self.settings.latent_noise * normal)[self._mine]

    def _draws(self) -> Draws:
        """The next augmentation of this process's share."""
        side = self.tokenizer.decoder.grid * self.tokenizer.decoder.patch
        return draw(self.batch_size, side, side, self.device).part(self._mine)

    def _pieces(self, step: int, piece: int) -> Iterator[_Piece]:
        """This process's share of a step's batch, `piece` images at a time."""
        items, noise = self._items(step)[self._mine], self._noise(step)
        for start in range(0, self.share, piece):
            chosen = slice(start, min(start + piece, self.share))
            batch = self.features.batch(items[chosen], step // self.steps_per_epoch, self._depth)
            yield _Piece(chosen, batch, None if noise is None else noise[chosen], chosen.stop == self.share)

    def _read(self, batch: Batch) -> Tensor:
        """What the tokenizer reads of a batch: the encoder's layers, or the crops where it encodes by itself."""
        return batch.pixels if self.tokenizer.encodes else batch.layers

    def _on_device(self, read: Tensor) -> Tensor:
        moved = read.to(self.device)
        return moved if self.tokenizer.encodes else moved.float()

    def _paint(self, piece: _Piece, offset: Tensor | None, exchanged: bool) -> Tensor:
        """A piece's reconstructions; with `exchanged`, their backward pass shares gradients with other processes."""
        seen = self._on_device(self._read(piece.batch))
        quiet = contextlib.nullcontext() if exchanged or distributed.world_size() == 1 else self._painter.no_sync()
        with quiet, self._autocast:
            painted: Tensor = self._painter(seen, piece.noise, offset)
            return painted

    def _losses(self, piece: _Piece, painted: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """The objective's terms of a piece, and its originals on the device."""
        targets = None if piece.batch.targets is None else piece.batch.targets.to(self.device)
        pixels = piece.batch.pixels.to(self.device)
        return self.objective(painted, pixels, targets), pixels

    def _gradients(self, step: int, piece: int, draws: Draws | None) -> tuple[dict[str, Tensor], list[_Seen]]:
        """The gradients of a step's loss, `piece` images at once; moves no weight.

        With `draws`, the loss has its adversarial term.
        """
        self.optimiser.zero_grad(set_to_none=True)
        if draws is not None:
            return self._opposed_gradients(step, piece, draws)
        sums, seen = _Sums(), []
        for part in self._pieces(step, piece):
            # Gradients are exchanged once a step, with the last piece.
            painted = self._paint(part, None, exchanged=part.last)
            losses, pixels = self._losses(part, painted)
            sums.add(losses, part.size / self.share)
            torch.autograd.backward(losses["loss"] * (part.size / self.share))
            if self.adversary is not None and self.adversary.learns(step):
                seen.append(_Seen(self._read(part.batch), painted.detach().float(), as_images(pixels)))
        return sums, seen

    def _opposed_gradients(self, step: int, piece: int, draws: Draws) -> tuple[dict[str, Tensor], list[_Seen]]:
        """The same with an adversarial term.

        Its weight is a ratio of gradients of the whole batch. So both losses' gradients are first taken back to the
        images; from there their sum goes further once the weight is known, for which all but a single piece are
        painted again.
        """
        assert self.adversary is not None
        offset = torch.zeros_like(self.tokenizer.decoder.head.weight, requires_grad=True)
        sums, seen = _Sums(), []
        pulls: list[tuple[_Piece, Tensor, Tensor]] = []
        heads = [torch.zeros_like(offset), torch.zeros_like(offset)]
        alone = piece >= self.share
        for part in self._pieces(step, piece):
            painted = self._paint(part, offset, exchanged=alone)
            losses, pixels = self._losses(part, painted)
            with self._autocast:
                losses["gan"] = self.adversary.term(painted, draws.part(part.chosen))
            sums.add(losses, part.size / self.share)
            found = [
                torch.autograd.grad(losses[name] * (part.size / self.share), (offset, painted), retain_graph=True)
                for name in ("loss", "gan")
            ]
            for head, (gradient, _) in zip(heads, found, strict=True):
                head += gradient
            pulls.append((part, found[0][1], found[1][1]))
            seen.append(_Seen(self._read(part.batch), painted.detach().float(), as_images(pixels)))
        sums["gan_weight"] = weight = self.adversary.weight(*heads)
        for part, reconstruction, adversarial in pulls:
            painted = painted if alone else self._paint(part, None, exchanged=part.last)
            torch.autograd.backward(painted, reconstruction + weight * adversarial)
        return sums, seen

    def _teach(self, step: int, seen: list[_Seen], draws: tuple[Draws, Draws], piece: int) -> dict[str, Tensor]:
        """The discriminator's own step, on pieces of at most `piece` images; `draws` for originals, reconstructions."""
        assert self.adversary is not None
        read, fakes, reals = (
            [part for whole in each for part in whole.split(piece)] for each in zip(*seen, strict=True)
        )
        if self.adversary.config.fakes == "repainted":
            fakes = self._repainted(read)
        with self._autocast:
            return self.adversary.learn(step, self.total, fakes, reals, draws)

    @torch.no_grad()
    def _repainted(self, read: list[Tensor]) -> list[Tensor]:
        """Reconstructions by the weights of now, as a user gets them: without noise and dropout, in 8 bits."""
        self.module.eval()
        try:
            with self._autocast:
                painted = [self._alone(self._on_device(part), None, None) for part in read]
        finally:
            self.module.train()
        return [as_images(to_uint8(part.float())) for part in painted]
