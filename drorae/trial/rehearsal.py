"""A rehearsal: a few steps of every phase of a trial on this machine, from which the time and memory of all are told.

Everything is the trial's own: networks, batches, precision, loading and measuring. Only the numbers of images, steps
and epochs are small. The short trial is run twice, and of the second time what is taken for every step, for every
training image or for every validation image is counted up to the whole. What the first time took longer comes once in a
process's life, such as importing packages and making the kernels of a shape, and is taken as it is.
"""

from __future__ import annotations

import math
import statistics
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from drorae.config import Runtime, TrialConfig
from drorae.data.loading import AHEAD
from drorae.errors import Notice, UserError
from drorae.runtime.repeat import every
from drorae.storage.remote import Remote, locate
from drorae.training.loop import Row
from drorae.training.rows import is_held_out

if TYPE_CHECKING:
    import psutil

STEPS = 20
"""Steps of each phase from which the time of one is told."""
WARM_UP = 2
"""Steps before them: the first ones fill caches and pools."""
TRAIN_IMAGES, VAL_IMAGES = 256, 192
"""At most so many of each, and one batch at least. Different numbers: rows of progress tell one side by them."""
LOOK_SECONDS = 0.02
"""Between two looks at the memory."""
_MEASURES = {"evaluation", "measuring the originals", "measuring the baseline"}
"""What rows of progress begin something that every validation image takes part in with: their phase or their note."""


class Images(NamedTuple):
    """How many there are."""

    train: int
    """Crops of an epoch."""
    val: int


@dataclass(frozen=True)
class Rehearsal:
    """What a whole trial takes on this machine, from an empty cache on."""

    seconds: dict[str, float] = field(default_factory=dict)
    """By part: the phases by name, `images` (cut, encoded, read), `evaluation`, and `other`."""
    steps: dict[str, int] = field(default_factory=dict)
    """Of the whole trial, by phase."""
    memory_bytes: int = 0
    """The largest it was at once: of a process's own on a CPU, files that it maps left out; of the device on a GPU."""

    @property
    def hours(self) -> float:
        """Of all parts together."""
        return sum(self.seconds.values()) / 3600


def rehearse(config: TrialConfig, runtime: Runtime) -> Rehearsal:
    """Trains and measures a short version of a trial, in a process and with a cache of its own that are gone after it.

    A probe and a generator are left out.

    Raises:
        UserError: what would keep the trial from running; or the process was killed, of want of memory as a rule.
    """
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        try:
            return pool.submit(_rehearse, config, runtime).result()
        except BrokenProcessPool:
            raise UserError(
                "the rehearsal was killed, of want of memory as a rule; lower the batch size or --micro-batch"
            ) from None


def _rehearse(config: TrialConfig, runtime: Runtime) -> Rehearsal:
    """Does what `rehearse` says, in this process."""
    import psutil
    import torch

    from drorae.data.images import load_images
    from drorae.storage.cache import Cache

    # With the time that it has taken to load torch.
    began = time.perf_counter() - (time.time() - psutil.Process().create_time())
    warnings.simplefilter("ignore", Notice)
    found = load_images(config.images, Cache(runtime.cache_dir))
    whole = Images(len(found.train) * max(config.images.views, 1), len(found.val))
    del found
    short = shortened(config, runtime, whole)
    process, peak = psutil.Process(), 0

    def look() -> None:
        nonlocal peak
        peak = max(peak, own_bytes(process))

    with tempfile.TemporaryDirectory(prefix="drorae-") as name:
        first, second = (Path(name) / run for run in ("first", "second"))
        with every(LOOK_SECONDS, look):
            _run(short, runtime, first, locate(runtime.cache_dir))
        once = time.perf_counter() - began
        # With the weights that the first one had to convert.
        rows, ended = _run(short, runtime, second, first)
    used = max((torch.cuda.max_memory_allocated(gpu) for gpu in range(torch.cuda.device_count())), default=0)
    images = Images(short.images.train_images * max(config.images.views, 1), short.images.val_images)
    told = counted_up(rows, ended, images, whole, config, used or peak)
    told.seconds["other"] += max(0.0, once - ended)
    return told


def _run(
    short: TrialConfig, runtime: Runtime, folder: Path, weights: Path | Remote
) -> tuple[list[tuple[float, Row]], float]:
    """Trains and measures the short trial in a new folder, with a cache that has the converted weights of another.

    Returns its rows, each with the seconds since it began, and the seconds until it was done.
    """
    from drorae.trial.run import prepare, run_trial

    folder.mkdir()
    _share_weights(weights, folder)
    own = replace(runtime, cache_dir=str(folder), log_steps=1, evaluate_every=0)
    rows: list[tuple[float, Row]] = []
    began = time.perf_counter()

    def note(row: Row) -> None:
        rows.append((time.perf_counter() - began, dict(row)))

    prepare(short, own, note)
    run_trial(short, note, directory=folder / "trial", runtime=own)
    return rows, time.perf_counter() - began


def shortened(config: TrialConfig, runtime: Runtime, whole: Images) -> TrialConfig:
    """Returns the trial with a few images and steps of each phase, without probe and generator."""
    views = max(config.images.views, 1)
    largest = max((phase.settings.batch_size for phase in config.phases if phase.settings.epochs), default=1)
    train = min(whole.train // views, max(TRAIN_IMAGES, math.ceil(largest / views)))
    # What processes have ready when a phase begins tells nothing of the time that it took.
    steps = WARM_UP + STEPS + AHEAD * runtime.loader_workers
    phases = {
        phase.name: replace(
            phase.settings,
            epochs=min(phase.settings.epochs, math.ceil(steps / max(train * views // phase.settings.batch_size, 1))),
        )
        for phase in config.phases
    }
    return replace(
        config,
        images=replace(config.images, train_images=train, val_images=min(whole.val, VAL_IMAGES)),
        probe=replace(config.probe, steps=0),
        generator=replace(config.generator, epochs=0),
        **phases,  # type: ignore[arg-type]
    )


def counted_up(
    rows: Sequence[tuple[float, Row]], ended: float, short: Images, whole: Images, config: TrialConfig, memory: int
) -> Rehearsal:
    """Returns what the whole trial takes.

    Args:
        rows: of progress of the short one, each with the seconds since it began.
        ended: seconds until it was done.
        short: its images.
        whole: the trial's.
        config: the trial.
        memory: bytes that the short one took.
    """
    moments = [(0.0, Row()), *rows, (ended, Row())]
    passages = [(now - before, last, row) for (before, last), (now, row) in pairwise(moments)]
    taken: dict[str, list[float]] = defaultdict(list)
    for passed, last, row in passages:
        if _is_step(row) and _is_step(last) and row["phase"] == last["phase"]:
            taken[str(row["phase"])].append(passed)
    one = {phase: statistics.fmean(series[-STEPS:]) for phase, series in taken.items()}
    seconds: dict[str, float] = defaultdict(float)
    for passed, last, row in passages:
        # A step apart, which is counted with its phase, what came before it.
        rest = max(0.0, passed - one.get(str(row["phase"]), 0.0)) if _is_step(row) else passed
        if row.get("done") and row.get("total"):
            # Of one side's images, as many as were done since the row before.
            of_val = row["total"] == short.val
            seconds["images"] += rest * (whole.val / short.val if of_val else whole.train / short.train)
        elif {last.get("phase"), last.get("note")} & _MEASURES:
            seconds["evaluation"] += rest * whole.val / short.val
        elif not (_is_step(last) and _is_step(row)):
            seconds["other"] += rest
    steps: dict[str, int] = {
        phase.name: phase.settings.epochs * (whole.train // phase.settings.batch_size)
        for phase in config.phases
        if phase.name in one
    }
    return Rehearsal(dict(seconds) | {phase: one[phase] * count for phase, count in steps.items()}, steps, memory)


def _is_step(row: Row) -> bool:
    """Whether a row tells of a step of training."""
    return "step" in row and not is_held_out(row)


def _share_weights(cache: Path | Remote, folder: Path) -> None:
    """Lets a new cache have the converted weights of another."""
    if not isinstance(cache, Remote) and (cache / "weights").is_dir():
        (folder / "weights").symlink_to((cache / "weights").resolve())


def own_bytes(process: psutil.Process) -> int:
    """Returns the bytes in memory that are a process's own: on Linux, files that it maps are left out."""
    used = process.memory_info()
    return int(used.rss - getattr(used, "shared", 0))
