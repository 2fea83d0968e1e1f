"""`drorae sweep`: the trials of a sweep, then its law."""

from __future__ import annotations

import csv
import importlib
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from drorae.commands.options import (
    ConfigOptions,
    Count,
    Folder,
    JsonOption,
    Number,
    RuntimeOptions,
    Words,
    by_field,
    choose,
    flat,
    option,
    require,
)
from drorae.commands.terminal import ending, print_json, print_table, say, show, working
from drorae.commands.until import ALL, decided, verdict_name
from drorae.config import PRESETS, Runtime, TrialConfig, config_hash, flatten, load_config, override
from drorae.errors import UserError
from drorae.metrics.gain import gain_of
from drorae.metrics.registry import GAIN, METRICS, looked_through, objective
from drorae.redaction import public_address, redact
from drorae.runtime.shell import command, portable_command
from drorae.storage.remote import Remote, locate, patiently
from drorae.trial.folder import BROKEN, TrialStatus

if TYPE_CHECKING:
    from analysis.inference.record import Record
    from analysis.report.outcome import FitOutcome
    from sweeps.driver.run import SweepOutcome
    from sweeps.resources import Resources
    from sweeps.spec import Search, SweepSpec


@dataclass(kw_only=True)
class Sweep(JsonOption, RuntimeOptions, ConfigOptions):
    """Run the trials of a sweep on Ray Tune, track them in MLflow, then fit the scaling law.

    The same command run again does what is missing and nothing else.

    Example: drorae sweep --preset quickstart --axis capacity=8,32,128,512 seed=0,1 --name mine
    """

    axes: Annotated[Words, option("NAME=V,V", "repeatable", "axis")] = ()
    """Values to vary: capacity, layers, variant, lr, seed or a dotted config field. Replaces the preset's axis of
    that name, adds others; all combinations are run."""
    base: Annotated[str | None, option("NAME", "default: the sweep's own")] = None
    """Trial preset that the sweep varies: with --preset ablation --base quickstart, the paper's ablation at a size
    for CPUs."""
    name: Annotated[str | None, option("NAME", "default: the preset's")] = None
    """Name of the sweep, its folder and its MLflow experiment."""
    root: Folder = Path("runs")
    """Folder of all sweeps; holds the default MLflow store. Where nodes share no disk, s3://BUCKET/PREFIX."""
    until: Annotated[str, option("END")] = ALL
    """decided: run batch by batch, and stop once the law is supported or not supported, which holds over all looks;
    decided=no-saturation: once that verdict is."""
    tune: Annotated[Words, option("NAME[=LOW..HIGH]", "repeatable")] = ()
    """Fields that Optuna searches in every combination of the axes, seeds apart: --tune lr finds a learning rate for
    each capacity. A name alone: ten times less to ten times more; NAME=V,V: these values."""
    objectives: Annotated[Words, option("METRIC", "default: the first distance, or psnr", "objective")] = ()
    """What --tune looks for; several, such as rfd_dinov2 fusion_params: their Pareto set."""
    tune_trials: Count = 8
    """Trials of each search; the same command with more goes on."""
    sampler: Literal["tpe", "random", "gp", "nsga2"] = "tpe"
    """Optuna's sampler."""
    pruner: Literal["none", "median", "hyperband", "asha"] = "none"
    """Stop bad trials early: Optuna's pruner, on the mean training loss of an epoch. Pruned trials are recorded and
    never fitted."""
    cpus_per_trial: Number = 1.0
    """CPUs of one trial."""
    gpus_per_trial: Annotated[float | None, option("N", "default: 1 where there are any")] = None
    """GPUs of one trial; a fraction shares one, several train it together (through Ray Train)."""
    processes: Annotated[int | None, option("N", "default: one for each GPU")] = None
    """Processes that train one trial together, on CPUs too; its CPUs are shared out among them."""
    resources: Annotated[Words, option("NAME=V,V:WHAT=N", "repeatable")] = ()
    """Other cpus, gpus or processes for some trials, such as capacity=2048,4096:gpus=4,cpus=16."""
    max_concurrent: Count = 0
    """At most so many trials at once; 0: as many as fit."""
    pack: Annotated[int | None, option("N", "default: 6 of the quickstart, else 0")] = None
    """Train phase 2 of up to so many trials together, which differ in their fusions: faster, and the same up to
    rounding; 0: each alone."""
    max_failures: Count = 3
    """Retries of one trial in a row that get no further than before, each from its last checkpoint; 0: none at all."""
    budget_hours: Annotated[float, option("HOURS")] = 0.0
    """Start no more trials once the sweep has cost so many GPU hours (CPU hours where no trial has a GPU); 0: no
    limit. What runs then is finished; the same command with a larger budget goes on."""
    stall_minutes: Annotated[float, option("MINUTES")] = 0.0
    """End the worker of a trial that reports nothing for so long, and try it again; 0: 20 times its slowest step and
    at least half an hour, 6 hours where it has no steps."""
    notify: Annotated[str | None, option("COMMAND", "default: none")] = None
    """Program with its arguments, run without a shell when the sweep ends, however it does, and for the first trial
    that fails for good; DRORAE_MESSAGE in its environment says what there is to say."""
    asha: bool = False
    """The same as --pruner asha."""
    address: Annotated[str, option("ADDRESS")] = ""
    """A Ray cluster to join; empty: a local one for this sweep."""
    check_convergence: bool = False
    """Train the smallest and the largest size once more with twice the epochs, and say how far that moves the law; the
    presets quickstart and smoke do."""
    no_check_convergence: bool = False
    """Leave that out where the preset does it."""
    autoscaling: bool = False
    """The cluster starts nodes on demand: do not refuse trials that the nodes there are have no room for."""
    no_fit: bool = False
    """Stop after the trials."""
    dry_run: bool = False
    """List the trials and run nothing."""

    def run(self) -> int:
        """Runs the sweep; 0, or 1 where a trial failed."""
        from sweeps.checks import convergence_checks
        from sweeps.driver.cluster import cluster_address
        from sweeps.driver.notify import split_command
        from sweeps.spec import expand

        spec = self.spec()
        configs = expand(spec)
        checks = convergence_checks(spec, configs)
        if spec.check_convergence and not checks:
            say(f"note: convergence is not checked: {_no_checks(spec)}")
        runtime = self.runtime()
        require(self.max_concurrent >= 0, f"--max-concurrent {self.max_concurrent}", "0 (as many as fit) or more")
        split_command(self.notify)
        until = verdict_name(self.until)
        if self.dry_run:
            print_plan(configs, self.as_json, checks, runtime)
            if spec.search is not None:
                fields = ", ".join(item.name for item in spec.search.ranges)
                say(f"and a search of {spec.search.trials} trials for {fields} in each, seeds apart")
            return 0
        # A cluster's nodes are others than the driver's machine; the sweep checks those.
        if not cluster_address(self.address):
            from drorae.machine.capacity import check_machine

            for config in [*configs, *checks]:
                check_machine(config, runtime)
        from sweeps.driver.run import run_sweep
        from sweeps.settings import Asha

        if not self.no_fit:
            threading.Thread(target=import_analysis, daemon=True).start()
        outcome = run_sweep(
            spec,
            root=self.root,
            runtime=runtime,
            resources=self._resources(),
            max_failures=self.max_failures,
            asha=Asha() if self.asha else None,
            pruner=self.pruner,
            budget_hours=self.budget_hours,
            stall_minutes=self.stall_minutes,
            pack=self._pack(spec),
            until=until,
            decided=decided,
            notify=self.notify,
        )
        return conclude(spec, outcome, self.root, self.no_fit, self.as_json)

    def _pack(self, spec: SweepSpec) -> int:
        from sweeps.presets import PACKED

        if self.pack is not None:
            return self.pack
        alone = spec.search is not None or self.asha or self.pruner != "none" or self.compile or self.until != ALL
        alone = alone or isinstance(locate(self.root), Remote)
        preset = self.preset or ("quickstart" if self.config is None else "")
        return 0 if alone else PACKED.get(preset, 0)

    def _resources(self) -> Resources:
        from sweeps.parsing import parse_rule
        from sweeps.resources import Resources

        return Resources(
            cpus=self.cpus_per_trial,
            gpus=self.gpus_per_trial,
            processes=self.processes,
            rules=tuple(parse_rule(text) for text in flat(self.resources)),
            max_concurrent=self.max_concurrent,
            address=self.address,
            autoscaling=self.autoscaling,
        )

    def spec(self) -> SweepSpec:
        """Returns the sweep these options describe.

        Raises:
            UserError: an unknown preset, an unusable file, axis or field, or a field both set and varied.
        """
        from sweeps.parsing import parse_axis
        from sweeps.spec import SweepSpec, field_name

        if self.pruner != "none" and self.asha:
            raise UserError("--pruner and --asha both end trials early; drop one of the two")
        spec = self.sweep_spec()
        if self.base is not None:
            spec = replace(spec, base=choose(PRESETS, self.base, "--base", "trial preset"))
        given = [parse_axis(text) for text in flat(self.axes)]
        new = by_field("--axis", ((axis.name, axis) for axis in given), "give all its values at once")
        axes = {field_name(axis.name): axis for axis in spec.axes} | new
        listed = {field_name(name) for point in spec.listed for name in point}
        for dotted in self.changes():
            if dotted in axes or dotted in listed:
                raise UserError(f"--set {dotted}: the sweep varies it; give its values with --axis instead")
        base = self.changed(spec.base)
        search = self._search(base) if self.tune else spec.search
        if self.objectives and search is None:
            raise UserError("--objective: nothing is searched; name a field with --tune")
        searched = {field_name(item.name) for item in search.ranges} if search else set()
        both = [axis.name for dotted, axis in new.items() if dotted in searched] + sorted(searched & listed)
        if both:
            raise UserError(f"--tune {both[0]}: the sweep varies it; drop one of the two")
        kept = tuple(axis for dotted, axis in axes.items() if dotted not in searched)
        require(
            not (self.check_convergence and self.no_check_convergence),
            "--check-convergence and --no-check-convergence", "one of the two",
        )  # fmt: skip
        check = (self.check_convergence or spec.check_convergence) and not self.no_check_convergence
        return SweepSpec(self.name or spec.name, base, kept, spec.listed, search, check)

    def _search(self, base: TrialConfig) -> Search:
        from sweeps.parsing import parse_range
        from sweeps.spec import Search

        ranges = tuple(parse_range(text, base) for text in flat(self.tune))
        by_field("--tune", ((item.name, item) for item in ranges), "give one range")
        require(self.tune_trials >= 2, f"--tune-trials {self.tune_trials}", "2 or more")
        objectives = flat(self.objectives) or [objective(base.evaluation.extractors, looked_through(flatten(base)))]
        if self.pruner != "none" and len(objectives) > 1:
            raise UserError("--pruner: Optuna prunes searches of one objective only; drop it")
        return Search(ranges, tuple(dict.fromkeys(objectives)), self.tune_trials, self.sampler, self.pruner)


def conclude(spec: SweepSpec, outcome: SweepOutcome, root: Path, no_fit: bool, as_json: bool) -> int:
    """Fits a sweep's law and prints what came of both.

    Args:
        spec: the sweep.
        outcome: what its trials left.
        root: folder or URL of all sweeps.
        no_fit: fit nothing.
        as_json: print one JSON object.

    Returns:
        The exit status: 1 where a trial is broken or missing.
    """
    law = None
    if not no_fit:
        with (
            ending("the trials are done; for their law: ", command("report", outcome.place)),
            working("fitting the law"),
        ):
            law = _fit(spec, outcome)
    if law is not None and outcome.mirror is not None:
        patiently(outcome.mirror.push)
    if as_json:
        print_json(_tree(outcome, law))
    else:
        _print_outcome(outcome, law, root)
    if outcome.decided:
        rest = outcome.counts.get(TrialStatus.NOT_NEEDED, 0)
        more = command("resume", spec.name, *(() if str(root) == "runs" else ("--root", root)), "--until", ALL)
        say(outcome.decided + (f"; to run the {rest} not needed: {more}" if rest else ""))
    moved = [item.selection.y_name for item in law.analyses if item.not_converged] if law is not None else []
    if moved:
        say(f"not converged: twice the steps move the law of {', '.join(moved)}; train for more epochs")
    return 1 if any(outcome.counts.get(status) for status in (*BROKEN, TrialStatus.MISSING)) else 0


def _no_checks(spec: SweepSpec) -> str:
    """Why a sweep that is to check its convergence has no trial that does."""
    if spec.search is not None:
        return "--tune chooses settings for this many steps, and twice the steps would be another search"
    return "no phase of its own is trained, or the sweep varies the epochs itself"


def import_analysis() -> None:
    """Imports what the law will need, which takes seconds in which the driver otherwise waits for its workers."""
    for name in ("analysis.report.outcome", "matplotlib.figure"):
        importlib.import_module(name)


def _points(configs: Sequence[TrialConfig]) -> list[dict[str, Any]]:
    """Returns what distinguishes each trial, by short name."""
    from sweeps.spec import as_cell, read_field, short_name, varied_fields

    names = varied_fields(configs)
    return [{short_name(name): as_cell(read_field(config, name)) for name in names} for config in configs]


def _sized(config: TrialConfig) -> TrialConfig:
    """A config with ImageNet's number of training images where it does not say how many."""
    from drorae.machine.needs import IMAGENET_IMAGES

    counted = config.images.source == "photos" or config.images.train_images
    return config if counted else override(config, "images.train_images", IMAGENET_IMAGES)


def print_plan(
    configs: Sequence[TrialConfig], as_json: bool, checks: Sequence[TrialConfig] = (), runtime: Runtime | None = None
) -> None:
    """Prints the trials a sweep would run, with their fusion parameters where the encoder's size is known.

    GPU hours are those of the phases that a trial trains itself and of its generator; phase 1 is shared.

    Args:
        configs: the trials of the law.
        as_json: print one JSON object.
        checks: those that check their convergence, which are listed after them; none by default.
        runtime: how they would run; None: as usual.
    """
    from drorae.commands.train import generator_tree, print_bounds, print_generator
    from drorae.machine.bounds import rough_bounds
    from drorae.machine.extent import trial_flops
    from drorae.machine.generator import rough_generator
    from drorae.machine.needs import GPU_TFLOPS, encoder_shape
    from drorae.models.fusion.size import fusion_params

    rows, hours, largest = [], 0.0, (-1.0, configs[0])
    configs, runtime, flops_per_second = [*configs, *checks], runtime or Runtime(), GPU_TFLOPS * 1e12
    for config, point in zip(configs, _points(configs), strict=True):
        shape = encoder_shape(config.encoder.name)
        params = fusion_params(config.fusion, shape.depth, shape.width) if shape else None
        sized = _sized(config)
        generator = rough_generator(sized, runtime)
        own = trial_flops(sized) / flops_per_second / 3600
        hours += own
        largest = max(largest, (own, sized), key=lambda pair: pair[0])
        sizes = {"fusion_params": params}
        if any(other.generator.epochs for other in configs):
            sizes["generator_params"] = generator.params if generator else None
        rows.append({"config_hash": config_hash(config), **point, **sizes, "gpu_hours": round(own, 1)})
    trained = [[phase.number for phase in config.phases if phase.settings.epochs] for config in configs]
    last = sorted({f"phase {max(numbers, default=1)}" for numbers in trained})
    limits, generator = rough_bounds(largest[1], runtime, flops_per_second), rough_generator(largest[1], runtime)
    if as_json:
        tree: dict[str, Any] = {"trials": rows, "gpu_hours": hours, "measured_after": last}
        tree["largest_trial_bounds"] = [bound._asdict() for bound in limits]
        if generator is not None:
            tree["largest_trial_generator"] = generator_tree(generator, flops_per_second)
        print_json(tree | {"convergence_checks": [config_hash(config) for config in checks]})
        return
    cells = [["" if value is None else f"{value}" for value in row.values()] for row in rows]
    header = list(rows[0])
    if hours < 1:
        header, cells = header[:-1], [row[:-1] for row in cells]
    title = f"{len(rows)} trials, measured after {' or '.join(last)}"
    if checks:
        title += f"; {len(checks)} of them {'check' if len(checks) > 1 else 'checks'} convergence, with twice the steps"
    print_table(header, cells, title, drop=("config_hash",))
    if generator is not None:
        print_generator(generator, flops_per_second)
    if hours >= 1:
        say(
            f"{hours:,.0f} GPU hours at {GPU_TFLOPS:g} TFLOP/s, an assumption, on as many images as ImageNet has "
            "where a config does not say; phase 1, which they share, apart"
        )
        print_bounds(limits, "bounds of the largest trial with its phase 1, estimated from arithmetic")


def _fit(spec: SweepSpec, outcome: SweepOutcome) -> FitOutcome | None:
    """Writes the sweep's law to its folder and to MLflow; returns None, with a note, where there is none to fit."""
    from analysis.report.mlflow import write_fits
    from analysis.table.files import read_table
    from drorae.commands.report import counted, fit_trials, searched_pictures, trial_pictures

    name = spec.name
    try:
        frame = read_table(outcome.trials_csv)
        found = {} if spec.search is None else searched_pictures(frame, spec.search.objectives, outcome.directory)
        law = fit_trials(
            frame,
            outcome.directory / "law",
            f"{name}: {counted(frame)}",
            portable_command("report", outcome.directory.name),
            found | trial_pictures(outcome.directory, frame, outcome.fetch_picture),
            _record(name, outcome),
        )
    except UserError as error:
        say(f"note: {error}")
        return None
    try:
        write_fits(law.analyses, law.paths, outcome.tracking_uri, name, outcome.parent_run_id or None)
    except UserError as error:
        say(f"warning: {error}")
    return law


def _record(name: str, outcome: SweepOutcome) -> Record | None:
    """Returns how predictions registered for the sweep did; None, with a note, where MLflow does not answer."""
    from drorae.commands.record import record_of
    from drorae.commands.source import MLFLOW, SourceOptions

    try:
        return record_of(SourceOptions(source=MLFLOW + name, tracking_uri=outcome.tracking_uri), outcome.directory)
    except UserError as error:
        say(f"note: no record of registered predictions: {error}")
        return None


def _tree(outcome: SweepOutcome, law: FitOutcome | None) -> dict[str, Any]:
    fields = {name: str(value) if isinstance(value, Path) else value for name, value in vars(outcome).items()}
    return {name: value for name, value in fields.items() if name != "mirror"} | {
        "directory": outcome.place,
        "fits": list(law.trees) if law else [],
        "paths": {name: str(path) for name, path in law.paths.items()} if law else {},
    }


def _print_outcome(outcome: SweepOutcome, law: FitOutcome | None, root: Path) -> None:
    with outcome.trials_csv.open() as file:
        rows = list(csv.DictReader(file))
    _print_trials(outcome, rows)
    for row in rows:
        # One that is missing for a reason has a damaged result; why some were not needed ends the output.
        quiet = (TrialStatus.FINISHED, TrialStatus.NOT_NEEDED, *(() if row.get("reason") else (TrialStatus.MISSING,)))
        if row["status"] not in quiet:
            say(f"note: {row['config_hash']} {row['status']}: {row.get('reason', '')}")
    if law is not None:
        show(law.text + "\n")
    # To be copied, so that the terminal breaks them.
    print(redact("\n".join(_places(outcome, law, root))))


def _print_trials(outcome: SweepOutcome, rows: Sequence[Mapping[str, str]]) -> None:
    from sweeps.folder.table import marks

    paths = sorted((outcome.directory / "trials").glob("*/config.json"))
    keys = [path.parent.name for path in paths]
    points = dict(zip(keys, _points([load_config(path) for path in paths]), strict=True))
    varied = list(next(iter(points.values()), {}))
    listed = [metric.name for metric in METRICS if metric.listed]
    known = ("fusion_params", *listed, "train_seconds", "status")
    names = [name for name in known if any(row.get(name) for row in rows)]
    gained = next((f"{GAIN}{name}" for name in listed if any(row.get(f"{GAIN}{name}") for row in rows)), "")
    if gained:
        names.insert(names.index("status"), gained)
    cells = []
    for row in rows:
        point, shown = points.get(row["config_hash"], {}), {name: _cell(row.get(name, "")) for name in names}
        if gained:
            shown[gained] = str(gain_of(row, gained, float(row.get("eval_images") or 0)) or "")
        cells.append([*(str(point.get(name, "")) for name in varied), *shown.values()])
    drop = ("train_seconds", *reversed(listed[2:]), gained, "fusion_params", "status")
    counts = ", ".join(f"{number} {status}" for status, number in outcome.counts.items())
    title = f"{outcome.directory.name}: {counts}"
    starred = marks(rows, names)
    head, left = ([f"{name}*" if name in starred else name for name in group] for group in (names, drop))
    print_table([*varied, *head], cells, title, drop=left, whole=f"{outcome.trials_csv} has all")
    for name, said in starred.items():
        print(f"* {name}: {said}")


def _places(outcome: SweepOutcome, law: FitOutcome | None, root: Path) -> list[str]:
    """Returns lines that say where everything is."""
    from analysis.table.mlflow import LOCAL_UI

    lines = [f"trials: {outcome.trials_csv}"]
    if outcome.mirror is not None:
        lines.append(f"        and at {outcome.place}")
    if law is not None:
        lines += [f"plot:   {law.paths['png']}", f"report: {law.paths['html']}"]
    local = outcome.tracking_uri.startswith("sqlite:") and not os.environ.get("MLFLOW_TRACKING_URI")
    lines.append(f"MLflow: {command('ui', '--root', locate(root)) if local else outcome.tracking_uri}")
    if outcome.charts:
        ui = public_address(outcome.tracking_uri) if outcome.tracking_uri.startswith("http") else LOCAL_UI
        lines.append(f"charts: {ui}/{outcome.charts}")
    return lines


def _cell(text: str) -> str:
    try:
        number = float(text)
    except ValueError:
        return text
    return f"{number:,.0f}" if number.is_integer() and abs(number) >= 1000 else f"{number:.4g}"
