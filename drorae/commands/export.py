"""`drorae export`: a trained tokenizer as a folder that a diffusion trainer loads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from drorae.commands.options import RuntimeOptions, finished_trial, print_json, say, show, working
from drorae.errors import UserError


@dataclass(kw_only=True)
class Export(RuntimeOptions):
    """Save a finished trial's tokenizer as safetensors and JSON, with the statistics of its latents.

    Example: drorae export runs/quickstart/trials/HASH my-tokenizer --embed-encoder
    """

    run_dir: Positional[Annotated[Path, arg(metavar="RUN_DIR")]]
    """A trial's folder: the one with result.json."""
    out_dir: Positional[Annotated[Path, arg(metavar="OUT_DIR")]]
    """Folder to write; PretrainedTokenizer.from_pretrained reads it."""
    embed_encoder: bool = False
    """Put the encoder's weights into the folder too, so that it needs nothing else."""
    statistics_images: Annotated[int, arg(metavar="N")] = 0
    """Training images that the latents' mean and deviation are taken over; 0: all."""
    check: bool = False
    """Load the folder again and compare its metrics with the trial's."""
    as_json: Annotated[bool, arg(name="json")] = False
    """Print what was written as one JSON object."""

    def run(self) -> int:
        """Writes the folder; 0, or 1 where --check finds other metrics."""
        if self.statistics_images < 0:
            raise UserError(f"--statistics-images {self.statistics_images}: expected 0 (all) or more")
        if self.out_dir.exists() and (not self.out_dir.is_dir() or any(self.out_dir.iterdir())):
            raise UserError(f"{self.out_dir}: is there already; choose another folder, or delete this one")
        directory = finished_trial(self.run_dir)
        runtime = self.runtime()
        from drorae.export.tokenizer import export_trial

        with working(f"exporting {directory}") as note:
            exported = export_trial(
                directory, self.out_dir, runtime, self.embed_encoder, self.statistics_images, self.check, note
            )
        wrong = {name: pair for name, pair in exported.metrics.items() if pair[0] != pair[1]}
        if self.as_json:
            print_json(
                {
                    "directory": str(self.out_dir),
                    "latent_shape": list(exported.latent_shape),
                    "latent_images": exported.latent_images,
                    "bytes": exported.bytes,
                    "metrics": {name: {"trial": pair[0], "loaded": pair[1]} for name, pair in exported.metrics.items()},
                }
            )
        else:
            shape = " x ".join(map(str, exported.latent_shape))
            size = f"{exported.bytes / 1e6:.1f} MB"
            show(f"{self.out_dir}: {size}, latents {shape} over {exported.latent_images} images", keep=[self.out_dir])
            if exported.metrics and not wrong:
                show(f"loaded again: all {len(exported.metrics)} metrics equal the trial's to the bit")
        for name, (trial, loaded) in wrong.items():
            say(f"error: loaded again, {name} is {loaded!r} where the trial measured {trial!r}")
        return 1 if wrong else 0
