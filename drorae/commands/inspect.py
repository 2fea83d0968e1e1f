"""`drorae inspect`: a look inside a finished trial."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from drorae.commands.options import Count, TrialOptions, option, require
from drorae.commands.terminal import print_table, say, working
from drorae.errors import UserError
from drorae.storage.remote import Remote, locate
from drorae.trial.folder import INSPECTION, INSPECTION_ARRAYS, SAMPLES


@dataclass(kw_only=True)
class Inspect(TrialOptions):
    """Look inside a finished trial: reconstructions, spectra, routing, and the latents before and after fusion.

    Example: drorae inspect runs/quickstart/trials/HASH --images 32
    """

    out: Annotated[Path | None, option("DIR", "default: RUN_DIR/inspection")] = None
    """Folder for the figures (png) and numbers (npz, json)."""
    images: Count = 16
    """So many of the first validation images."""

    def run(self) -> int:
        """Writes figures and numbers, and prints the numbers."""
        require(self.images >= 1, f"--images {self.images}", "1 or more")
        if self.out is None and isinstance(locate(self.run_dir), Remote):
            raise UserError(f"{locate(self.run_dir)}: expected a folder for the figures; name one with --out")
        directory = self.trial()
        runtime = self.runtime()
        from drorae.diagnostics.inspection import inspect
        from drorae.trial.reload import load_trained
        from sweeps.tracking.pictures import draw_pictures

        with working(f"looking at {self.images} images of {directory}") as note:
            workshop, tokenizer = load_trained(directory, runtime, report=note)
            quantise = workshop.config.evaluation.quantise
            baseline, fused = workshop.baseline_tokenizer(), workshop.config.phases[0].fused
            found = inspect(tokenizer, baseline, workshop.val, self.images, quantise, fused)
            out = self.out or directory / "inspection"
            found.save(out / SAMPLES, out / INSPECTION_ARRAYS, out / INSPECTION)
            drawn = draw_pictures(out)
        self.answer(found.numbers, lambda: _print(directory, found.numbers))
        names = [INSPECTION, INSPECTION_ARRAYS, SAMPLES, *(path.name for path in drawn)]
        say(f"{out}: {', '.join(names)}", keep=[out])
        return 0


def _print(directory: Path, numbers: Mapping[str, float]) -> None:
    """Prints one table of the whole and one of the blocks; names of a block's numbers end in the block's number."""
    whole: list[tuple[str, str]] = []
    blocks: dict[str, dict[str, str]] = {}
    for name, value in numbers.items():
        what, _, block = name.rpartition("_")
        if block.isdigit():
            blocks.setdefault(block, {})[what] = f"{value:.4g}"
        else:
            whole.append((name, f"{value:.5g}"))
    print_table(("number", "value"), whole, str(directory))
    if blocks:
        columns = list(next(iter(blocks.values())))
        rows = [(block, *(values[column] for column in columns)) for block, values in blocks.items()]
        print_table(("block", *columns), rows, drop=columns[:0:-1], whole="inspection.json and --json have all")
