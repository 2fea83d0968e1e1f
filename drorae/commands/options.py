"""Options that several commands share, and how they print."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shlex
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TextIO

from tyro.conf import UseAppendAction, arg

from drorae.config import PRESETS, Runtime, TrialConfig, default_cache_dir, load_config, override
from drorae.errors import UserError
from drorae.runtime.signals import WORDS, Interrupted, Stopped
from drorae.runtime.text import wrapped
from drorae.storage.remote import Remote, absolute, locate

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live

Listed = UseAppendAction[list[list[str]]]
"""An option that takes several values and may be repeated."""


def flat(groups: Iterable[Iterable[str]]) -> list[str]:
    """The values of a `Listed` option in order."""
    return list(itertools.chain.from_iterable(groups))


@dataclass(kw_only=True)
class RuntimeOptions:
    """Where and how a trial runs."""

    device: Annotated[str, arg(metavar="DEVICE")] = "auto"
    """auto (CUDA if there is any), cpu, cuda or cuda:N."""
    threads: Annotated[int, arg(metavar="N")] = 0
    """CPU threads; 0: all of them for a single trial, as many as its CPUs for a sweep's."""
    features: Literal["cache", "online"] = "cache"
    """cache: encode images once for all trials; online: in every epoch."""
    cache_dir: Annotated[str | None, arg(metavar="DIR", help_behavior_hint="(default: $DRORAE_CACHE or ~/.cache)")] = (
        None
    )
    """Folder for features, phase-1 decoders and converted weights; or s3://BUCKET/PREFIX, of which each machine keeps
    copies in $DRORAE_LOCAL_CACHE (default: ~/.cache/drorae)."""
    cache_limit_gb: Annotated[float, arg(metavar="GB")] = 20.0
    """Refuse to let the cache grow beyond this."""
    micro_batch: Annotated[int, arg(metavar="N")] = 0
    """Images sent through the networks at once, larger batches in pieces (gradient accumulation); 0: all."""
    activation_checkpointing: bool = False
    """Compute the decoder's activations twice instead of keeping them."""
    checkpoint_seconds: Annotated[float, arg(metavar="SECONDS")] = 30.0
    """A killed trial loses at most so much of its work."""

    def runtime(self) -> Runtime:
        """The `Runtime` these options describe.

        Raises:
            UserError: a value that makes no sense.
        """
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device):
            raise UserError(f"--device {self.device}: not a device; expected auto, cpu, cuda or cuda:N")
        if self.threads < 0:
            raise UserError(f"--threads {self.threads}: expected 0 (choose for me) or more")
        if self.micro_batch < 0:
            raise UserError(f"--micro-batch {self.micro_batch}: expected 0 (whole batches) or more")
        if not self.checkpoint_seconds >= 0:
            raise UserError(f"--checkpoint-seconds {self.checkpoint_seconds}: expected 0 or more")
        if not self.cache_limit_gb > 0:
            raise UserError(f"--cache-limit-gb {self.cache_limit_gb}: expected a number above 0")
        return Runtime(
            device=self.device,
            threads=self.threads,
            features=self.features,
            cache_dir=absolute(self.cache_dir or default_cache_dir()),
            cache_limit_gb=self.cache_limit_gb,
            micro_batch=self.micro_batch,
            activation_checkpointing=self.activation_checkpointing,
            checkpoint_seconds=self.checkpoint_seconds,
        )


@dataclass(kw_only=True)
class ConfigOptions:
    """What to run: a preset or a saved config, and changes to it."""

    preset: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="(default: quickstart)")] = None
    """A named config: smoke, quickstart or paper; for a sweep also capacity, layers, ablation or variants."""
    config: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="(instead of --preset)")] = None
    """The config.json that a run saved."""
    overrides: Annotated[Listed, arg(name="set", metavar="NAME=VALUE", help_behavior_hint="(repeatable)")] = field(
        default_factory=list
    )
    """Config fields to change, by dotted name or alias: --set fusion.beta=0.1 capacity=128."""

    def changed(self, base: TrialConfig) -> TrialConfig:
        """`base` with --set applied.

        Raises:
            UserError: not NAME=VALUE, no such field, or a value it cannot take.
        """
        for name, value in self.pairs():
            base = override(base, name, value)
        return base

    def pairs(self) -> list[tuple[str, str]]:
        """(dotted name, text) of every --set.

        Raises:
            UserError: not NAME=VALUE, no such field, or one given twice.
        """
        from sweeps.spec import field_name

        found: dict[str, str] = {}
        for text in flat(self.overrides):
            name, equals, value = text.partition("=")
            if not equals or not name:
                raise UserError(f"--set {text}: expected NAME=VALUE, such as fusion.beta=0.1 or capacity=128")
            dotted = field_name(name)
            if dotted in found:
                raise UserError(f"--set {name}: given twice; give it once")
            found[dotted] = value
        return list(found.items())

    def one_source(self) -> None:
        """Raises UserError if both --preset and --config are given."""
        if self.preset is not None and self.config is not None:
            raise UserError("--preset and --config: expected one of them; change single fields with --set")

    def trial_config(self) -> TrialConfig:
        """The config asked for."""
        self.one_source()
        if self.config is not None:
            return self.changed(load_config(self.config))
        name = self.preset or "quickstart"
        if name not in PRESETS:
            raise UserError(f"--preset {name}: no such preset; choose one of {', '.join(PRESETS)}")
        return self.changed(PRESETS[name])


def finished_trial(directory: Path) -> Path:
    """The trial's folder that a RUN_DIR means: itself, or that of a sweep's only trial; of one at a URL, a copy.

    Raises:
        UserError: no finished trial there.
    """
    place = locate(directory)
    if isinstance(place, Remote):
        from sweeps.folder.mirror import brought

        names = [f"{place.name}/{name}" for name in place.files() if name.rpartition("/")[2] == "result.json"]
        if len(names) != 1:
            raise UserError(f"{place}: no finished trial here; expected the URL of a folder with result.json")
        return brought(str(place.parent / names[0].rpartition("/")[0]))
    trials = sorted(directory.glob("trials/*/result.json"))
    if (directory / "result.json").is_file():
        return directory
    if len(trials) != 1:
        raise UserError(f"{directory}: no finished trial here; expected a folder with result.json")
    return trials[0].parent


PATIENCE = 1.0
"""Seconds that a command may take before it says what it is doing."""
SILENCE_SECONDS = 25.0
"""Between two lines of progress in a log."""
_spinner: Live | None = None
"""The sign of life that is on the terminal now."""


def say(text: str, keep: Iterable[object] = ()) -> None:
    """A note for people, on stderr, where it cannot mix with results; broken into lines as `wrapped` does."""
    text = wrapped(text, terminal_width(sys.stderr), keep)
    if _spinner is None:
        print(text, file=sys.stderr, flush=True)
    else:
        _spinner.console.print(text, markup=False, highlight=False, soft_wrap=True)


def show(text: str, keep: Iterable[object] = (), hang: int = 4) -> None:
    """A result in words, on stdout; broken into lines as `wrapped` does."""
    print(wrapped(text, terminal_width(sys.stdout), keep, hang))


def terminal_width(stream: TextIO) -> int | None:
    """Columns of the terminal that a stream is on; None where it is on none."""
    if not stream.isatty():
        return None
    given = os.environ.get("COLUMNS", "")
    if given.isdigit() and int(given):
        return int(given)
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


def print_metrics(metrics: Mapping[str, float], title: str, as_json: bool) -> None:
    """Metrics as a table, or as one JSON object, on stdout."""
    if as_json:
        print_json(metrics)
    else:
        print_table(("metric", "value"), [(name, f"{value:.6g}") for name, value in metrics.items()], title)


def print_table(
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    title: str = "",
    *,
    drop: Sequence[str] = (),
    whole: str = "--json prints all",
) -> None:
    """A table on stdout.

    In a pipe it is as wide as it needs to be. On a terminal that it does not fit, the columns of `drop` are left out,
    the first one first, until it does, and a note says which and, in the words of `whole`, where they all are. If it
    still does not fit, each row becomes a block of lines, with all columns.
    """
    from rich.measure import Measurement
    from rich.table import Table
    from rich.text import Text

    def table(left_out: Collection[str]) -> Table:
        kept = [index for index, name in enumerate(header) if name not in left_out]
        made = Table()
        for index in kept:
            made.add_column(Text(header[index]), no_wrap=True)
        for row in cells:
            made.add_row(*(Text(row[index]) for index in kept))
        return made

    cells = [tuple(row) for row in rows]
    console = results_console()
    width = terminal_width(sys.stdout)
    unlimited = console.options.update(max_width=1_000_000)
    if title:
        show(title, keep=(title,))
    for count in range(len(drop) + 1):
        made = table(drop[:count])
        if width is None or Measurement.get(console, unlimited, made).maximum <= width:
            console.print(made)
            if count:
                say(f"left out, for want of room: {', '.join(drop[:count])}; {whole}")
            return
    blocks = ["\n".join(f"{'  ' if index else ''}{name}: {row[index]}" for index, name in enumerate(header))
              for row in cells]  # fmt: skip
    show("\n".join(blocks))


def print_json(tree: Any) -> None:
    """One JSON object on stdout."""
    print(json.dumps(tree, indent=2, allow_nan=False))


def results_console() -> Console:
    """A rich console on stdout, as wide as any table where stdout is no terminal."""
    from rich.console import Console

    return Console(width=terminal_width(sys.stdout) or 1000, highlight=False)


@contextlib.contextmanager
def working(what: str) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Shows on stderr that a command is at work, once it has been for `PATIENCE` seconds, and `what` it does.

    On a terminal that is a line that moves, and goes when the work is done; in a log, a plain line every
    `SILENCE_SECONDS`. What the block gets takes a trial's rows of progress, and says what is in them.

        with working(f"measuring {directory}") as note:
            load_trained(directory, runtime, report=note)
    """
    lock, over, told = threading.Lock(), threading.Event(), ""
    spinner = _make_spinner(what)

    def watch() -> None:
        global _spinner
        if over.wait(PATIENCE):
            return
        if spinner is None:
            say(f"{what} ...")
            began = time.monotonic()
            while not over.wait(SILENCE_SECONDS):
                say(f"{what}: {told or f'for {time.monotonic() - began:.0f} s'}")
            return
        with lock:
            if not over.is_set():
                _spinner = spinner
                spinner.start()

    def note(row: Mapping[str, Any]) -> None:
        nonlocal told
        told = _forecast_lines(row)
        if spinner is not None:
            from rich.text import Text

            spinner.renderable.text = Text(f"{what}: {told}", no_wrap=True, overflow="ellipsis")  # type: ignore[union-attr]

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield note
    finally:
        with lock:
            over.set()
            _stop(spinner)


@contextlib.contextmanager
def ending(what: str, remedy: str = "") -> Iterator[None]:
    """Says what is left, and the command that goes on, where Ctrl-C, TERM or HUP ends the block."""
    try:
        yield
    except (Interrupted, Stopped) as end:
        with contextlib.suppress(OSError):
            say(f"{WORDS[end.signum]}: {what}{remedy}", keep=[remedy] if remedy else [])
        end.said = True
        raise


def _stop(spinner: Live | None) -> None:
    """Takes the line away, where it is shown."""
    global _spinner
    if spinner is not None and _spinner is spinner:
        _spinner = None
        spinner.stop()


def _make_spinner(what: str) -> Live | None:
    """A line that moves, not yet shown; None where stderr is no terminal that can move it."""
    if not sys.stderr.isatty():
        return None
    from rich.console import Console
    from rich.live import Live
    from rich.spinner import Spinner
    from rich.text import Text

    console = Console(stderr=True, highlight=False)
    if console.is_dumb_terminal:
        return None
    line = Spinner("line", Text(f"{what} ...", no_wrap=True, overflow="ellipsis"))
    # Results go where stdout goes, never through this console.
    return Live(line, console=console, transient=True, redirect_stdout=False, refresh_per_second=8)


def _forecast_lines(row: Mapping[str, Any]) -> str:
    """A row of a trial's progress in words."""
    if "note" in row:
        counted = f", {row['done']:.0f} of {row['total']:.0f}" if row.get("total", 0) > 1 else ""
        return f"{row['note']}{counted}"
    total = f" of {row['total_steps']:.0f}" if row.get("total_steps") else ""
    loss = f", loss {row['loss']:.5g}" if "loss" in row else ""
    speed = f", {row['images_per_second']:.0f} images/s" if "images_per_second" in row else ""
    return f"{row.get('phase', '')} step {row.get('step', 0):.0f}{total}{loss}{speed}"


def command_anywhere(*words: object) -> str:
    """A command for a report, which others read: without this machine's path of the program."""
    return f"drorae {shlex.join(map(str, words))}"
