"""`drorae generate`: images from a generator of a finished trial's latents, which is trained first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from drorae.commands.options import Count, TrialOptions, Words, assignments, choose, option, require
from drorae.commands.terminal import ending, print_table, say, show, working
from drorae.config import GENERATORS, TRAININGS, GeneratorRun
from drorae.errors import UserError
from drorae.metrics.registry import COUNT
from drorae.storage.remote import Remote, locate

if TYPE_CHECKING:
    from drorae.generation.drawing import Drawing
    from drorae.trial.generated import Generated
    from drorae.trial.generator import Generator


@dataclass(kw_only=True)
class Generate(TrialOptions):
    """Train a generator of a finished trial's latents, where it is not there, and draw images with it.

    Example: drorae generate runs/quickstart/trials/HASH --epochs 20 --n 64 --guidance autoguidance=1.5
    """

    name: Annotated[str, option("NAME", "default: a hash of what describes it")] = ""
    """Name of the generator, whose folder is generator/NAME in the trial's. Of one that is there already nothing else
    need be said, and nothing at all of the one that the trial's own config has."""
    size: Annotated[str | None, option("NAME", "default: small")] = None
    """Size of the generator: small, tiny, or as published dit_dh_s, dit_dh_xl."""
    training: Annotated[str | None, option("NAME", "default: own")] = None
    """How it is trained: own (for CPUs), rae or drorae, as published."""
    epochs: Annotated[int | None, option("N", "default: the training's")] = None
    """Shorthand for --set generator.epochs=N."""
    overrides: Annotated[Words, option("NAME=VALUE", "repeatable", "set")] = ()
    """Fields of the generator or its training to change: --set generator.condition=none generator.lr=5e-4."""
    n: Annotated[int | None, option("N", "default: 64")] = None
    """So many images."""
    classes: Annotated[str, option("N,N,...", "default: all")] = ""
    """Classes of the images, by turns: 0,3,7."""
    prompts: Annotated[Path | None, option("FILE", "default: none")] = None
    """Prompts of a generator that was trained on captions, one a line: plain text, or GenEval's
    evaluation_metadata.jsonl. Images lie in a folder for each prompt, as GenEval expects them."""
    n_per_prompt: Annotated[int | None, option("N", "default: 4")] = None
    """So many images of each prompt."""
    steps: Count = 50
    """Steps of the sampler."""
    method: Literal["euler", "heun"] = "euler"
    """euler, or heun, which takes twice the time and errs less."""
    guidance: Annotated[str, option("none|NAME=W")] = "none"
    """cfg=1.5, autoguidance=1.5 or internal=1.78."""
    interval: Annotated[str, option("FROM,TO")] = "0,1"
    """Times at which there is guidance; 1 is noise."""
    bad: Annotated[str, option("NAME", "default: its own earlier average")] = ""
    """Another generator of the trial, which AutoGuidance leads away from."""
    seed: Count = 0
    """Of the images; that of the training is --set generator.seed=N."""
    batch_size: Count = 64
    """Images drawn at once."""
    out: Annotated[Path | None, option("DIR", "default: below the generator's folder")] = None
    """Folder for the images (PNG), a grid of the first, and how they were drawn."""
    npz: Annotated[Path | None, option("FILE", "default: PNGs")] = None
    """Write the images to an npz in ADM's layout instead of PNGs."""

    measure: bool = False
    """Measure the images against the validation images, and the controls beside them, into generated.json."""

    def run(self) -> int:
        """Trains, draws, and says where the images are."""
        if isinstance(locate(self.run_dir), Remote):
            raise UserError(f"{locate(self.run_dir)}: expected a folder; copy the trial to this machine")
        self._check_prompts()
        from drorae.generation.drawing import check_prompts
        from drorae.trial.prompts import read_prompts

        prompts = read_prompts(self.prompts) if self.prompts is not None else []
        directory, drawing = self.trial(), self._drawing([prompt.text for prompt in prompts])
        described = self._described(directory, self.name)
        check_prompts(drawing, described.model)
        if self.bad and drawing.guidance.kind != "autoguidance":
            raise UserError(f"--bad {self.bad}: expected --guidance autoguidance=W with it")
        runtime = self.runtime()
        from drorae.trial.generated import check_count, measure_samples, read_yardsticks
        from drorae.trial.generator import begun_run, ready_generator
        from drorae.trial.samples import sample

        if self.measure:
            check_count(drawing.count)
        measured: Generated | None = None

        with ending("the same command goes on"), working(f"generating from {directory}") as note:
            bad: Generator | None = None
            if self.bad:
                other = begun_run(directory, self.bad)
                if other is None:
                    raise UserError(f"--bad {self.bad}: {directory} has no such generator; train it with --name first")
                bad = ready_generator(directory, other, self.bad, runtime, note)
            generator = ready_generator(directory, described, self.name, runtime, note)
            folder, sink = sample(generator, drawing, self.out, self.npz, bad, note, prompts)
            if self.measure:
                yardsticks = read_yardsticks(generator, drawing.count, drawing.seed, note)
                asked = [] if drawing.prompts else drawing.labels(generator.classes)
                measured = measure_samples(yardsticks, sink, folder, note, asked)
        place = self.npz or folder
        tree = {
            "generator": str(generator.directory),
            "steps": generator.steps,
            "loss": generator.loss,
            "images": drawing.count,
            "samples": str(folder),
            "npz": None if self.npz is None else str(self.npz),
        }
        say(f"{generator.directory}: {generator.steps} steps, loss {generator.loss:.5g}", keep=[generator.directory])
        if measured is not None:
            tree |= measured.record()

        def in_words() -> None:
            show(f"{place}: {drawing.count} images, guidance {drawing.guidance}", keep=[place])
            if measured is not None:
                _print_measured(measured)

        self.answer(tree, in_words)
        return 0

    def _described(self, directory: Path, name: str) -> GeneratorRun:
        """The generator that the options describe; where they describe none, that of the name, or the trial's own."""
        from drorae.trial.generation import own_run
        from drorae.trial.generator import begun_run, placed, with_field

        changes = assignments("--set", self.overrides, ", such as generator.lr=5e-4")
        if not (self.size or self.training or self.epochs is not None or changes):
            found = begun_run(directory, name) if name else own_run(directory)
            if found is not None:
                return found
        size = choose(GENERATORS, self.size or "small", "--size", "size")
        run = GeneratorRun(size, choose(TRAININGS, self.training or "own", "--training", "training"))
        if self.epochs is not None:
            run = with_field(run, "epochs", self.epochs)
        for field, value in changes:
            run = with_field(run, field.removeprefix("generator."), value)
        return placed(run)

    def _check_prompts(self) -> None:
        """Raises UserError where an option does not go with prompts, or goes only with them."""
        if self.prompts is None:
            require(self.n_per_prompt is None, f"--n-per-prompt {self.n_per_prompt}", "--prompts FILE with it")
            return
        require(self.n is None, f"--n {self.n}", "--n-per-prompt with --prompts")
        require(not self.classes, f"--classes {self.classes}", "none with --prompts")
        require(self.npz is None, f"--npz {self.npz}", "--out with --prompts, a folder for each of them")

    def _drawing(self, prompts: Sequence[str]) -> Drawing:
        """How the options say that images are drawn."""
        from drorae.generation.drawing import Drawing
        from drorae.generation.guidance import Guidance

        times = _numbers("--interval", self.interval, float)
        if len(times) != 2:
            raise UserError(f"--interval {self.interval}: expected two times from 0 to 1, such as 0.1,1")
        each = 4 if self.n_per_prompt is None else self.n_per_prompt
        count = len(prompts) * each if prompts else 64 if self.n is None else self.n
        return Drawing(
            count, tuple(_numbers("--classes", self.classes, int)), self.steps, self.method,
            Guidance.parse(self.guidance, (times[0], times[1])), self.seed, self.batch_size, tuple(prompts), each,
        )  # fmt: skip


def _print_measured(found: Generated) -> None:
    """Prints what was measured, with its number of images, the controls, and what they show."""
    metrics = found.metrics
    names = [name for name in metrics if f"{name}{COUNT}" in metrics]
    rows = [
        (name, f"{metrics[name]:.5g}", f"{metrics[error]:.2g}" if (error := f"{name}_se") in metrics else "",
         f"{metrics[f'{name}{COUNT}']:.0f}")
        for name in names
    ]  # fmt: skip
    print_table(("metric", "value", "se", "images"), rows)
    controls = found.controls
    sets = {
        "real training images": controls.real,
        "reconstructions": controls.reconstructions,
        "Gaussian, decoded": controls.gaussian,
        "samples": controls.samples,
    }
    beside = [(name, f"{one.value:.5g}", f"{one.standard_error:.2g}", str(one.n)) for name, one in sets.items()]
    print_table(("control", found.extractor, "se", "images"), beside)
    show(str(controls.learned))
    show(str(controls.memorised))


def _numbers(flag: str, text: str, kind: Any) -> list[Any]:
    """The numbers of a list that commas separate."""
    try:
        return [kind(part) for part in text.split(",") if part]
    except ValueError:
        raise UserError(f"{flag} {text}: expected numbers with commas between them") from None
