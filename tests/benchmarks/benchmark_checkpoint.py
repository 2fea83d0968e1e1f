"""A phase that writes checkpoints as often as their rule lets it against one that writes none, in turn.

    python tests/benchmarks/benchmark_checkpoint.py         # about twelve minutes on 2 cores

The rule: checkpoints take 2% of the time at most. With `checkpoint_seconds` as low as here it alone decides; by default
a checkpoint is written every 30 seconds, or as much more seldom as the rule asks. A checkpoint is copied while training
stands still, then hashed and written by a thread beside it. Compared are the seconds of the processor, of all threads
together: they count what the thread takes even where a core is free for it, and swing less than a clock on the wall
(target: at most 2% in all). Training itself has one thread, as a sweep's trials have where each has a core. The
quickstart's networks, and experts of two sizes.
"""

from __future__ import annotations

import dataclasses
import itertools
import tempfile
import time
from functools import partial
from pathlib import Path

import torch
from alternate import Comparison, alternate, arguments, record

from drorae.config import PRESETS, Runtime, TrialConfig, override
from drorae.models.tokenizer import build_tokenizer
from drorae.training.checkpoint import CHECKPOINT_SHARE
from drorae.training.loop import train_phase
from drorae.trial.shared import Workshop, open_workshop

SIZES = (64, 512)
"""Expert hidden dims."""
STEPS = 8
"""Of an epoch."""
OFTEN, NEVER = 1.0, 1e9
"""Seconds between checkpoints: the rule decides, and none at all."""


def quickstart(hidden: int, epochs: int) -> TrialConfig:
    """The preset on few images, with a decoder that is not trained."""
    config: TrialConfig = PRESETS["quickstart"]
    for name, value in (
        ("images.train_images", STEPS * config.phase2.batch_size),
        ("images.val_images", 16),
        ("phase1.epochs", 0),
        ("phase2.epochs", epochs),
        ("fusion.expert_hidden_dim", hidden),
    ):
        config = override(config, name, value)
    return config


class Trained:
    """Phase 2 of a trial, each time from its start, in a new folder."""

    def __init__(self, config: TrialConfig, workshop: Workshop, runtime: Runtime, folder: Path) -> None:
        self.config, self.workshop, self.runtime, self.folder = config, workshop, runtime, folder
        self.written: list[int] = []
        """Checkpoints of each run."""
        self._numbers = itertools.count()

    def __call__(self, checkpoint_seconds: float) -> float:
        """Trains it; returns the processor's seconds, until the last checkpoint is written."""
        tokenizer = build_tokenizer(self.config, self.workshop.encoder)
        place, seen = self.folder / f"{next(self._numbers)}.pt", set[int]()

        def count(row: object) -> None:
            if place.exists():
                seen.add(place.stat().st_mtime_ns)

        began = time.process_time()
        train_phase(
            tokenizer, self.config.phases[1], self.workshop.train, self.workshop.objective,
            seed=0, device=torch.device("cpu"), checkpoint=place,
            runtime=dataclasses.replace(self.runtime, checkpoint_seconds=checkpoint_seconds), report=count,
        )  # fmt: skip
        seconds = time.process_time() - began
        place.unlink(missing_ok=True)
        if checkpoint_seconds == OFTEN:
            self.written.append(len(seen))
        return seconds


def main() -> None:
    """Runs the comparisons and records them."""
    parser = arguments(__doc__)
    parser.add_argument("--epochs", type=int, default=16, help=f"of {STEPS} steps")
    options = parser.parse_args()
    found, said = list[Comparison](), list[str]()
    with tempfile.TemporaryDirectory() as name:
        runtime = Runtime(device="cpu", cache_dir=str(Path(name) / "cache"), log_steps=1, threads=1)
        for hidden in SIZES:
            config = quickstart(hidden, options.epochs)
            trained = Trained(config, open_workshop(config, runtime), runtime, Path(name))
            things = {"with checkpoints": partial(trained, OFTEN), "without": partial(trained, NEVER)}
            found.append(alternate(f"{STEPS * options.epochs} steps, h = {hidden}", things, rounds=options.rounds))
            overhead = 1 / found[-1].ratio("without") - 1
            met = "" if overhead <= CHECKPOINT_SHARE else f" (MISSED: at most {CHECKPOINT_SHARE:.0%})"
            written = sum(trained.written[1:]) / max(1, len(trained.written) - 1)
            said.append(f"h = {hidden}: {written:.1f} checkpoints a run take {overhead:.1%} of its time{met}")
    record("checkpoint", found, options.out, note=f"{'; '.join(said)}.")


if __name__ == "__main__":
    main()
