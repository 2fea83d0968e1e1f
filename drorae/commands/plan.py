"""`drorae plan`: which sizes and seeds to run next, as a sweep that `drorae sweep` takes."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import arg

from drorae.commands.fit import SourceOptions
from drorae.commands.options import ConfigOptions, Listed, flat, print_json, print_table, say, show, working
from drorae.errors import UserError
from drorae.runtime.shell import command

if TYPE_CHECKING:
    import numpy as np

    from analysis.inference import plan as planning
    from analysis.inference.analysis import Analysis
    from sweeps.spec import SweepSpec

SHOWN = 8
"""Designs in the table for people."""


@dataclass(kw_only=True)
class Plan(SourceOptions, ConfigOptions):
    """Choose the next runs by simulation: halve the slope's interval, tell a line from an offset, pin a prediction.

    With --out the design is written as DIR/sweep.json, for drorae sweep --config DIR/sweep.json.

    Example: drorae plan results/paper/capacity.csv --y rfid --goal offset --runs 8 --preset paper --out next
    """

    x: Annotated[str, arg(metavar="COLUMN")] = "params"
    """Size: params, capacity, layers or a column."""
    y: Annotated[str, arg(metavar="COLUMN", help_behavior_hint="(required)")] = ""
    """Metric, such as rfd_dinov2."""
    goal: Literal["slope", "offset", "prediction"] = "slope"
    """slope: halve its interval; offset: tell log-linear from a power law with offset; prediction: halve the interval
    at --at."""
    at: Annotated[float | None, arg(metavar="SIZE", help_behavior_hint="(goal prediction)")] = None
    """The size to predict at."""
    budget: Annotated[float | None, arg(metavar="SECONDS", help_behavior_hint="(or --runs)")] = None
    """Seconds that the new runs may take, one after the other."""
    runs: Annotated[int | None, arg(metavar="N", help_behavior_hint="(or --budget)")] = None
    """Number of new runs, whatever they take."""
    cost: Annotated[str, arg(metavar="FIXED[,PER_SIZE]", help_behavior_hint="(default: measured)")] = ""
    """Seconds of a run, FIXED + PER_SIZE * size; measured from train_seconds and eval_seconds where the table has
    them."""
    smallest: Annotated[float | None, arg(metavar="SIZE", help_behavior_hint="(default: a fourth of the data's)")] = (
        None
    )
    """Smallest size that may be run."""
    largest: Annotated[float | None, arg(metavar="SIZE", help_behavior_hint="(default: four times the data's)")] = None
    """Largest size that may be run."""
    seeds: Annotated[Listed, arg(metavar="N", help_behavior_hint="(default: 1)")] = field(default_factory=list)
    """Seeds per size to consider, such as 1 3."""
    replications: Annotated[int, arg(metavar="N")] = 400
    """Simulations per truth and design."""
    name: Annotated[str, arg(metavar="NAME")] = "next"
    """Name of the sweep."""
    as_json: Annotated[bool, arg(name="json")] = False
    """Print one JSON object."""

    def run(self) -> int:
        """Prints the designs, best first; with --out writes the best one's sweep."""
        if not self.y:
            raise UserError("--y: expected a metric, such as --y rfd_dinov2")
        if (self.budget is None) == (self.runs is None):
            raise UserError("--budget or --runs: expected one of them, seconds or a number of runs")
        if self.goal == "prediction" and self.at is None:
            raise UserError("--goal prediction: expected --at SIZE")
        if self.replications < 50:
            raise UserError(f"--replications {self.replications}: expected 50 or more")
        from analysis.inference import plan as planning
        from analysis.inference.analysis import analyse
        from analysis.report.trees import VERSION, finite, remarks

        found = analyse(self.read(), self.x, self.y)
        cost = self._cost(found)
        budget = float(self.runs if self.runs is not None else self.budget or 0)
        seeds = tuple(dict.fromkeys(_whole("--seeds", word) for word in flat(self.seeds))) or (1,)
        with working(f"simulating {self.replications} times every design"):
            made = planning.propose(
                found.comparison, self.goal, cost, budget, self.at, self.smallest, self.largest, seeds,
                self.replications,
            )  # fmt: skip
        spec = self._spec(found, made.best.design)
        written = self._write(spec) if self.out is not None else None
        if self.as_json:
            tree = {
                "version": VERSION,
                "x": found.selection.x_name,
                "y": found.selection.y_name,
                "n": found.line.n,
                "goal": made.goal,
                "at": made.at,
                "budget": made.budget,
                "cost": None if self.runs is not None else {"fixed": cost.fixed, "per_size": cost.per_size},
                "replications": made.replications,
                "width_now": made.width_now,
                "settled_now": made.settled_now,
                "reached": made.reached,
                "designs": [_design_tree(item) for item in made.appraisals],
                "even": _design_tree(made.even),
                "sweep": None if spec is None else spec.to_dict(),
                **remarks(found),
            }
            print_json(finite(tree))
        else:
            _print(found, made)
        if written is not None:
            run = command("sweep", "--config", written)
            say(f"sweep: {written}; run it: {run}", keep=[run, written])
        return 0

    def _cost(self, found: Analysis) -> planning.Cost:
        from analysis.inference.plan import Cost, measured_cost

        if self.runs is not None:
            if self.cost:
                raise UserError("--cost: means nothing beside --runs, which counts runs; expected --budget SECONDS")
            return Cost(1.0)
        if self.cost:
            words = self.cost.split(",")
            try:
                numbers = [float(word) for word in words]
            except ValueError:
                numbers = []
            if len(numbers) not in (1, 2) or min(numbers) < 0 or not sum(numbers) > 0:
                raise UserError(f"--cost {self.cost}: expected seconds, or FIXED,PER_SIZE such as 30,2e-6")
            return Cost(*numbers)
        import pandas as pd

        used = found.selection.used
        if "train_seconds" not in used.columns:
            raise UserError("--budget: the table has no train_seconds to measure the cost from; expected --cost")
        seconds = pd.to_numeric(used["train_seconds"], errors="coerce").to_numpy(dtype=float)
        if "eval_seconds" in used.columns:
            seconds = seconds + pd.to_numeric(used["eval_seconds"], errors="coerce").fillna(0).to_numpy(dtype=float)
        return measured_cost(found.selection.x, seconds)

    def _spec(self, found: Analysis, design: planning.Design) -> SweepSpec | None:
        """The design as a sweep; None where x is nothing that a sweep can vary."""
        from sweeps.folder.mirror import brought
        from sweeps.presets import SWEEPS
        from sweeps.spec import SweepSpec, expand

        self.one_source()
        points = _points(found, design)
        if points is None:
            if self.out is not None:
                raise UserError(f"--out: {self.x} is not something a sweep can vary; expected params, capacity, layers")
            return None
        source = brought(self.source, ("sweep.json",)) / "sweep.json"
        if self.preset is not None and self.preset in SWEEPS:
            base = self.changed(SWEEPS[self.preset].base)
        elif self.config is None and self.preset is None and source.is_file():
            base = self.changed(_base(source))
        elif self.config is not None and self.config.name == "sweep.json":
            base = self.changed(_base(self.config))
        elif self.config is None and self.preset is None:
            if self.out is not None:
                raise UserError("--out: the table does not say how to run; expected --preset NAME or --config FILE")
            return None
        else:
            base = self.trial_config()
        spec = SweepSpec(self.name, base, (), tuple(points))
        expand(spec)
        return spec

    def _write(self, spec: SweepSpec | None) -> Path | None:
        if spec is None or self.out is None:
            return None
        path = self.out / "sweep.json"
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"spec": spec.to_dict()}, indent=2) + "\n")
        except OSError as error:
            raise UserError(f"{path}: {error.strerror or error}; expected a folder to write to") from None
        return path


def _whole(option: str, word: str) -> int:
    try:
        value = int(word)
    except ValueError:
        value = 0
    if value < 1:
        raise UserError(f"{option} {word}: expected a whole number above 0")
    return value


def _base(path: Path) -> Any:
    """The base config of a sweep.json."""
    from sweeps.spec import SweepSpec

    try:
        tree = json.loads(path.read_text())
    except (OSError, ValueError):
        raise UserError(f"{path}: not readable as JSON; expected the sweep.json that a sweep wrote") from None
    if not isinstance(tree, dict) or "spec" not in tree:
        raise UserError(f"{path}: not a sweep; expected the sweep.json that a sweep wrote")
    return SweepSpec.from_dict(tree["spec"]).base


def _points(found: Analysis, design: planning.Design) -> list[dict[str, Any]] | None:
    """What each new trial sets: capacity or layers, and a seed that no run of that size has."""
    import numpy as np
    import pandas as pd

    used, column = found.selection.used, found.selection.x_column
    sizes = np.array(design.sizes)
    if column in ("num_layers", "fusion.num_layers"):
        field_name, wanted, old = "layers", sizes, used[column]
    elif column in ("expert_hidden_dim", "fusion.expert_hidden_dim"):
        field_name, wanted, old = "capacity", sizes, used[column]
    elif "expert_hidden_dim" in used.columns and column in ("params", "fusion_params", "fusion_params_paper"):
        # Parameters are linear in the experts' width as long as nothing else varies.
        field_name, old = "capacity", used["expert_hidden_dim"]
        width = pd.to_numeric(old, errors="coerce").to_numpy(dtype=float)
        inverted = _inverse_line(width, found.selection.x, sizes)
        if inverted is None:
            return None
        wanted = inverted
    else:
        return None
    numbers = pd.to_numeric(old, errors="coerce").to_numpy(dtype=float)
    seeds = pd.to_numeric(used["seed"], errors="coerce").fillna(0).to_numpy() if "seed" in used.columns else None
    taken: set[int] = set()
    points = []
    for value in wanted:
        whole = max(round(float(value)), 1)
        while whole in taken and field_name == "capacity":
            whole += 1
        taken.add(whole)
        same = numbers == whole
        first = 0 if not same.any() else 1 if seeds is None else int(seeds[same].max()) + 1
        points += [{field_name: whole, "seed": first + k} for k in range(design.seeds)]
    return points


def _inverse_line(width: np.ndarray, params: np.ndarray, sizes: np.ndarray) -> np.ndarray | None:
    """Widths that have `sizes` parameters; None where parameters are no line of the width in these runs."""
    import numpy as np

    slope, intercept = np.polyfit(width, params, 1)
    if slope <= 0 or np.max(np.abs(intercept + slope * width - params) / params) > 0.01:
        return None
    return (sizes - intercept) / slope


def _design_tree(item: planning.Appraisal) -> dict[str, Any]:
    return {
        "name": item.design.name,
        "sizes": [float(size) for size in item.design.sizes],
        "seeds": item.design.seeds,
        "runs": item.design.runs,
        "cost": item.seconds,
        "width": item.width,
        "ratio": item.ratio,
        "settled": item.settled,
        "settled_wrongly": item.wrongly,
        "settled_if_line": item.settled_if_line,
        "settled_if_offset": item.settled_if_offset,
    }


def _print(found: Analysis, made: planning.Proposal) -> None:
    names = found.selection
    goals = {
        "slope": f"halve the interval of the slope of {names.y_name} on {names.x_name}, now {made.width_now:.4g} wide",
        "offset": f"tell log-linear from a power law with offset that halves the slope of {names.y_name} over the data",
        "prediction": f"halve the interval of {names.y_name} at {made.at}, now {made.width_now:.4g} wide",
    }
    show(
        f"goal: {goals[made.goal]}\n"
        f"  {made.replications} simulations per truth and design; budget {made.budget:g}\n"
        "  settled: how often a design tells an offset from a line; even: as many runs, evenly spaced"
    )
    header = ("design", "sizes x seeds", "cost", "width", "of now", "settled", "wrongly")
    rows = []
    for item in (*made.appraisals[:SHOWN], made.even):
        widths = ("-", "-") if made.goal == "offset" else (f"{item.width:.4g}", f"{item.ratio:.2f}")
        rows.append(
            (
                item.design.name,
                f"{len(item.design.sizes)} x {item.design.seeds}",
                f"{item.seconds:.5g}",
                *widths,
                f"{item.settled:.0%}",
                f"{item.wrongly:.1%}",
            )
        )
    print_table(header, rows, drop=("width", "wrongly", "cost"))
    best = made.best
    show(f"proposed: {best.design.name}: {', '.join(f'{size:.4g}' for size in best.design.sizes)}")
    if not made.reached:
        show("  the goal is not reached within the budget")
