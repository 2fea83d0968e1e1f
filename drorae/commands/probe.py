"""`drorae probe`: how well a small diffusion transformer learns a finished trial's latents."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from drorae.commands.options import (
    Listed,
    RuntimeOptions,
    finished_trial,
    flat,
    print_metrics,
    say,
    working,
)
from drorae.config import load_config, override
from drorae.errors import UserError

STEPS = 300
"""Training steps where neither the trial's config nor the command says how many."""


@dataclass(kw_only=True)
class Probe(RuntimeOptions):
    """Train a small latent diffusion transformer on a finished trial's latents and print its held-out loss.

    Example: drorae probe runs/quickstart/trials/HASH --set steps=1000 width=384
    """

    run_dir: Positional[Annotated[Path, arg(metavar="RUN_DIR")]]
    """A trial's folder: the one with result.json."""
    overrides: Annotated[Listed, arg(name="set", metavar="NAME=VALUE", help_behavior_hint="(repeatable)")] = field(
        default_factory=list
    )
    """Fields of the config's probe group to change: --set steps=1000 seed=1."""
    as_json: Annotated[bool, arg(name="json")] = False
    """Print the numbers as one JSON object."""

    def run(self) -> int:
        """Prints the numbers; nothing is written to the trial's folder."""
        directory = finished_trial(self.run_dir)
        config = load_config(directory / "config.json")
        if not config.probe.steps:
            config = replace(config, probe=replace(config.probe, steps=STEPS))
        for text in flat(self.overrides):
            name, equals, value = text.partition("=")
            if not equals or not name:
                raise UserError(f"--set {text}: expected NAME=VALUE, such as steps=1000")
            config = override(config, f"probe.{name.removeprefix('probe.')}", value)
        runtime = self.runtime()
        from drorae.diagnostics.probe import probe
        from drorae.trial.reload import load_trained

        def show(row: dict[str, float | str]) -> None:
            if int(row["step"]) % 50 == 0:
                say(f"probe step {row['step']:.0f} of {config.probe.steps}  loss {row['loss']:.5g}")

        with working(f"probing {directory}") as note:
            workshop, tokenizer = load_trained(directory, runtime, config, note)
            size = config.evaluation.batch_size
            numbers = probe(tokenizer, workshop.train, workshop.val, config.probe, size, show)
        print_metrics(numbers, str(directory), self.as_json)
        return 0
