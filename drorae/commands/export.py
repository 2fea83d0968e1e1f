"""`drorae export`: a trained tokenizer as a folder that a diffusion trainer loads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional

from drorae.commands.options import Count, TrialOptions, option, require
from drorae.commands.terminal import say, show, working
from drorae.errors import UserError

if TYPE_CHECKING:
    from drorae.export.tokenizer import Exported


@dataclass(kw_only=True)
class Export(TrialOptions):
    """Save a finished trial's tokenizer as safetensors and JSON, with the statistics of its latents.

    Example: drorae export runs/quickstart/trials/HASH my-tokenizer --embed-encoder
    """

    out_dir: Positional[Annotated[Path, option("OUT_DIR")]]
    """Folder to write; PretrainedTokenizer.from_pretrained reads it."""
    embed_encoder: bool = False
    """Put the encoder's weights into the folder too, so that it needs nothing else."""
    statistics_images: Count = 0
    """Training images that the latents' mean and deviation are taken over; 0: all."""
    statistics_crops: Literal["centre", "training"] = "centre"
    """How they are seen: ADM's centre crop and its flip, as RAE takes its statistics, or as the decoder trained."""
    check: bool = False
    """Load the folder again and compare its metrics with the trial's."""

    def run(self) -> int:
        """Writes the folder; 0, or 1 where --check finds other metrics."""
        require(self.statistics_images >= 0, f"--statistics-images {self.statistics_images}", "0 (all) or more")
        if self.out_dir.exists() and (not self.out_dir.is_dir() or any(self.out_dir.iterdir())):
            raise UserError(f"{self.out_dir}: is there already; choose another folder, or rename this one")
        directory = self.trial()
        runtime = self.runtime()
        from drorae.export.tokenizer import export_trial

        with working(f"exporting {directory}") as note:
            exported = export_trial(
                directory, self.out_dir, runtime, self.embed_encoder, self.statistics_images, self.check, note,
                self.statistics_crops,
            )  # fmt: skip
        pairs = {name: {"trial": trial, "loaded": loaded} for name, (trial, loaded) in exported.metrics.items()}
        tree = {
            "directory": str(self.out_dir),
            "latent_shape": list(exported.latent_shape),
            "latent_images": exported.latent_images,
            "latent_crops": self.statistics_crops,
            "bytes": exported.bytes,
            "metrics": pairs,
        }
        wrong = [name for name, pair in pairs.items() if pair["trial"] != pair["loaded"]]
        self.answer(tree, lambda: self._print(exported, not wrong))
        for name in wrong:
            trial, loaded = exported.metrics[name]
            say(f"error: loaded again, {name} is {loaded!r} where the trial measured {trial!r}")
        return 1 if wrong else 0

    def _print(self, exported: Exported, equal: bool) -> None:
        shape = " x ".join(map(str, exported.latent_shape))
        size = f"{exported.bytes / 1e6:.1f} MB"
        over = f"{exported.latent_images} {self.statistics_crops} crops"
        show(f"{self.out_dir}: {size}, latents {shape} over {over}", keep=[self.out_dir])
        if exported.metrics and equal:
            show(f"loaded again: all {len(exported.metrics)} metrics equal the trial's to the bit")
