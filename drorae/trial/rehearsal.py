"""A rehearsal: a few steps of every phase of a trial on this machine, from which the time and memory of all are told.

Everything is the trial's own: networks, batches, precision, loading and measuring, its generator and its probe. Only
the numbers of images, samples, steps and epochs are small. The short trial is run twice, and of the second time what is
taken for every step or every image of a set is counted up to the whole. What the first time took longer comes once in a
process's life, such as importing packages and making the kernels of a shape, and is taken as it is. So is what grows
faster than the images do, such as the distances between all of them: a generator's controls on very many are more.
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

from drorae.config import GeneratorTraining, Runtime, TrialConfig
from drorae.data.loading import AHEAD
from drorae.diagnostics.probe import ProbeStepper
from drorae.errors import Notice, UserError
from drorae.generation.training import GeneratorStepper
from drorae.runtime.repeat import every
from drorae.storage.remote import Remote, locate
from drorae.training.loop import Row
from drorae.training.rows import is_held_out
from drorae.trial.generated import looked_at

if TYPE_CHECKING:
    import psutil

STEPS = 20
"""Steps of each phase from which the time of one is told."""
WARM_UP = 2
"""Steps before them: the first ones fill caches and pools."""
TRAIN_IMAGES, VAL_IMAGES = 256, 192
"""At most so many of each, and one batch at least. Different numbers: rows of progress tell one side by them."""
SAMPLES = 128
"""At most so many images of a generator: two of its batches."""
LOOK_SECONDS = 0.02
"""Between two looks at the memory."""
_MEASURES = {"evaluation", "measuring the originals", "measuring the baseline"}
"""What rows of progress begin something that every validation image takes part in with: their phase or their note."""
_GENERATION = {"latents": "latents", "controls": "controls", "sampling": "samples", "measuring": "samples"}
"""Phases of rows of what is done with a generator, beside its training, and the images that take part."""


class Images(NamedTuple):
    """How many there are."""

    train: int
    """Crops of an epoch."""
    val: int
    samples: int = 0
    """Those of a generator."""

    @classmethod
    def in_trial(cls, config: TrialConfig, train: int, val: int) -> Images:
        """Returns those of a trial with so many training and validation images."""
        return cls(train * max(config.images.views, 1), val, config.generator.samples)

    def of(self, config: TrialConfig) -> dict[str, int]:
        """Returns how many of them each part of a trial goes through; 1 where it goes through none."""
        own, probe = self.train // max(config.images.views, 1), config.probe
        counts = {
            "train": self.train,
            "val": self.val,
            "latents": own,
            "controls": looked_at(own, self.val, self.samples, config.evaluation.extractors),
            "samples": self.samples,
            "probe": min(probe.train_images, self.train),
            "held out": min(probe.val_images, self.val),
        }
        return {part: max(count, 1) for part, count in counts.items()}


@dataclass(frozen=True)
class Rehearsal:
    """What a whole trial takes on this machine, from an empty cache on."""

    seconds: dict[str, float] = field(default_factory=dict)
    """By part: the phases, `generator` and `probe` by name, `images` (cut, encoded, read), `evaluation`, `generation`
    (latents, controls, sampling and measuring of a generator), and `other`."""
    steps: dict[str, int] = field(default_factory=dict)
    """Of the whole trial, by phase, of a generator and of a probe."""
    memory_bytes: int = 0
    """The largest it was at once: of a process's own on a CPU, files that it maps left out; of the device on a GPU."""

    @property
    def hours(self) -> float:
        """Of all parts together."""
        return sum(self.seconds.values()) / 3600


def rehearse(config: TrialConfig, runtime: Runtime) -> Rehearsal:
    """Trains and measures a short version of a trial, in a process and with a cache of its own that are gone after it.

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
    whole = Images.in_trial(config, len(found.train), len(found.val))
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
    images = Images.in_trial(short, short.images.train_images, short.images.val_images)
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
    """Returns the trial with a few images, and a few steps of each phase, of its generator and of its probe."""
    views = max(config.images.views, 1)
    largest = max((phase.settings.batch_size for phase in config.phases if phase.settings.epochs), default=1)
    generator, batch = config.generator, _generator(config).batch_size
    train = max(TRAIN_IMAGES, math.ceil(largest / views), batch if generator.epochs else 0)
    train = min(whole.train // views, train)
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
        probe=replace(config.probe, steps=min(config.probe.steps, steps)),
        generator=replace(
            generator,
            epochs=min(generator.epochs, math.ceil(steps / max(train // batch, 1))),
            samples=min(generator.samples, SAMPLES),
        ),
        **phases,  # type: ignore[arg-type]
    )


def _generator(config: TrialConfig) -> GeneratorTraining:
    """How a trial's generator is trained."""
    return config.generator.run(config.seed, labelled=False).training


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
    few = short.of(config)
    times = {part: count / few[part] for part, count in whole.of(config).items()}
    moments = [(0.0, Row()), *rows, (ended, Row())]
    passages = [(now - before, last, row) for (before, last), (now, row) in pairwise(moments)]
    taken: dict[str, list[float]] = defaultdict(list)
    for passed, last, row in passages:
        if _is_step(row) and _is_step(last) and row["phase"] == last["phase"]:
            taken[str(row["phase"])].append(passed)
    one = {phase: statistics.fmean(series[-STEPS:]) for phase, series in taken.items()}
    seconds: dict[str, float] = defaultdict(float)
    for passed, last, row in passages:
        if not (_is_step(last) and _is_step(row)):
            part, images = _told(last, row, short.val)
            # A step apart, which is counted with its phase, what came before it.
            once = one.get(str(row["phase"]), 0.0) if _is_step(row) else 0.0
            seconds[part] += max(0.0, passed - once) * times.get(images, 1.0)
    steps = {phase: count for phase, count in _steps(config, whole).items() if phase in one}
    for phase, count in steps.items():
        seconds[phase] += one[phase] * count
    return Rehearsal(dict(seconds), steps, memory)


def _steps(config: TrialConfig, whole: Images) -> dict[str, int]:
    """The steps of all that is trained."""
    images, training = whole.of(config)["latents"], _generator(config)
    steps: dict[str, int] = {
        phase.name: phase.settings.epochs * (whole.train // phase.settings.batch_size) for phase in config.phases
    }
    steps[GeneratorStepper.name] = training.epochs * (images // min(training.batch_size, images))
    return steps | {ProbeStepper.name: config.probe.steps}


def _told(last: Row, row: Row, val: int) -> tuple[str, str]:
    """Says to what part the time between two rows belongs, and to which images' number it is proportional; "": to none.

    `val` is how many validation images there are.
    """
    # A further guidance's rows have its name before the phase.
    before, now = (str(one.get("phase", "")).rpartition(".")[2] for one in (last, row))
    if now in _GENERATION and (row.get("done") or row.get("step")):
        return "generation", _GENERATION[now]
    if row.get("done") and row.get("total"):
        # Of one side's images, as many as were done since the row before.
        return "images", "val" if row["total"] == val else "train"
    if before in _GENERATION:
        return "generation", _GENERATION[before]
    if before == ProbeStepper.name:
        return before, "held out" if _is_step(last) else "probe"
    if {last.get("phase"), last.get("note")} & _MEASURES:
        return "evaluation", "val"
    return "other", ""


def _is_step(row: Row) -> bool:
    """Whether a row tells of a step of training; a sampler's rows count images as steps."""
    return "step" in row and not is_held_out(row) and not str(row["phase"]).endswith("sampling")


def _share_weights(cache: Path | Remote, folder: Path) -> None:
    """Lets a new cache have the converted weights of another."""
    if not isinstance(cache, Remote) and (cache / "weights").is_dir():
        (folder / "weights").symlink_to((cache / "weights").resolve())


def own_bytes(process: psutil.Process) -> int:
    """Returns the bytes in memory that are a process's own: on Linux, files that it maps are left out."""
    used = process.memory_info()
    return int(used.rss - getattr(used, "shared", 0))
