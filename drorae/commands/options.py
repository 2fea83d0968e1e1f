"""Options that several commands share, and how they print."""

from __future__ import annotations

import itertools
import json
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import UseAppendAction, arg

from drorae.config import PRESETS, Runtime, TrialConfig, default_cache_dir, load_config, override
from drorae.errors import UserError
from drorae.remote import Remote, absolute, locate

if TYPE_CHECKING:
    from rich.console import Console

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
        from sweeps.mirror import brought

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


def say(text: str) -> None:
    """A note for people, on stderr, where it cannot mix with results."""
    print(text, file=sys.stderr, flush=True)


def print_metrics(metrics: Mapping[str, float], title: str, as_json: bool) -> None:
    """Metrics as a table, or as one JSON object, on stdout."""
    if as_json:
        print_json(metrics)
        return
    from rich.table import Table

    table = Table("metric", "value", title=title)
    for name, value in metrics.items():
        table.add_row(name, f"{value:.6g}")
    results_console().print(table)


def print_json(tree: Any) -> None:
    """One JSON object on stdout."""
    print(json.dumps(tree, indent=2, allow_nan=False))


def results_console() -> Console:
    """A rich console on stdout, wide enough for tables where stdout is no terminal."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 140, highlight=False)


def program() -> str:
    """How the user called us, for commands to copy."""
    return sys.argv[0] if Path(sys.argv[0]).name == "drorae" else "drorae"
