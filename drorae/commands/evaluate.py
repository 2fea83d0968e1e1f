"""`drorae eval`: a finished trial measured again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args

from drorae.commands.options import TrialOptions, Words, flat, option
from drorae.commands.terminal import say, working
from drorae.config import Extractor
from drorae.errors import UserError
from drorae.runtime.shell import command
from drorae.storage.remote import Remote, locate
from drorae.trial.folder import RESULT

EXTRACTORS = get_args(Extractor)


@dataclass(kw_only=True)
class Eval(TrialOptions):
    """Measure a finished trial again from its weights, or add what GenEval's evaluator found of it.

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
    geneval: Annotated[Path | None, option("FILE", "default: none")] = None
    """Results of GenEval's evaluator (JSON lines): the scores join the trial's metrics, in its result.json. Without
    other options nothing else is measured."""

    def run(self) -> int:
        """Prints the metrics; nothing but GenEval's scores is written to the trial's folder."""
        names = [name for text in flat(self.extractors) for name in text.split(",") if name]
        for name in names:
            if name not in EXTRACTORS:
                raise UserError(f"--extractors {name}: no such extractor; choose from {', '.join(EXTRACTORS)}")
        if self.geneval is not None and isinstance(place := locate(self.run_dir), Remote):
            raise UserError(f"{place}: expected a folder with --geneval; copy the trial to this machine")
        directory = self.trial()
        runtime = self.runtime()
        settings = {
            name: value
            for name in ("inception_path", "quantise", "lpips", "lpips_path", "reference", "bootstrap")
            if (value := getattr(self, name)) not in ("", None)
        }
        metrics: dict[str, float] = {}
        scores = _read_scores(self.geneval) if self.geneval is not None else None
        if scores is None or names or settings or self.write_references is not None:
            from drorae.trial.reload import reevaluate

            with working(f"measuring {directory}") as note:
                metrics = reevaluate(directory, tuple(names), runtime, self.write_references, note, **settings)
        if scores is not None:
            from drorae.trial.result import add_metrics

            found, provenance = scores
            add_metrics(directory, found, provenance)
            metrics |= found
        self.answer_metrics(metrics, directory)
        if scores is not None:
            _say_where(directory)
        return 0


def _read_scores(path: Path) -> tuple[dict[str, float], dict[str, str]]:
    """Returns the metrics in a file of GenEval's, and where they come from."""
    from drorae.metrics.geneval import NAME, read_geneval

    found = read_geneval(path)
    provenance = {
        f"fingerprint.{NAME}": found.sha256[:16],
        f"note.{NAME}": f"{path}: {found.images} images of {found.prompts} prompts",
    }
    return found.metrics, provenance


def _say_where(directory: Path) -> None:
    """Says where the scores are, and how they reach the sweep's table and MLflow where the trial is a sweep's."""
    from sweeps.folder.sweep import RECORD

    result, sweep, then = directory / RESULT, directory.resolve().parent.parent, ""
    if (sweep / RECORD).is_file():
        root = () if sweep.parent == Path("runs").resolve() else ("--root", sweep.parent)
        then = f"; its sweep's table and MLflow get them with: {command('resume', sweep.name, *root)}"
    say(f"the scores are in {result}{then}", keep=[result])
