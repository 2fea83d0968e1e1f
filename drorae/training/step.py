"""One training step: a batch in, the phase's module and its adversary moved a little."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from drorae.config import Phase, Runtime
from drorae.data.batch import Batch
from drorae.data.features import TrainingFeatures
from drorae.data.loading import Loader, Place, Request
from drorae.data.pixels import as_images, to_uint8
from drorae.errors import UserError
from drorae.losses.augment import Draws, draw
from drorae.losses.objective import Objective
from drorae.models.tokenizer import Tokenizer
from drorae.runtime import distributed, out_of_memory
from drorae.runtime.compiled import compiled
from drorae.training.adversary import Adversary
from drorae.training.checkpoint import WeightAverage
from drorae.training.phases import freeze_all_but
from drorae.training.schedule import epoch_order, learning_rate, step_seed

T = TypeVar("T")


class _Seen(NamedTuple):
    """What the tokenizer has seen of a piece, for the discriminator to learn from."""

    read: Tensor
    """Layers [b, n, N, C], or the crops of a tokenizer that encodes by itself, where the store left them."""
    painted: Tensor
    wanted: Tensor
    """Reconstructions and originals, float32 [b, 3, S, S] in [0, 1]."""


class Piece(NamedTuple):
    """Images of a batch that go through the networks at once."""

    chosen: slice
    """Which of the share's."""
    batch: Batch
    noise: Tensor | None

    @property
    def size(self) -> int:
        """Number of images."""
        return int(self.chosen.stop - self.chosen.start)


class Sums(dict[str, Tensor]):
    """Losses by name, added up over the pieces of a batch."""

    def add(self, losses: dict[str, Tensor], share: float) -> None:
        """Adds a piece's, of `share` of the batch."""
        for name, value in losses.items():
            self[name] = self.get(name, 0) + value.detach() * share


class Moves(Protocol):
    """What a step moves."""

    micro_batch: int
    parameters: list[nn.Parameter]
    average: WeightAverage | None

    @property
    def module(self) -> nn.Module:
        """What the parameters are of."""

    @property
    def optimiser(self) -> torch.optim.Optimizer:
        """Of the parameters."""


def update(moved: Moves, where: str, clip_norm: float) -> None:
    """Moves weights by the gradients that they have, the mean over the processes; 0 as `clip_norm`: as they are.

    Raises:
        UserError: memory ran out: the weights may have moved, and fewer images at once would be no help.
    """
    with out_of_memory.as_user_error(f"{where}, the optimiser"):
        distributed.mean_gradients(moved.parameters)
        if clip_norm:
            torch.nn.utils.clip_grad_norm_(moved.parameters, clip_norm)
        moved.optimiser.step()
        if moved.average is not None:
            moved.average.update(moved.module)


def my_share(batch_size: int, name: str) -> slice:
    """Returns which of a batch's images are this process's; all have as many.

    Raises:
        UserError: the processes cannot share the batch of the phase, or whatever trains, of that name.
    """
    processes = distributed.world_size()
    if batch_size % processes:
        raise UserError(
            f"{name}.batch_size: {batch_size} images cannot be shared by {processes} processes; "
            f"use a multiple of {processes}"
        )
    share = batch_size // processes
    return slice(distributed.rank() * share, (distributed.rank() + 1) * share)


def retry_smaller(moved: Moves, what: str, work: Callable[[int], T]) -> T:
    """Returns work(micro_batch), with a smaller one where memory runs out, in all processes where it does in one."""
    # An attempt makes this process's gradients alone, and their mean is taken (`update`, `Adversary.learn`) when all
    # processes have met after theirs: nothing is exchanged while a backward pass can still run out of memory, as
    # DDP's hooks would, so no process waits in a reduction for one that has begun anew.
    same = "the same batch, gradients added; --micro-batch begins with that"
    result, moved.micro_batch = out_of_memory.retry_smaller(moved.micro_batch, work, what, same, together=True)
    return result


class Stepper:
    """Takes the steps of one phase, each a function of the weights and its number alone; freezes all other parts.

    Attributes:
        steps_per_epoch, total: numbers of steps.
        optimiser, average: what a checkpoint keeps beside the module; `average` is None without an EMA.
        depth: of the encoder's layers, how many of the deepest are read.
        micro_batch: images that go through the networks at once. Where memory runs out it is halved, with a
            `Notice`, and the step taken again from its beginning: the same batch, the same gradients up to rounding.

    Raises:
        UserError: there are no images for one batch, or the batch cannot be shared by the processes.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        phase: Phase,
        features: TrainingFeatures,
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
        # What is random is drawn for the whole batch, so that sharing it out changes nothing.
        self._mine = my_share(self.batch_size, phase.name)
        self.share = self._mine.stop - self._mine.start
        self.micro_batch = min(runtime.micro_batch or self.share, self.share)
        self.total = settings.epochs * self.steps_per_epoch
        module = freeze_all_but(tokenizer, phase)
        self.parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self.optimiser = torch.optim.AdamW(
            self.parameters, lr=settings.lr, betas=settings.betas, weight_decay=settings.weight_decay, fused=True
        )
        self.average = WeightAverage(module, settings.ema_decay) if settings.ema_decay else None
        self.module = module
        self._networks = compiled(self._forward) if runtime.compile else self._forward
        # The fusion reads several of the deepest layers, decoders of z_base only the last, and a tokenizer that encodes
        # by itself none.
        self._reads = tokenizer.fusion.reads if phase.fused else 1
        self.depth = 0 if tokenizer.encodes else self._reads
        self._loader = Loader(features, self.depth, self._requests, runtime.loader_workers, device)
        self._noises = torch.Generator(device)
        self.autocast = torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bf16")

    @property
    def name(self) -> str:
        """The phase's."""
        return self.phase.name

    def rate(self, step: int) -> float:
        """Returns the learning rate of a step (counted from 0)."""
        return learning_rate(self.settings, step, self.total)

    def rest(self) -> None:
        """Leaves no part of the tokenizer in training."""
        self.tokenizer.requires_grad_(False).eval()

    def take(self, step: int) -> dict[str, Tensor]:
        """Takes step `step` (counted from 0); its losses by name, scalars, of this process's share of the batch.

        Raises:
            UserError: not even one image fits into memory.
        """
        self.begin(step)
        where = f"{self.phase.name}, step {step + 1}"
        # Drawn here, because an attempt that memory does not hold is made again.
        draws = self._draws() if self.adversary is not None and self.adversary.speaks(step) else None
        losses, seen = retry_smaller(self, where, lambda piece: self._gradients(step, piece, draws))
        self.move(where)
        if self.adversary is not None and self.adversary.learns(step):
            both = self._draws(), self._draws()
            losses |= retry_smaller(
                self, f"{where}, the discriminator", lambda piece: self._teach(step, seen, both, piece)
            )
        return losses

    def begin(self, step: int) -> None:
        """Sets the step's learning rate, and torch's generator."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate(step)
        torch.manual_seed(step_seed(self.seed, self.phase.number, step))

    def move(self, where: str) -> None:
        """Moves the weights by the gradients that they have, the mean over the processes.

        Raises:
            UserError: memory ran out: the weights may have moved, and fewer images at once would be no help.
        """
        update(self, where, self.settings.clip_norm)

    @contextlib.contextmanager
    def at_rest(self) -> Iterator[Tokenizer]:
        """Yields the tokenizer as the phase would hand it on now: with the average's weights, and not in training.

        Afterwards all is as it was, to the bit, and so is torch's generator.
        """
        modes = [(module, module.training) for module in self.tokenizer.modules()]
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), torch.no_grad():
            if self.average is not None:
                self.average.exchange(self.module)
            try:
                yield self.tokenizer.eval()
            finally:
                for module, training in modes:
                    module.training = training
                if self.average is not None:
                    self.average.exchange(self.module)

    def close(self) -> None:
        """Ends what reads ahead."""
        self._loader.close()

    def _requests(self, place: Place) -> Iterator[Request]:
        """What this process reads from a place on, to the end of the phase."""
        step, first, size = place
        ordered, order = -1, np.empty(0, np.int64)
        for at in range(step, self.total):
            epoch, position = divmod(at, self.steps_per_epoch)
            if epoch != ordered:
                # Once an epoch: a permutation of a million images takes as long as a step.
                ordered, order = epoch, epoch_order(self.seed, self.phase.number, epoch, len(self.features))
            items = order[position * self.batch_size : (position + 1) * self.batch_size][self._mine]
            for start in range(first if at == step else 0, self.share, size):
                yield Request(Place(at, start, size), items[start : start + size], epoch)

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

    def pieces(self, step: int, piece: int) -> Iterator[Piece]:
        """This process's share of a step's batch, `piece` images at a time."""
        noise = self._noise(step)
        for start in range(0, self.share, piece):
            chosen = slice(start, min(start + piece, self.share))
            batch = self._loader.take(Place(step, start, piece))
            yield Piece(chosen, batch, None if noise is None else noise[chosen])

    def read(self, batch: Batch) -> Tensor:
        """What the tokenizer reads of a batch: the encoder's layers, or the crops where it encodes by itself."""
        return batch.pixels if self.tokenizer.encodes else batch.layers

    def on_device(self, read: Tensor) -> Tensor:
        """What was read, where the networks are; a GPU goes on meanwhile where it is pinned."""
        return read.to(self.device, non_blocking=True)

    def _through(self, read: Tensor, noise: Tensor | None = None, offset: Tensor | None = None) -> Tensor:
        """What was read, [B, ...], through the phase's networks -> images [B, 3, S, S].

        `noise` [B, N, C] is added to the latent, `offset` to the decoder's last weight.
        """
        with self.autocast:
            return self._networks(self.on_device(read), noise, offset)

    def _forward(self, seen: Tensor, noise: Tensor | None, offset: Tensor | None) -> Tensor:
        layers = self.tokenizer.encoder(as_images(seen), self._reads).layers if self.tokenizer.encodes else seen
        latent = self.tokenizer.latent(layers, self.phase.fused)
        return self.tokenizer.decode(latent if noise is None else latent + noise, offset)

    def _paint(self, piece: Piece, offset: Tensor | None = None) -> Tensor:
        """A piece's reconstructions."""
        return self._through(self.read(piece.batch), piece.noise, offset)

    def losses(self, piece: Piece, painted: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        """The objective's terms of each of several reconstructions of a piece."""
        targets = None if piece.batch.targets is None else self.on_device(piece.batch.targets)
        return self.objective.of_each(painted, self.on_device(piece.batch.pixels), targets)

    def _wanted(self, piece: Piece) -> Tensor:
        return as_images(self.on_device(piece.batch.pixels))

    def _gradients(self, step: int, piece: int, draws: Draws | None) -> tuple[dict[str, Tensor], list[_Seen]]:
        """The gradients of a step's loss, `piece` images at once; moves no weight.

        With `draws`, the loss has its adversarial term.
        """
        self.optimiser.zero_grad(set_to_none=True)
        if draws is not None:
            return self._opposed_gradients(step, piece, draws)
        sums, seen = Sums(), []
        for part in self.pieces(step, piece):
            painted = self._paint(part)
            (losses,) = self.losses(part, (painted,))
            sums.add(losses, part.size / self.share)
            torch.autograd.backward(losses["loss"] * (part.size / self.share))
            if self.adversary is not None and self.adversary.learns(step):
                seen.append(_Seen(self.read(part.batch), painted.detach().float(), self._wanted(part)))
        return sums, seen

    def _opposed_gradients(self, step: int, piece: int, draws: Draws) -> tuple[dict[str, Tensor], list[_Seen]]:
        """The same with an adversarial term.

        Its weight is a ratio of gradients of the whole batch. So both losses' gradients are first taken back to the
        images; from there their sum goes further once the weight is known, for which all but a single piece are
        painted again.
        """
        assert self.adversary is not None
        offset = torch.zeros_like(self.tokenizer.decoder.head.weight, requires_grad=True)
        sums, seen = Sums(), []
        pulls: list[tuple[Piece, Tensor, Tensor]] = []
        heads = [torch.zeros_like(offset), torch.zeros_like(offset)]
        alone = piece >= self.share
        for part in self.pieces(step, piece):
            painted = self._paint(part, offset)
            (losses,) = self.losses(part, (painted,))
            with self.autocast:
                losses["gan"] = self.adversary.term(painted, draws.part(part.chosen))
            sums.add(losses, part.size / self.share)
            found = [
                torch.autograd.grad(losses[name] * (part.size / self.share), (offset, painted), retain_graph=True)
                for name in ("loss", "gan")
            ]
            for head, (gradient, _) in zip(heads, found, strict=True):
                head += gradient
            pulls.append((part, found[0][1], found[1][1]))
            seen.append(_Seen(self.read(part.batch), painted.detach().float(), self._wanted(part)))
        # The weight's gradients are the mean over the processes.
        out_of_memory.meet()
        sums["gan_weight"] = weight = self.adversary.weight(*heads)
        for part, reconstruction, adversarial in pulls:
            painted = painted if alone else self._paint(part)
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
        with self.autocast:
            return self.adversary.learn(step, self.total, fakes, reals, draws)

    @torch.no_grad()
    def _repainted(self, read: list[Tensor]) -> list[Tensor]:
        """Reconstructions by the weights of now, as a user gets them: without noise and dropout, in 8 bits."""
        self.module.eval()
        try:
            painted = [self._through(part) for part in read]
        finally:
            self.module.train()
        return [as_images(to_uint8(part.float())) for part in painted]
