"""`drorae probe`: how well a small diffusion transformer learns a finished trial's latents."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from drorae.commands.options import TrialOptions, Words, assignments, option
from drorae.commands.terminal import working
from drorae.config import load_config, override
from drorae.trial.folder import CONFIG

STEPS = 300
"""Training steps where neither the trial's config nor the command says how many."""


@dataclass(kw_only=True)
class Probe(TrialOptions):
    """Train a small latent diffusion transformer on a finished trial's latents and print its held-out loss.

    Example: drorae probe runs/quickstart/trials/HASH --set steps=1000 width=384
    """

    overrides: Annotated[Words, option("NAME=VALUE", "repeatable", "set")] = ()
    """Fields of the config's probe group to change: --set steps=1000 seed=1."""

    def run(self) -> int:
        """Prints the numbers; nothing is written to the trial's folder."""
        directory = self.trial()
        config = load_config(directory / CONFIG)
        if not config.probe.steps:
            config = replace(config, probe=replace(config.probe, steps=STEPS))
        for name, value in assignments("--set", self.overrides, ", such as steps=1000"):
            config = override(config, f"probe.{name.removeprefix('probe.')}", value)
        runtime = self.runtime()
        from drorae.diagnostics.probe import probe
        from drorae.trial.reload import load_trained

        with working(f"probing {directory}") as note, tempfile.TemporaryDirectory(prefix="drorae-") as checkpoints:
            workshop, tokenizer = load_trained(directory, runtime, config, note)
            size = config.evaluation.batch_size
            checkpoint = Path(checkpoints) / "probe"
            numbers = probe(tokenizer, workshop.train, workshop.val, config.probe, size, checkpoint, runtime, note)
        self.answer_metrics(numbers, directory)
        return 0
