"""Options that several commands share, and what they stand for."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from tyro.conf import Positional, UseAppendAction, arg

from drorae.commands.terminal import print_json, print_table, show
from drorae.config import (
    PRESETS,
    FieldError,
    GenerationConfig,
    Runtime,
    TrialConfig,
    default_cache_dir,
    load_config,
    override,
)
from drorae.errors import UserError
from drorae.machine.precision import settled
from drorae.storage.remote import Remote, absolute, locate
from drorae.trial.folder import RESULT

if TYPE_CHECKING:
    from sweeps.spec import SweepSpec

T = TypeVar("T")


def option(metavar: str | None = None, hint: str | None = None, name: str | None = None) -> Any:
    """Returns how the help shows an option, for `Annotated`.

    Args:
        metavar: what stands for its value; default: the type's name.
        hint: what follows the description, in brackets; default: "default: VALUE".
        name: the option's name without dashes; default: the field's.
    """
    return arg(metavar=metavar, help_behavior_hint=hint and f"({hint})", name=name)


Words = UseAppendAction[tuple[tuple[str, ...], ...]]
"""An option that takes several values and may be repeated."""
Column = Annotated[str, option("COLUMN")]
Count = Annotated[int, option("N")]
Number = Annotated[float, option("N")]
Folder = Annotated[Path, option("DIR")]
Statuses = Annotated[Words, option("STATUS", "default: finished only")]
Law = Literal["log-linear", "linear"]


def flat(groups: Iterable[Iterable[T]]) -> list[T]:
    """Returns the values of a repeated option in order."""
    return list(itertools.chain.from_iterable(groups))


def require(valid: bool, given: str, expected: str) -> None:
    """Raises UserError, with an option as it was `given` and what was `expected`, unless the option is `valid`."""
    if not valid:
        raise UserError(f"{given}: expected {expected}")


def choose(table: Mapping[str, T], name: str, flag: str, kind: str) -> T:
    """Returns the entry of a table that an option names.

    Args:
        table: the entries by name.
        name: the option's value.
        flag: the option, such as "--preset".
        kind: what the table lists, for the message.

    Raises:
        UserError: no such entry.
    """
    if name not in table:
        raise UserError(f"{flag} {name}: no such {kind}; choose one of {', '.join(table)}")
    return table[name]


def assignments(flag: str, groups: Iterable[Iterable[str]], hint: str) -> list[tuple[str, str]]:
    """Returns the names and values of an option's NAME=VALUE words.

    Raises:
        UserError: a word is not NAME=VALUE; the message ends in `hint`.
    """
    split = [(text, *text.partition("=")) for text in flat(groups)]
    for text, name, equals, _ in split:
        require(bool(name and equals), f"{flag} {text}", f"NAME=VALUE{hint}")
    return [(name, value) for _, name, _, value in split]


def by_field(flag: str, given: Iterable[tuple[str, T]], remedy: str) -> dict[str, T]:
    """Returns values by the dotted config field that their name stands for.

    Args:
        flag: the option that they were given with, for the message.
        given: pairs of a field's dotted name or alias and its value.
        remedy: ends the message.

    Raises:
        UserError: no such field, or one given twice.
    """
    from sweeps.spec import field_name

    found: dict[str, T] = {}
    for name, value in given:
        dotted = field_name(name)
        if dotted in found:
            raise UserError(f"{flag} {name}: given twice; {remedy}")
        found[dotted] = value
    return found


def write_text(path: Path, text: str) -> Path:
    """Writes a file that the user asked for, with its folder, and returns its path.

    Raises:
        UserError: the folder cannot be written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}; expected a folder to write to") from None
    return path


def write_new(path: Path, tree: Any) -> Path:
    """Writes a JSON file that the user asked for, as `write_text` does."""
    return write_text(path, json.dumps(tree, indent=2) + "\n")


@dataclass(kw_only=True)
class JsonOption:
    """How the outcome is printed."""

    as_json: Annotated[bool, option(name="json")] = False
    """Print the outcome as one JSON object."""

    def answer(self, tree: Any, words: str | Callable[[], None]) -> None:
        """Prints the outcome on stdout.

        Args:
            tree: the outcome as plain values, which --json prints.
            words: the outcome in words, or what prints it.
        """
        if self.as_json:
            print_json(tree)
        elif isinstance(words, str):
            show(words)
        else:
            words()


@dataclass(kw_only=True)
class RuntimeOptions:
    """Where and how a trial runs."""

    device: Annotated[str, option("DEVICE")] = "auto"
    """auto (CUDA if there is any), cpu, cuda or cuda:N."""
    threads: Count = 0
    """CPU threads; 0: all of them for a single trial, as many as its CPUs for a sweep's."""
    features: Literal["cache", "online"] = "cache"
    """cache: encode images once for all trials; online: in every epoch."""
    loader_workers: Count = 0
    """Processes that cut crops ahead of the step, with --features online; 0: a thread does."""
    cache_dir: Annotated[str | None, option("DIR", "default: $DRORAE_CACHE or ~/.cache")] = None
    """Folder for features, phase-1 decoders and converted weights; or s3://BUCKET/PREFIX, of which each machine keeps
    copies in $DRORAE_LOCAL_CACHE (default: ~/.cache/drorae)."""
    cache_limit_gb: Annotated[float, option("GB")] = 20.0
    """Refuse to let the cache grow beyond this."""
    cache_evict: bool = False
    """Make room in the cache by removing the features that were used longest ago; none that is in use."""
    micro_batch: Count = 0
    """Images sent through the networks at once, larger batches in pieces (gradient accumulation); 0: all."""
    activation_checkpointing: bool = False
    """Compute the decoder's activations twice instead of keeping them."""
    fast_kernels: bool = False
    """On a GPU, a fifth faster, but two runs of one seed differ."""
    compile: bool = False
    """Send training steps through torch.compile, which takes a minute to begin with; the same up to rounding."""
    checkpoint_seconds: Annotated[float, option("SECONDS")] = 30.0
    """A killed trial loses at most so much of its work, or 50 times what its last checkpoint held it up."""
    evaluate_every: Annotated[int, option("STEPS")] = 0
    """While a phase trains, measure PSNR and SSIM of held-out images, and paint some, every so many steps; 0: never."""
    evaluate_images: Count = 200
    """So many validation images are measured then."""

    def runtime(self) -> Runtime:
        """Returns the `Runtime` that these options describe.

        Raises:
            UserError: a value that makes no sense.
        """
        given = {field.name: getattr(self, field.name) for field in dataclasses.fields(RuntimeOptions)}
        try:
            return Runtime(**given | {"cache_dir": absolute(self.cache_dir or default_cache_dir())})
        except FieldError as error:
            raise UserError(f"--{error.field.replace('_', '-')}: {error.reason}") from None


@dataclass(kw_only=True)
class TrialOptions(RuntimeOptions, JsonOption):
    """A finished trial, and how it is run again."""

    run_dir: Positional[Annotated[Path, option("RUN_DIR")]]
    """A trial's folder: the one with result.json."""

    def trial(self) -> Path:
        """Returns the trial's folder: RUN_DIR itself, or that of a sweep's only trial; of one at a URL, a copy.

        Raises:
            UserError: no finished trial there.
        """
        place = locate(self.run_dir)
        if isinstance(place, Remote):
            from sweeps.folder.mirror import local_copy

            names = [name for name in place.files() if f"/{name}".endswith("/result.json")]
            if len(names) != 1:
                raise UserError(f"{place}: no finished trial here; expected the URL of a folder with result.json")
            return local_copy(f"{place}/{names[0]}".removesuffix("/result.json"))
        if (self.run_dir / RESULT).is_file():
            return self.run_dir
        trials = sorted(self.run_dir.glob(f"*/*/{RESULT}"))
        if len(trials) != 1:
            raise UserError(f"{self.run_dir}: no finished trial here; expected a folder with result.json")
        return trials[0].parent

    def answer_metrics(self, metrics: Mapping[str, float], directory: Path) -> None:
        """Prints metrics of the trial in `directory` as a table, or as one JSON object."""
        rows = [(name, f"{value:.6g}") for name, value in metrics.items()]
        self.answer(metrics, lambda: print_table(("metric", "value"), rows, str(directory)))


@dataclass(kw_only=True)
class ConfigOptions:
    """What to run: a preset or a saved config, and changes to it."""

    preset: Annotated[str | None, option("NAME", "default: quickstart")] = None
    """A named config: smoke, quickstart or paper; for a sweep also capacity, layers, ablation or variants."""
    config: Annotated[Path | None, option("FILE", "instead of --preset")] = None
    """The config.json that a run saved."""
    overrides: Annotated[Words, option("NAME=VALUE", "repeatable", "set")] = ()
    """Config fields to change, by dotted name or alias: --set fusion.beta=0.1 capacity=128. generator=NAME gives the
    trial a generator of that size, trained as published."""

    def changes(self) -> dict[str, str]:
        """Returns the text of every --set by dotted name; generator=NAME is the fields that it stands for.

        Raises:
            UserError: not NAME=VALUE, no such field, or one given twice.
        """
        hint = ", such as fusion.beta=0.1 or capacity=128"
        given = assignments("--set", self.overrides, hint)
        named = [value for name, value in given if name == "generator"]
        require(len(named) <= 1, f"--set generator={' generator='.join(named)}", "one of them")
        found = by_field("--set", [(name, text) for name, text in given if name != "generator"], "give it once")
        for value in named:
            whole = GenerationConfig.named(value)
            # What is said of a field itself counts.
            found = {f"generator.{name}": str(getattr(whole, name)) for name in ("size", "training", "epochs")} | found
        return found

    def changed(self, base: TrialConfig) -> TrialConfig:
        """Returns `base` with --set applied.

        Raises:
            UserError: not NAME=VALUE, no such field, or a value it cannot take.
        """
        for name, value in self.changes().items():
            base = override(base, name, value)
        return base

    def check_source(self) -> None:
        """Raises UserError if both --preset and --config are given."""
        if self.preset is not None and self.config is not None:
            raise UserError("--preset and --config: expected one of them; change single fields with --set")

    def trial_config(self) -> TrialConfig:
        """Returns the trial's config that is asked for.

        Raises:
            UserError: an unknown preset, an unusable file, or an unusable change.
        """
        self.check_source()
        if self.config is not None:
            return settled(self.changed(load_config(self.config)))
        return settled(self.changed(choose(PRESETS, self.preset or "quickstart", "--preset", "preset")))

    def sweep_spec(self) -> SweepSpec:
        """Returns the sweep that is asked for, before any change; a trial's config is a sweep without axes.

        Raises:
            UserError: an unknown preset or an unusable file.
        """
        from sweeps.presets import SWEEPS

        self.check_source()
        if self.config is not None:
            return read_sweep(self.config)
        return choose(SWEEPS, self.preset or "quickstart", "--preset", "sweep")


def read_sweep(path: Path) -> SweepSpec:
    """Reads a sweep.json, or a config.json as a sweep without axes.

    Raises:
        UserError: not readable as either.
    """
    from sweeps.spec import SweepSpec

    try:
        tree = json.loads(path.read_text())
    except (OSError, ValueError):
        tree = None
    if isinstance(tree, dict) and "spec" in tree:
        return SweepSpec.from_dict(tree["spec"])
    return SweepSpec(path.stem if path.stem != "config" else path.resolve().parent.name, load_config(path))


@dataclass(kw_only=True)
class SweepOptions:
    """A sweep that somebody started."""

    name: Positional[Annotated[str, option("NAME")]]
    """Name of the sweep."""
    root: Folder = Path("runs")
    """Folder or URL of all sweeps."""
