"""`drorae train`: one trial."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from drorae.commands.options import ConfigOptions, JsonOption, Number, RuntimeOptions, option, require
from drorae.commands.terminal import ending, print_table, say, show, working
from drorae.config import Runtime, TrialConfig, config_hash, former_hash, override
from drorae.errors import UserError
from drorae.machine.needs import GPU_TFLOPS
from drorae.metrics.gain import gain_of
from drorae.storage.remote import Remote, locate
from drorae.trial.folder import MEASURED

if TYPE_CHECKING:
    from drorae.machine.bounds import Bound
    from drorae.machine.generator import GeneratorNeeds
    from drorae.machine.needs import Needs
    from drorae.training.loop import Report
    from drorae.trial.rehearsal import Rehearsal
    from drorae.trial.result import TrialResult
    from sweeps.resources import Resources, Share


@dataclass(kw_only=True)
class Train(JsonOption, RuntimeOptions, ConfigOptions):
    """Train and evaluate one trial: phases 2 and 3 on the shared phase-1 decoder, then the metrics.

    Example: drorae train --preset smoke --set capacity=64 --seed 1
    """

    seed: Annotated[int | None, option("N", "default: the config's")] = None
    """Shorthand for --set seed=N."""
    out: Annotated[Path | None, option("DIR", "default: runs/train-HASH")] = None
    """Folder of the run. The MLflow store lies beside it."""
    gpus: Annotated[int | None, option("N", "default: 1 where there are any")] = None
    """GPUs of this machine that train it together, a process for each."""
    processes: Annotated[int | None, option("N", "default: one for each GPU")] = None
    """Processes that train it together, on CPUs too; the CPU threads are shared out among them."""
    no_track: bool = False
    """Run without MLflow and Ray; DIR is then the trial's own folder."""
    dry_run: bool = False
    """Print what the trial would take and whether it can run here; train nothing."""
    gpu_tflops: Number = GPU_TFLOPS
    """For --dry-run: TFLOP/s that one GPU is assumed to sustain (30% of an H100's bf16 peak)."""
    rehearse: bool = False
    """For --dry-run: take a few steps of each phase here, and tell the hours and the memory of all from them."""

    def run(self) -> int:
        """Runs the trial; 0, or 1 where it failed or diverged."""
        from drorae.machine.capacity import check_machine
        from drorae.machine.needs import check_encoder

        config = self.trial_config()
        if self.seed is not None:
            config = override(config, "seed", self.seed)
        config.check()
        check_encoder(config)
        runtime = self.runtime()
        require(self.dry_run or not self.rehearse, "--rehearse", "--dry-run with it")
        if self.dry_run:
            require(self.gpu_tflops > 0, f"--gpu-tflops {self.gpu_tflops}", "a number above 0")
            self._answer_needs(config, runtime)
        check_machine(config, runtime)
        if self.dry_run:
            return 0
        if self.out is not None and isinstance(locate(self.out), Remote):
            raise UserError(f"--out {locate(self.out)}: expected a path; a sweep's --root may be a URL")
        own, former = (Path("runs") / f"train-{key}" for key in (config_hash(config), former_hash(config)))
        out = (self.out or (former if former.exists() and not own.exists() else own)).resolve()
        # Missing torch is found here, not by a worker.
        importlib.import_module("torch")
        resources = self._resources(runtime)
        share = resources.share(config, self.gpus is None and _sees_gpus(runtime))
        if share.processes > 1 or not self.no_track:
            runtime = replace(runtime, threads=runtime.threads or max(1, (os.cpu_count() or 1) // share.processes))
        if self.no_track:
            directory, result, reason = _untracked(config, runtime, out, share)
        else:
            directory, result, reason = _tracked(config, runtime, out, resources)
        if result is None:
            say(f"error: the trial failed: {reason}")
            return 1
        tree = {"directory": str(directory), **asdict(result)}
        self.answer(tree, lambda: _print_result(directory, result))
        return 0 if result.status in MEASURED else 1

    def _resources(self, runtime: Runtime) -> Resources:
        """Returns what the trial gets of this machine.

        Raises:
            UserError: GPUs that are not there or not wanted.
        """
        import torch

        from sweeps.resources import Resources

        if self.gpus:
            require(
                runtime.device in ("auto", "cuda"), f"--gpus {self.gpus} --device {runtime.device}", "--device cuda"
            )
            seen = torch.cuda.device_count()
            require(self.gpus <= seen, f"--gpus {self.gpus}", f"no more than this machine has, {seen}")
        return Resources(cpus=float(max(1, self.processes or self.gpus or 1)), gpus=self.gpus, processes=self.processes)

    def _answer_needs(self, config: TrialConfig, runtime: Runtime) -> None:
        """Prints what the trial would take."""
        from drorae.machine.bounds import bounds
        from drorae.machine.downloads import needed_weights
        from drorae.machine.generator import generator_needs
        from drorae.machine.needs import encoder_shape, guessed_shape, measure, train_images

        images, counted, classes = train_images(config, runtime)
        found = measure(config, runtime, images)
        weights = needed_weights(config)
        flops_per_second = self.gpu_tflops * 1e12
        shape = encoder_shape(config.encoder.name) or guessed_shape(config.encoder.name)
        generator = generator_needs(config, runtime, shape, images, classes)
        limits = bounds(config, runtime, found, images, flops_per_second, generator)
        memory, hours = found.memory_bytes, found.hours(flops_per_second)
        if generator is not None:
            memory = max(memory, generator.memory_bytes)
            hours += generator.flops / flops_per_second / 3600
        tree = {
            "params": found.params,
            "images_per_epoch": images,
            "images_counted": counted,
            "phases": [asdict(phase) | {"flops": phase.flops} for phase in found.phases],
            "memory_bytes": memory,
            "gpu_hours": hours,
            "assumed_flops_per_second": flops_per_second,
            "bounds": [bound._asdict() for bound in limits],
            "weights": [asdict(item) for item in weights],
        }
        if generator is not None:
            tree["generator"] = generator_tree(generator, flops_per_second)
        rehearsal = self._rehearsal(config, runtime)
        if rehearsal is not None:
            tree["rehearsal"] = asdict(rehearsal) | {"hours": rehearsal.hours}

        def in_words() -> None:
            _print_needs(found, flops_per_second)
            if generator is not None:
                print_generator(generator, flops_per_second)
            print_bounds(limits)
            how = "" if counted else " (ImageNet's number: the images are not here)"
            show(
                f"{images:,} training images{how}; memory {memory / 1e9:.3g} GB; "
                f"{hours:.4g} GPU hours at {self.gpu_tflops:g} TFLOP/s, which is an assumption"
            )
            for item in weights:
                state = "here" if item.here else "not here: will be downloaded, or give its path"
                show(f"{item.what} weights: {item.where} ({state})")
            if rehearsal is not None:
                _print_rehearsal(rehearsal)

        self.answer(tree, in_words)

    def _rehearsal(self, config: TrialConfig, runtime: Runtime) -> Rehearsal | None:
        """Takes a few steps of each phase, where that is wanted."""
        if not self.rehearse:
            return None
        from drorae.machine.capacity import check_machine
        from drorae.trial.rehearsal import rehearse

        check_machine(config, runtime)
        with working("rehearsing"):
            return rehearse(config, runtime)


def print_bounds(limits: Sequence[Bound], title: str = "bounds, estimated from arithmetic") -> None:
    """Prints the bounds of a trial under a title."""
    rows = [
        (bound.what, *("" if value is None else f"{value:.3g}" for value in (bound.hours, bound.gigabytes)), bound.how)
        for bound in limits
    ]
    print_table(("bound", "h", "GB", "how it is estimated"), rows, title, drop=("how it is estimated",))


def generator_tree(found: GeneratorNeeds, flops_per_second: float) -> dict[str, Any]:
    """Returns what a trial's generator takes as plain values, for JSON."""

    def hours(flops: float) -> float:
        return flops / flops_per_second / 3600

    drawings = [
        asdict(drawing) | {"draw_hours": hours(drawing.draw_flops), "measure_hours": hours(drawing.measure_flops)}
        for drawing in found.drawings
    ]
    return asdict(found) | {
        "flops": found.train_flops,
        "memory_bytes": found.memory_bytes,
        "latent_hours": hours(found.latent_flops),
        "train_hours": hours(found.train_flops),
        "control_hours": hours(found.control_flops),
        "gpu_hours": hours(found.flops),
        "drawings": drawings,
    }


def print_generator(found: GeneratorNeeds, flops_per_second: float) -> None:
    """Prints what a trial's generator takes to train, and what its images cost with each guidance."""
    told = f"told {found.classes:,} classes" if found.classes else "told nothing"
    tree = generator_tree(found, flops_per_second)
    header = ("generator", "parameters", "steps", "GFLOP/image", "FLOP", "weights GB", "optimiser GB", "activations GB",
              "h")  # fmt: skip
    sizes = (found.weight_bytes, found.optimiser_bytes, found.activation_bytes)
    row = (
        f"{found.size}, {found.precision}",
        f"{found.params:,}",
        f"{found.steps:,}",
        f"{found.flops_per_image / 1e9:.4g}",
        f"{found.train_flops:.3g}",
        *(f"{size / 1e9:.3g}" for size in sizes),
        f"{tree['train_hours']:.3g}",
    )
    print_table(header, [row], f"generator of the latents, {told}; memory {found.memory_bytes / 1e9:.3g} GB")
    drawn = [
        (
            drawing["guidance"],
            f"{drawing['images']:,}",
            f"{drawing['passes']:,}",
            f"{drawing['draw_flops']:.3g}",
            f"{drawing['draw_hours']:.3g}",
            f"{drawing['measure_flops']:.3g}",
            f"{drawing['measure_hours']:.3g}",
        )
        for drawing in tree["drawings"]
    ]
    drawn.append(("controls, once", "", "", "", "", f"{found.control_flops:.3g}", f"{tree['control_hours']:.3g}"))
    print_table(
        ("guidance", "images", "passes/image", "FLOP to draw", "h to draw", "FLOP to measure", "h to measure"), drawn
    )


def _print_needs(found: Needs, flops_per_second: float) -> None:
    """Prints parameters by network, and arithmetic, memory and hours by phase."""
    print_table(("network", "parameters"), [(name, f"{number:,}") for name, number in found.params.items() if number])
    parts = list(found.phases[0].flops_per_image) if found.phases else []
    header = ("phase", "steps", *(f"{part} GFLOP/image" for part in parts), "optimiser GB", "activations GB", "h")
    rows = [
        (
            phase.name,
            f"{phase.steps:,}",
            *(f"{value / 1e9:.4g}" for value in phase.flops_per_image.values()),
            f"{phase.optimiser_bytes / 1e9:.3g}",
            f"{phase.activation_bytes / 1e9:.3g}",
            f"{phase.flops / flops_per_second / 3600:.3g}",
        )
        for phase in found.phases
    ]
    print_table(header, rows)


def _print_rehearsal(found: Rehearsal) -> None:
    """Prints what a trial takes on this machine."""
    rows = [
        (part, f"{found.steps[part]:,}" if part in found.steps else "", f"{seconds / 3600:.3g}")
        for part, seconds in found.seconds.items()
    ]
    print_table(("part", "steps", "h"), rows, "counted up from a few steps of each phase on this machine")
    show(f"here: {found.hours:.3g} h, from an empty cache; memory {found.memory_bytes / 1e9:.3g} GB")


def _sees_gpus(runtime: Runtime) -> bool:
    """Whether the trial goes to a GPU that nobody asked for by number."""
    import torch

    return runtime.device != "cpu" and torch.cuda.is_available()


def _untracked(config: TrialConfig, runtime: Runtime, out: Path, share: Share) -> tuple[Path, TrialResult | None, str]:
    from drorae.runtime.processes import run_in_processes

    with ending(f"the same command goes on from the last checkpoint in {out}"), working("training") as note:
        if share.processes == 1:
            return out, _one_process(config, runtime, out, False, 0, note), ""
        work = partial(_one_process, config, runtime, out, share.gpus > 0)
        return out, run_in_processes(work, share.processes, "nccl" if share.gpus else "gloo", note), ""


def _one_process(
    config: TrialConfig, runtime: Runtime, out: Path, numbered: bool, number: int, report: Report
) -> TrialResult:
    """Prepares and trains a trial, or does process `number`'s part of it, on the GPU of its number where `numbered`."""
    from drorae.trial.run import prepare, run_trial

    if numbered:
        runtime = replace(runtime, device=f"cuda:{number}")
    prepare(config, runtime, report)
    return run_trial(config, report, directory=out, runtime=runtime)


def _tracked(
    config: TrialConfig, runtime: Runtime, out: Path, resources: Resources
) -> tuple[Path, TrialResult | None, str]:
    from drorae.trial.folder import read_outcome
    from drorae.trial.result import read_result
    from sweeps.driver.run import run_sweep
    from sweeps.spec import SweepSpec

    outcome = run_sweep(SweepSpec(out.name, config), root=out.parent, runtime=runtime, resources=resources)
    directory = outcome.directory / "trials" / config_hash(config)
    result = read_result(directory)
    return directory, result, "" if result else str(read_outcome(directory).get("reason", "unknown"))


def _print_result(directory: Path, result: TrialResult) -> None:
    rows = [
        (
            name,
            f"{result.baseline[name]:.5g}" if name in result.baseline else "",
            f"{value:.5g}",
            str(gain_of(result.gain, name, result.eval_images) or ""),
        )
        for name, value in result.metrics.items()
    ]
    rows.append(("fusion parameters", "0", f"{result.fusion_params:,}", ""))
    header = ("metric", "phase 1 (no fusion)", "fused", "gain (95%)")
    print_table(header, rows, f"{result.status}: {result.reason or directory.name}")
    print(directory)
