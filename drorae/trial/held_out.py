"""A few validation images, measured and painted while a phase trains: how a run that takes days gets on."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from torch import Tensor

from drorae.config import EvaluationConfig, Phase
from drorae.data.features import Features
from drorae.diagnostics.latents import painted_batches
from drorae.diagnostics.picture import write_picture
from drorae.errors import Notice, one_line
from drorae.metrics.evaluate import evaluate
from drorae.models.tokenizer import Tokenizer
from drorae.runtime import out_of_memory
from drorae.training.rows import HELD_OUT, HELD_OUT_IMAGES
from drorae.trial.folder import HELD_OUT_PICTURE

PAINTED = 8
"""Images that a picture shows: the first of those that are measured."""


@dataclass(frozen=True)
class HeldOut:
    """Measures a tokenizer on validation images, the same ones whatever trial, phase and step.

    Called with a tokenizer, its phase, a step and whether to paint; returns the image-wise means of `evaluate` and
    `images`, how many were measured, under names such as `held_out.psnr`. No distance between sets of features is among
    them: of a few hundred images it says more of their number than of the tokenizer.
    """

    features: Features
    """Of the validation images."""
    count: int
    """Images to be measured; all of them where there are fewer."""
    settings: EvaluationConfig
    directory: Path
    """Gets a picture a phase, of the step that was painted last."""

    @property
    def items(self) -> np.ndarray:
        """Which images: drawn once and for all, in their order."""
        total = len(self.features)
        return np.sort(np.random.default_rng(0).permutation(total)[: self.count])

    def __call__(self, tokenizer: Tokenizer, phase: Phase, step: int, painting: bool) -> dict[str, float]:
        """Measures after a step and, with `painting`, leaves a picture; a disk that does not take it is a `Notice`."""
        size = min(self.settings.batch_size, len(self.items))
        where = f"{phase.name}, held-out images after step {step}"
        measure = partial(self._measure, tokenizer, phase.fused)
        (means, painted, originals), _ = out_of_memory.retry_smaller(
            size, measure, where, "up to rounding the same numbers"
        )
        if painting:
            path = self.directory / HELD_OUT_PICTURE.format(phase.name)
            try:
                write_picture(path, originals, painted, step)
            except OSError as error:
                warnings.warn(f"{path}: not written ({one_line(error)}); training goes on without it", Notice, 2)
        return means

    def _measure(self, tokenizer: Tokenizer, fused: bool, size: int) -> tuple[dict[str, float], np.ndarray, np.ndarray]:
        """The means by name; reconstructions and originals that a picture shows, uint8 [PAINTED or fewer, S, S, 3]."""
        batches = painted_batches(tokenizer, self.features, self.items, size, fused, self.settings.quantise)
        shown: list[np.ndarray] = []

        def noted(pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            if sum(map(len, shown[::2])) < PAINTED:
                shown.extend(images[:PAINTED].permute(0, 2, 3, 1).cpu().numpy() for images in pair)
            return pair

        metrics = evaluate(map(noted, batches), ()).metrics
        count = metrics.pop("eval_images")
        means = {f"{HELD_OUT}{name}": value for name, value in metrics.items()} | {HELD_OUT_IMAGES: count}
        painted, originals = (np.concatenate(shown[first::2])[:PAINTED] for first in (0, 1))
        return means, painted, originals
