"""`drorae eval`: a finished trial measured again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args

from drorae.commands.options import TrialOptions, Words, flat, option
from drorae.commands.terminal import working
from drorae.config import Extractor
from drorae.errors import UserError

EXTRACTORS = get_args(Extractor)


@dataclass(kw_only=True)
class Eval(TrialOptions):
    """Measure a finished trial again from its weights, for instance with another feature extractor.

    Example: drorae eval runs/quickstart/trials/HASH --extractors inception --quantise truncate
    """

    extractors: Annotated[Words, option("NAME", "default: the trial's own")] = ()
    """Feature extractors of the Frechet distance: inception, effnet2, dinov2, effnet."""
    inception_path: Annotated[str, option("FILE")] = ""
    """Inception weights on disk; empty: torch-fidelity's download."""
    quantise: Annotated[Literal["round", "truncate"] | None, option("HOW", "default: the trial's own")] = None
    """How reconstructions become 8-bit: round, or truncate as RAE's published code does."""
    lpips: Annotated[Literal["none", "vgg", "alex"] | None, option("NET", "default: the trial's own")] = None
    """Network of the LPIPS metric: vgg, alex or none."""
    lpips_path: Annotated[str, option("FILE")] = ""
    """Its ImageNet weights on disk; empty: torchvision's file or download."""
    reference: Annotated[str, option("FILE")] = ""
    """npz of statistics (mu, sigma) to measure a second distance to, such as ADM's."""
    bootstrap: Annotated[int | None, option("B", "default: the trial's own")] = None
    """Draw B bootstrap replicates of each Frechet distance for a second standard error."""
    write_references: Annotated[Path | None, option("DIR", "default: none")] = None
    """Write the validation images' statistics to DIR/METRIC.npz, with how they were cropped."""

    def run(self) -> int:
        """Prints the metrics; nothing is written to the trial's folder."""
        names = [name for text in flat(self.extractors) for name in text.split(",") if name]
        for name in names:
            if name not in EXTRACTORS:
                raise UserError(f"--extractors {name}: no such extractor; choose from {', '.join(EXTRACTORS)}")
        directory = self.trial()
        runtime = self.runtime()
        from drorae.trial.reload import reevaluate

        settings = {
            name: value
            for name in ("inception_path", "quantise", "lpips", "lpips_path", "reference", "bootstrap")
            if (value := getattr(self, name)) not in ("", None)
        }
        with working(f"measuring {directory}") as note:
            metrics = reevaluate(directory, tuple(names), runtime, self.write_references, note, **settings)
        self.answer_metrics(metrics, directory)
        return 0
