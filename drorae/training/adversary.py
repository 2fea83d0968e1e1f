"""The discriminator of a phase: its say in the tokenizer's loss, and its own training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from drorae.config import DiscriminatorConfig, ObjectiveConfig, PhaseConfig, TrialConfig
from drorae.losses.adversarial import adaptive_weight, hinge_loss
from drorae.losses.augment import Draws, augment, draw
from drorae.losses.discriminator import load_discriminator
from drorae.runtime import distributed, out_of_memory
from drorae.training.schedule import learning_rate


class Adversary:
    """The discriminator of one phase, and when it has a say.

    A phase starts with fresh heads, or with an earlier phase's. They learn from step `disc_start_steps` on, and the
    tokenizer hears them from `gan_start_steps` on.

    Args:
        config: the discriminator.
        objective: weights of the adversarial term.
        settings: of the phase.
        device: where the networks are.
        seed: initialises fresh heads.
        heads: state of an earlier phase's, to go on with; None: fresh ones.
        compiling: send images through its transformer by torch.compile.

    Raises:
        UserError: the discriminator's weights cannot be had.
    """

    def __init__(
        self,
        config: DiscriminatorConfig,
        objective: ObjectiveConfig,
        settings: PhaseConfig,
        device: torch.device,
        seed: int,
        heads: Mapping[str, Tensor] | None = None,
        compiling: bool = False,
    ) -> None:
        self.config, self.objective, self.settings = config, objective, settings
        self.network = load_discriminator(config, device, seed)
        if heads is not None:
            self.network.load_state_dict(heads)
        if compiling:
            self.network.compile_transformer()
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(), lr=config.lr, betas=config.betas, weight_decay=config.weight_decay
        )

    def speaks(self, step: int) -> bool:
        """Whether the tokenizer's loss has an adversarial term at a step (counted from 0)."""
        return step >= self.settings.gan_start_steps

    def learns(self, step: int) -> bool:
        """Whether the heads are trained at a step (counted from 0)."""
        return step >= self.settings.disc_start_steps

    def term(self, painted: Tensor, draws: Draws | None = None) -> Tensor:
        """The adversarial loss -mean logit, of reconstructions [B, 3, S, S] that have a graph, nominally in [0, 1]."""
        self.network.eval().requires_grad_(False)
        logits: Tensor = self.network(self._augmented(painted, draws))
        return -logits.mean()

    def weight(self, reconstruction: Tensor, adversarial: Tensor) -> Tensor:
        """The whole weight of `term` in the loss; gradients as for `adaptive_weight`."""
        largest = self.objective.max_adaptive_weight
        return self.objective.gan_weight * adaptive_weight(reconstruction, adversarial, largest)

    def learn(
        self,
        step: int,
        total: int,
        painted: Sequence[Tensor],
        wanted: Sequence[Tensor],
        draws: tuple[Draws, Draws] | None = None,
    ) -> dict[str, Tensor]:
        """Step `step` of `total` of the heads: `disc_loss`. Equal up to rounding whatever the pieces.

        Args:
            step: counted from 0.
            total: steps of the phase.
            painted: reconstructions, in pieces [b, 3, S, S] in [0, 1].
            wanted: originals, in pieces of the same sizes.
            draws: augmentation of all originals and of all reconstructions; None: drawn now.
        """
        if not self.learns(step):
            return {}
        start = self.settings.disc_start_steps
        schedule = replace(self.settings, lr=self.config.lr, final_lr=self.config.final_lr)
        rate = learning_rate(schedule, step - start, total if self.config.decay == "phase" else total - start)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        count, (height, width) = sum(len(part) for part in wanted), wanted[0].shape[-2:]
        drawn = draws or tuple(draw(count, height, width, wanted[0].device) for _ in range(2))
        self.network.train().requires_grad_(True)
        self.optimiser.zero_grad(set_to_none=True)
        losses: list[Tensor] = []
        first = 0
        iterations = [(buffer, buffer.clone()) for buffer in self.network.buffers()]
        try:
            for fake, real in zip(painted, wanted, strict=True):
                chosen = slice(first, first + len(real))
                shown = zip((real, fake.detach().clamp(0, 1)), drawn, strict=True)
                pair = torch.cat([self._augmented(images, each.part(chosen)) for images, each in shown])
                logits = self.network(pair)
                # The power iterations of the spectral norms once a step; only this mode takes them.
                self.network.eval()
                loss = hinge_loss(logits[: len(real)], logits[len(real) :]) * (len(real) / count)
                torch.autograd.backward(loss)
                losses.append(loss.detach())
                first = chosen.stop
            out_of_memory.meet()
        except Exception:
            # Out of memory, mostly, here or in another process: the caller may take this step again.
            for buffer, before in iterations:
                buffer.copy_(before)
            raise
        with out_of_memory.as_user_error(f"step {step + 1}, the discriminator's optimiser"):
            # Each process has seen a part of the batch; with the mean of their gradients all heads stay equal.
            distributed.mean_gradients(self.network.parameters())
            self.optimiser.step()
        return {"disc_loss": torch.stack(losses).sum()}

    def _augmented(self, images: Tensor, draws: Draws | None) -> Tensor:
        """Images in [0, 1], augmented, in [-1, 1]."""
        return augment(2 * images - 1, draws, shift_first=self.config.augment == "shift_first")

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"heads": self.network.state_dict(), "optimiser": self.optimiser.state_dict()}

    def load_state(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        self.network.load_state_dict(state["heads"])
        self.optimiser.load_state_dict(state["optimiser"])


def make_adversary(
    config: TrialConfig,
    settings: PhaseConfig,
    device: torch.device,
    seed: int,
    heads: Mapping[str, Tensor] | None = None,
    compiling: bool = False,
) -> Adversary | None:
    """The adversary of one phase of a trial, on `heads` or fresh ones; None where there is no adversarial term."""
    if config.objective.gan_weight == 0:
        return None
    return Adversary(config.discriminator, config.objective, settings, device, seed, heads, compiling)
