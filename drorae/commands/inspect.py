"""`drorae inspect`: a look inside a finished trial."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from drorae.commands.options import RuntimeOptions, finished_trial, print_json, results_console, say
from drorae.errors import UserError


@dataclass(kw_only=True)
class Inspect(RuntimeOptions):
    """Look inside a finished trial: reconstructions, spectra, routing, and the latents before and after fusion.

    Example: drorae inspect runs/quickstart/trials/HASH --images 32
    """

    run_dir: Positional[Annotated[Path, arg(metavar="RUN_DIR")]]
    """A trial's folder: the one with result.json."""
    out: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="(default: RUN_DIR/inspection)")] = None
    """Folder for the figures (png) and numbers (npz, json)."""
    images: Annotated[int, arg(metavar="N")] = 16
    """So many of the first validation images."""
    as_json: Annotated[bool, arg(name="json")] = False
    """Print the numbers as one JSON object."""

    def run(self) -> int:
        """Writes figures and numbers, and prints the numbers."""
        directory = finished_trial(self.run_dir)
        if self.images < 1:
            raise UserError(f"--images {self.images}: expected 1 or more")
        runtime = self.runtime()
        from drorae.inspection import inspect
        from drorae.trial import load_trained
        from sweeps.pictures import draw_pictures

        workshop, tokenizer = load_trained(directory, runtime)
        found = inspect(workshop, tokenizer, self.images)
        out = self.out or directory / "inspection"
        found.save(out)
        drawn = draw_pictures(out)
        if self.as_json:
            print_json(found.numbers)
        else:
            from rich.table import Table

            table = Table("number", "value", title=str(directory))
            for name, value in found.numbers.items():
                table.add_row(name, f"{value:.5g}")
            results_console().print(table)
        say(f"{out}: inspection.json, inspection.npz, samples.npz, {', '.join(path.name for path in drawn)}")
        return 0
