"""The training loop of a phase: steps, reports, checkpoints, and the end of a run that diverges."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from drorae.config import Phase, Runtime
from drorae.data.features import TrainingFeatures
from drorae.errors import UserError, brief
from drorae.losses.objective import Objective
from drorae.models.tokenizer import Tokenizer
from drorae.runtime import distributed, out_of_memory
from drorae.storage.files import remove_drafts
from drorae.training.adversary import Adversary
from drorae.training.checkpoint import (
    CheckpointWriter,
    WeightAverage,
    load_checkpoint,
    save_checkpoint,
    seconds_between,
)
from drorae.training.phases import part_of
from drorae.training.rows import HELD_OUT, MOST_LOOKS, MOST_PICTURES, PASSING, steps_between
from drorae.training.step import Stepper

Row = dict[str, float | str]
Report = Callable[[Row], None]
Look = Callable[[Tokenizer, Phase, int, bool], dict[str, float]]
"""look(tokenizer, phase, step, painting): what is measured of held-out images after a step, by name; with `painting`,
a picture of some is left as well."""
Glance = Callable[[int, bool], dict[str, float]]
"""glance(step, painting): a `Look` at the tokenizer that is being trained."""


class TakesSteps(Protocol):
    """What takes the steps of a `PhaseRun`: `Stepper` those of a phase, others those of whatever else is trained."""

    batch_size: int
    """Images of a step, in all processes together."""
    steps_per_epoch: int
    total: int
    """Steps in all."""
    share: int
    """Images of a step, in this process."""
    micro_batch: int
    """Images that go through the networks at once."""
    device: torch.device
    average: WeightAverage | None
    """Of the module's weights; None: they are handed on themselves."""

    @property
    def module(self) -> nn.Module:
        """What is trained, and a checkpoint keeps."""

    @property
    def optimiser(self) -> torch.optim.Optimizer:
        """What moves it."""

    @property
    def name(self) -> str:
        """What the rows and messages call it, such as phase2."""

    @property
    def adversary(self) -> Adversary | None:
        """A discriminator that is trained beside it; None: there is none."""

    def take(self, step: int) -> dict[str, Tensor]:
        """Takes a step (counted from 0), a function of the weights and its number alone; its losses by name."""

    def rate(self, step: int) -> float:
        """Returns the learning rate of a step (counted from 0)."""

    def rest(self) -> None:
        """Leaves what was trained with gradients and training modes off."""

    def close(self) -> None:
        """Ends what reads ahead."""


S = TypeVar("S", bound=TakesSteps)


class Clock:
    """The seconds of training: those of the clock on the wall, and of the CPU, without pauses.

    Trials that are trained together have one in common: none trains while another is measured.
    """

    def __init__(self) -> None:
        self._paused = self._cpu_paused = 0.0

    def read(self) -> tuple[float, float]:
        """Returns wall seconds and CPU seconds, since whenever."""
        return time.perf_counter() - self._paused, time.process_time() - self._cpu_paused

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves the time of the block out."""
        began, cpu_began = self.read()
        try:
            yield
        finally:
            ended, cpu_ended = self.read()
            self._paused += ended - began
            self._cpu_paused += cpu_ended - cpu_began


class DivergenceError(Exception):
    """A loss or a weight stopped being a finite number; the message says at which step.

    The last checkpoint is from before.
    """


@dataclass
class TrainingRecord:
    """What a phase leaves beside the weights in the tokenizer."""

    steps: int = 0
    seconds: float = 0.0
    """Wall seconds of all sittings."""
    cpu_seconds: float = 0.0
    rows: list[Row] = field(default_factory=list)
    """What was reported, as far as it is kept (`drorae.training.rows`)."""
    micro_batch: int = 0
    """Images at once, where memory did not hold as many as asked for; 0: it did."""
    packed: int = 0
    """Trials that were trained together, in shares of the seconds; 0: this one alone."""

    @classmethod
    def of(cls, tree: Mapping[str, Any]) -> TrainingRecord:
        """Returns the record whose fields a tree holds; earlier versions kept the loss of every step among them."""
        return cls(**{name: value for name, value in tree.items() if name != "losses"})


def train_phase(
    tokenizer: Tokenizer,
    phase: Phase,
    features: TrainingFeatures,
    objective: Objective,
    adversary: Adversary | None = None,
    *,
    seed: int,
    device: torch.device,
    checkpoint: Path,
    runtime: Runtime,
    report: Report,
    look: Look | None = None,
) -> TrainingRecord:
    """Trains the phase's parts in place, from the checkpoint if there is one.

    An interrupted run that is started again ends with the same weights, to the bit on one CPU, as one that was
    not interrupted: model, optimiser, average, discriminator and position are saved together, and everything random
    in a step is seeded by its number. On resuming, the rows kept so far are reported again first. Incomplete
    last batches are left out.

    Where torch.distributed is set up, each process takes an equal part of every batch, all report the same losses,
    those of the whole batch, and the main one saves.

    Args:
        tokenizer: whose parts are trained.
        phase: what trains, on which latent, and how it is optimised.
        features: the training items.
        objective: the loss without its adversarial term.
        adversary: its adversarial term; None: there is none.
        seed: seeds the order of the items and what is random in a step.
        device: where the networks are.
        checkpoint: file to resume from and to write to.
        runtime: how often to save and report, and images at once.
        report: hears of the losses; rows that are not kept (`drorae.training.rows`) are marked.
        look: measures held-out images every `runtime.evaluate_every` steps, for rows of their own, and changes nothing
            of the training; None, the default: nobody does.

    Raises:
        DivergenceError: a loss or a weight became infinite or not a number.
        UserError: the checkpoint does not fit, there are no images for one batch, the batch cannot be shared out, or
            memory does not hold one image.
    """
    if nothing_to_train(tokenizer, phase):
        tokenizer.requires_grad_(False).eval()
        return TrainingRecord()
    stepper = Stepper(tokenizer, phase, features, objective, adversary, seed=seed, device=device, runtime=runtime)
    run = PhaseRun(stepper, runtime, checkpoint, report, look=look and partial(glance, stepper, look))
    with seeded_steps(device):
        return run.to_the_end()


def glance(stepper: Stepper, look: Look, step: int, painting: bool) -> dict[str, float]:
    """Looks at a phase's tokenizer as it would be handed on now; a `Glance`, once stepper and look are given."""
    with stepper.at_rest() as tokenizer:
        return look(tokenizer, stepper.phase, step, painting)


def nothing_to_train(tokenizer: Tokenizer, phase: Phase) -> bool:
    """Says whether a phase has no epochs, or parts without parameters."""
    parts = (part_of(tokenizer, part) for part in phase.trains)
    return phase.settings.epochs == 0 or not any(True for part in parts for _ in part.parameters())


def seeded_steps(device: torch.device) -> AbstractContextManager[None]:
    """Keeps torch's generator for those outside: every step seeds it by its number."""
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])


class PhaseRun(Generic[S]):
    """One phase of one trial under way: its stepper, its record, its reports and its checkpoints.

    What an earlier sitting left is taken up, and reported again. Steps are taken in its context, whose end waits until
    the last checkpoint is written, and ends what reads ahead.

    Args:
        stepper: takes its steps.
        runtime: how often to save and report.
        checkpoint: file to resume from and to write to.
        report: hears of the losses, as of `train_phase`.
        share: of the time that passes, the part that is this trial's: below 1 where several are trained together.
        look: measures held-out images now and then; None: nobody does.
        clock: times the training; None: one of its own.
        after: called after each step with how many were taken, before a checkpoint can say that it was.

    Raises:
        UserError: the checkpoint does not fit.
    """

    def __init__(
        self,
        stepper: S,
        runtime: Runtime,
        checkpoint: Path,
        report: Report,
        share: float = 1.0,
        look: Glance | None = None,
        clock: Clock | None = None,
        after: Callable[[int], None] = lambda steps: None,
    ) -> None:
        self.stepper, self.runtime, self.checkpoint, self.report = stepper, runtime, checkpoint, report
        self._whole, self._share = self.stepper.micro_batch, share
        self._kept_every = steps_between(runtime.log_steps, self.stepper.total)
        self._look, self._clock, self._after = look, clock or Clock(), after
        if every := runtime.evaluate_every:
            self._looks_kept_every = steps_between(every, self.stepper.total, MOST_LOOKS)
            # Those that go with a row that is kept.
            self._painted_every = steps_between(self._looks_kept_every, self.stepper.total, MOST_PICTURES)
        self.record = _resume(checkpoint, self.stepper)
        for row in self.record.rows:
            report(row)
        self._saved, self._held_up, self._unpaid = time.perf_counter(), 0.0, 0
        self._writer = CheckpointWriter(checkpoint)
        if distributed.is_main():
            remove_drafts(checkpoint)
        self._reported, self._cpu_reported = self._clock.read()
        self._window: list[dict[str, Tensor]] = []

    def __enter__(self) -> PhaseRun[S]:
        return self

    def __exit__(self, kind: type[BaseException] | None, *more: object) -> None:
        self.stepper.close()
        if kind is None:
            self._writer.finish()
            return
        # What ended the training is what there is to say.
        with contextlib.suppress(Exception):
            self._writer.finish()

    @property
    def done(self) -> bool:
        """Whether all steps are taken."""
        return self.record.steps >= self.stepper.total

    def to_the_end(self) -> TrainingRecord:
        """Takes all steps that are left, in its context, and returns the record; what was trained is at rest then.

        Raises:
            DivergenceError: a loss or a weight is not finite.
        """
        with self:
            while not self.done:
                self.note(self.stepper.take(self.record.steps))
        return self.end()

    def note(self, losses: dict[str, Tensor]) -> None:
        """Takes in what a step has lost; reports, measures and saves now and then.

        Raises:
            DivergenceError: a loss or a weight is not finite; it is seen where losses are reported.
        """
        self._after(self.record.steps + 1)
        self._window.append(losses)
        self.record.steps += 1
        # Checkpoints fall on reported steps only, so that an interrupted run reports the same rows.
        reporting = not self.record.steps % self.runtime.log_steps or self.done
        rows = [self._close_window()] if reporting else []
        rows += self._look_around()
        # With all rows of its step, so that none is missing, or comes again, after a resume.
        if reporting:
            self._save()
        for row in rows:
            self.report(row)

    def _close_window(self) -> Row:
        """Returns the row of the steps since the last one, which the record keeps as it should."""
        stepper, record = self.stepper, self.record
        now, cpu = self._clock.read()
        means = _finite(stepper, self._window, record.steps)
        if stepper.micro_batch < self._whole:
            record.micro_batch = stepper.micro_batch
        seconds = max(now - self._reported, 1e-9) * self._share
        row = _row(stepper, record, means, seconds)
        if record.steps % self._kept_every and not self.done:
            row[PASSING] = 1.0
        else:
            record.rows.append(row)
        record.seconds += seconds
        record.cpu_seconds += (cpu - self._cpu_reported) * self._share
        self._window, self._reported, self._cpu_reported = [], now, cpu
        return row

    def _look_around(self) -> list[Row]:
        """Returns the row of what is measured of held-out images after this step, where anything is."""
        every, record = self.runtime.evaluate_every, self.record
        if self._look is None or not every or record.steps % every:
            return []
        with self._clock.paused():
            if self._window:
                # Amid a window: nothing is measured of weights that are no numbers.
                _finite(self.stepper, self._window, record.steps)
            if not distributed.is_main():
                return []
            began, last = time.perf_counter(), record.steps + every > self.stepper.total
            painting = last or not record.steps % self._painted_every
            found = self._look(record.steps, painting)
            row: Row = {"phase": self.stepper.name, "step": float(record.steps), **found}
            row[f"{HELD_OUT}seconds"] = time.perf_counter() - began
        if record.steps % self._looks_kept_every and not last:
            row[PASSING] = 1.0
        else:
            record.rows.append(row)
        return [row]

    def _save(self) -> None:
        """Writes a checkpoint, where one is due."""
        now = time.perf_counter()
        # It stood still while the last one was copied; whoever wrote it took a core from those that train, and a
        # product that several share out waits for the slowest.
        held_up = self._unpaid * (self._held_up + self._writer.cpu_seconds)
        wait = seconds_between(self.runtime.checkpoint_seconds, held_up, self._share)
        if now - self._saved > wait and not self.done and distributed.is_main():
            self._writer.save(_state(self.stepper, self.record))
            self._saved, self._held_up = now, time.perf_counter() - now
            # The first comes before anybody knows what one costs: the second is due when both are paid for.
            self._unpaid = 1 if self._unpaid else 2

    def keep(self) -> None:
        """Writes a checkpoint of what was trained, ended or not: whoever takes it up goes on from here."""
        save_checkpoint(self.checkpoint, _state(self.stepper, self.record))

    def end(self) -> TrainingRecord:
        """Leaves what was trained with the weights that are handed on, and none of it in training."""
        if self.stepper.average is not None:
            self.stepper.average.copy_to(self.stepper.module)
        self.stepper.rest()
        return self.record


def _row(stepper: TakesSteps, record: TrainingRecord, losses: dict[str, list[float]], seconds: float) -> Row:
    """Returns what is reported of the last steps, which took so many seconds."""
    row: Row = {"phase": stepper.name, "step": float(record.steps)}
    row |= {"epoch": record.steps / stepper.steps_per_epoch}
    row |= {name: float(np.mean(series)) for name, series in losses.items()}
    row |= {"lr": stepper.rate(record.steps - 1)}
    row |= {"images_per_second": len(losses["loss"]) * stepper.batch_size / seconds}
    row |= {"total_steps": float(stepper.total)}
    return row | ({"micro_batch": float(record.micro_batch)} if record.micro_batch else {})


def _finite(stepper: TakesSteps, window: list[dict[str, Tensor]], last: int) -> dict[str, list[float]]:
    """Returns the losses of the steps up to `last`, by name, means over the processes.

    Raises:
        DivergenceError: one of them is not finite, or a weight after the last step; in all processes alike.
    """
    phase, first = stepper.name, last - len(window) + 1
    values, bad = {}, []
    # The adversary's terms may begin within a window.
    for name in dict.fromkeys(name for losses in window for name in losses):
        steps = [step for step, losses in enumerate(window, first) if name in losses]
        series = distributed.mean(torch.stack([losses[name] for losses in window if name in losses])).tolist()
        bad += [(step, name, value) for step, value in zip(steps, series, strict=True) if not math.isfinite(value)]
        values[name] = series
    if bad:
        step, name, value = min(bad, key=lambda item: item[0])
        raise DivergenceError(f"{phase}: {name} {value} at step {step}; lower {phase}.lr")
    # A last update may have spoilt the weights after its loss was taken; earlier ones show in the next loss.
    networks = [stepper.module] if stepper.adversary is None else [stepper.module, stepper.adversary.network]
    weights = [weight for network in networks for weight in network.parameters()]
    largest = torch.nn.utils.get_total_norm(weights, math.inf).item()
    if not math.isfinite(largest):
        raise DivergenceError(f"{phase}: weights {largest} after step {last}; lower {phase}.lr")
    return values


def _state(stepper: TakesSteps, record: TrainingRecord) -> dict[str, Any]:
    """Returns what a checkpoint keeps."""
    networks = {
        "module": stepper.module.state_dict(),
        "optimiser": stepper.optimiser.state_dict(),
        "average": stepper.average.average if stepper.average is not None else {},
        "adversary": stepper.adversary.state() if stepper.adversary is not None else {},
    }
    return networks | {"step" if name == "steps" else name: value for name, value in vars(record).items()}


def _resume(checkpoint: Path, stepper: TakesSteps) -> TrainingRecord:
    """Puts everything where the checkpoint left it; nothing where there is none."""
    saved = load_checkpoint(checkpoint)
    if saved is None:
        return TrainingRecord()
    try:
        stepper.module.load_state_dict(saved.pop("module"))
        stepper.optimiser.load_state_dict(saved.pop("optimiser"))
        average, adversary = saved.pop("average"), saved.pop("adversary")
        if stepper.average is not None:
            stepper.average.load(average)
        if stepper.adversary is not None:
            stepper.adversary.load_state(adversary)
        record = TrainingRecord.of({"steps": saved.pop("step"), **saved})
    except (KeyError, TypeError, RuntimeError, ValueError) as error:
        if out_of_memory.out_of_memory(error):
            raise
        reason = brief(error, 160)
        raise UserError(f"{checkpoint}: does not fit this config ({reason}); rename it to start over") from None
    # What did not fit before will not now.
    stepper.micro_batch = min(stepper.micro_batch, record.micro_batch or stepper.micro_batch)
    return record
