"""`drorae plan`: which sizes and seeds to run next, as a sweep that `drorae sweep` takes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional

from drorae.commands.blind import BlindOptions
from drorae.commands.options import ConfigOptions, Count, Words, flat, option, read_sweep, require, write_new
from drorae.commands.plan_pairs import (
    VARIED,
    PairPlanOptions,
    numbers_of,
    pair_points,
    pair_tree,
    plan_pairs,
    print_pairs,
    run_seconds,
)
from drorae.commands.source import SizeOptions
from drorae.commands.terminal import print_table, say, show, working
from drorae.errors import UserError
from drorae.runtime.shell import command

if TYPE_CHECKING:
    from analysis.inference import plan as planning
    from analysis.inference.analysis import Analysis
    from sweeps.spec import SweepSpec

SHOWN = 8
"""Designs in the table for people."""


@dataclass(kw_only=True)
class Plan(BlindOptions, PairPlanOptions, SizeOptions, ConfigOptions):
    """Choose the next runs by simulation: halve the slope's interval, tell a line from an offset, pin a prediction.

    With --out the design is written as DIR/sweep.json, for drorae sweep --config DIR/sweep.json. With --blind, before
    any run, it says what a design could show: drorae plan --blind --slope -0.06 --seed-sd 0.01 --levels 6 --decades 2

    Example: drorae plan results/paper/capacity.csv --y rfid --goal offset --runs 8 --preset paper --out next
    """

    source: Positional[Annotated[str, option("SOURCE", "none with --blind")]] = ""
    """A table or - (one on stdin), a sweep's folder or URL, mlflow:EXPERIMENT, or mlflow-run:ID of its parent run."""
    y: Annotated[str, option("COLUMN", "required but with --blind")] = ""
    """Metric, such as rfd_dinov2."""
    goal: Literal["slope", "offset", "prediction", "interaction"] = "slope"
    """slope: halve its interval; offset: tell log-linear from a power law with offset; prediction: halve the interval
    at --at; interaction (with --and): halve the interval of what one axis does to the effect of the other."""
    at: Annotated[tuple[float, ...], option("SIZE", "goal prediction")] = ()
    """The size to predict at; with --and one of each axis."""
    budget: Annotated[float | None, option("SECONDS", "or --runs")] = None
    """Seconds that the new runs may take, one after the other."""
    runs: Annotated[int | None, option("N", "or --budget")] = None
    """Number of new runs, whatever they take."""
    cost: Annotated[str, option("FIXED[,PER_SIZE]", "default: measured")] = ""
    """Seconds of a run, FIXED + PER_SIZE * size; measured from train_seconds and eval_seconds where the table has
    them."""
    smallest: Annotated[float | None, option("SIZE", "default: a fourth of the data's")] = None
    """Smallest size that may be run."""
    largest: Annotated[float | None, option("SIZE", "default: four times the data's")] = None
    """Largest size that may be run."""
    seeds: Annotated[Words, option("N", "default: 1")] = ()
    """Seeds per size to consider, such as 1 3; with --blind those of the design."""
    replications: Count = 400
    """Simulations per truth and design."""
    name: Annotated[str, option("NAME")] = "next"
    """Name of the sweep."""

    def run(self) -> int:
        """Prints the designs, best first; with --out writes the best one's sweep."""
        self.refuse_others()
        seeds = tuple(dict.fromkeys(map(_seeds, flat(self.seeds)))) or (1,)
        if self.blind:
            return self.run_blind(seeds, self.x, self.y)
        if not self.source:
            raise UserError("SOURCE: expected the runs to plan from; before any run: drorae plan --blind")
        if not self.y:
            raise UserError("--y: expected a metric, such as --y rfd_dinov2")
        if (self.budget is None) == (self.runs is None):
            raise UserError("--budget or --runs: expected one of them, seconds or a number of runs")
        if self.goal == "prediction" and len(self.at) != 1 + (self.second is not None):
            raise UserError(f"--goal prediction: expected --at SIZE{' SECOND' if self.second is not None else ''}")
        require(self.replications >= 50, f"--replications {self.replications}", "50 or more")
        self.check_source()
        if self.second is not None:
            return self._pairs(self.second)
        if self.goal == "interaction":
            raise UserError("--goal interaction: is about two axes; expected --and COLUMN")
        from analysis.inference import plan as planning
        from analysis.inference.analysis import analyse

        found = analyse(self.read_all([self.x, self.y]), self.x, self.y)
        cost = self._cost(found)
        with working(f"simulating {self.replications} times every design"):
            made = planning.propose(
                found.comparison,
                self.goal,
                cost,
                self._budget(),
                self.at[0] if self.at else None,
                self.smallest,
                self.largest,
                self._asked_seeds(),
                self.replications,
            )
        counted = None if self.runs is not None else cost
        return self._finish(
            _points(found, made.best.design), self.x, lambda spec: _tree(found, made, counted) | spec,
            lambda: _print(found, made),
        )  # fmt: skip

    def _pairs(self, second: str) -> int:
        """Prints the pairs of sizes to run next; with --out writes their sweep."""
        if self.goal == "offset":
            raise UserError("--goal offset: is about one axis; expected slope, interaction or prediction with --and")
        seeds = self._asked_seeds()
        if len(seeds) > 1:
            raise UserError(f"--seeds {' '.join(map(str, seeds))}: expected one number with --and")
        cost = self._given_cost(4, "FIXED[,PER_SIZE[,PER_SECOND[,PER_PRODUCT]]] such as 30,0,0,2e-9")
        bounds = ((self.smallest, self.largest), (self.second_smallest, self.second_largest))
        asked = (self.goal, self._budget(), cost, self.at, bounds, seeds[0])
        made = plan_pairs(self.read_all([self.x, second.partition(":")[0], self.y]), (self.x, second), self.y, *asked)
        sizes = f"{self.x} and {second}"
        tree = pair_tree(made, self.runs is not None)
        return self._finish(pair_points(made), sizes, lambda spec: tree | spec, lambda: print_pairs(made))

    def _asked_seeds(self) -> tuple[int, ...]:
        """Returns the numbers of seeds per size to consider."""
        return tuple(dict.fromkeys(map(_seeds, flat(self.seeds)))) or (1,)

    def _budget(self) -> float:
        """Returns the budget, in runs or in seconds."""
        return float(self.runs if self.runs is not None else self.budget or 0)

    def _given_cost(self, most: int, form: str) -> list[float] | None:
        """Returns the parts of a run's cost: 1 where runs are counted, else as given; None where it is to be measured.

        Args:
            most: number of parts there may be.
            form: what was expected, for the message.

        Raises:
            UserError: --cost is no such numbers, or stands beside --runs.
        """
        if self.runs is not None:
            if self.cost:
                raise UserError("--cost: means nothing beside --runs, which counts runs; expected --budget SECONDS")
            return [1.0]
        if not self.cost:
            return None
        try:
            numbers = [float(word) for word in self.cost.split(",")]
        except ValueError:
            numbers = []
        usable = 1 <= len(numbers) <= most and min(numbers) >= 0 and 0 < sum(numbers) < math.inf
        require(usable, f"--cost {self.cost}", f"seconds, or {form}")
        return numbers

    def _cost(self, found: Analysis) -> planning.Cost:
        """Returns what a run costs: 1 where runs are counted, else seconds, as given or as measured."""
        from analysis.inference.plan import Cost, measured_cost

        given = self._given_cost(2, "FIXED,PER_SIZE such as 30,2e-6")
        return measured_cost(found.selection.x, run_seconds(found.selection.used)) if given is None else Cost(*given)

    def _finish(
        self,
        points: list[dict[str, Any]] | None,
        sizes: str,
        tree: Callable[[dict[str, Any]], dict[str, Any]],
        words: Callable[[], None],
    ) -> int:
        """Prints a plan; with --out writes its sweep.

        Args:
            points: what each new trial sets; None where the sizes are nothing that a sweep can vary.
            sizes: their names, for the message.
            tree: the plan as plain values, of what is to be said of the sweep in it.
            words: prints the plan for people.
        """
        from analysis.report.trees import finite
        from sweeps.folder.sweep import RECORD

        spec = self._spec(points, sizes)
        written = None
        if spec is not None and self.out is not None:
            written = write_new(self.out / RECORD, {"spec": spec.to_dict()})
        self.answer(finite(tree({"sweep": None if spec is None else spec.to_dict()})), words)
        if written is not None:
            run = command("sweep", "--config", written)
            say(f"sweep: {written}; run it: {run}", keep=[run, written])
        return 0

    def _spec(self, points: list[dict[str, Any]] | None, sizes: str) -> SweepSpec | None:
        """Returns the design as a sweep; None where no sweep can vary its sizes, or nothing says how to run."""
        from sweeps.folder.mirror import local_copy
        from sweeps.folder.sweep import RECORD
        from sweeps.spec import SweepSpec, expand

        asked = self.preset is not None or self.config is not None
        lacking, path = "", None
        if points is None:
            lacking = f"{sizes} is not something a sweep can vary; expected params, capacity, layers"
        elif not asked:
            path = local_copy(self.source, (RECORD,)) / RECORD
            if not path.is_file():
                lacking = "the table does not say how to run; expected --preset NAME or --config FILE"
        if lacking and self.out is not None:
            raise UserError(f"--out: {lacking}")
        if points is None or lacking:
            return None
        base = (read_sweep(path) if path else self.sweep_spec()).base
        spec = SweepSpec(self.name, self.changed(base), (), tuple(points))
        expand(spec)
        return spec


def _seeds(word: str) -> int:
    number = int(word) if word.isdecimal() else 0
    require(number >= 1, f"--seeds {word}", "a whole number above 0")
    return number


def _points(found: Analysis, design: planning.Design) -> list[dict[str, Any]] | None:
    """Returns what each new trial sets: capacity or layers, and a seed that no run of that size has.

    None where x is neither, nor a number of parameters that is a line of the capacity in these runs.
    """
    import numpy as np

    used, column = found.selection.used, found.selection.x_column
    wanted = np.array(design.sizes)
    if column in VARIED:
        varied, sizes = VARIED[column], numbers_of(used, column)
    elif "expert_hidden_dim" in used.columns and column in ("params", "fusion_params", "fusion_params_paper"):
        # Parameters are linear in the experts' width as long as nothing else varies.
        varied, sizes, params = "capacity", numbers_of(used, "expert_hidden_dim"), found.selection.x
        slope, intercept = np.polyfit(sizes, params, 1)
        if slope <= 0 or np.max(np.abs(intercept + slope * sizes - params) / params) > 0.01:
            return None
        wanted = (wanted - intercept) / slope
    else:
        return None
    seeds = np.nan_to_num(numbers_of(used, "seed")) if "seed" in used.columns else np.zeros(len(used))
    taken: set[int] = set()
    points = []
    for value in wanted:
        whole = max(round(float(value)), 1)
        while whole in taken and varied == "capacity":
            whole += 1
        taken.add(whole)
        first = int(max(seeds[sizes == whole], default=-1)) + 1
        points += [{varied: whole, "seed": first + k} for k in range(design.seeds)]
    return points


def _tree(found: Analysis, made: planning.Proposal, cost: planning.Cost | None) -> dict[str, Any]:
    """Returns the plan as plain values.

    Args:
        found: the analysis of the runs so far.
        made: the plan.
        cost: seconds of a run; None where runs are counted.
    """
    from analysis.report.trees import VERSION, remarks

    return {
        "version": VERSION,
        "x": found.selection.x_name,
        "y": found.selection.y_name,
        "n": found.line.n,
        "goal": made.goal,
        "at": made.at,
        "budget": made.budget,
        "cost": None if cost is None else {"fixed": cost.fixed, "per_size": cost.per_size},
        "replications": made.replications,
        "width_now": made.width_now,
        "settled_now": made.settled_now,
        "reached": made.reached,
        "designs": [_design_tree(item) for item in made.appraisals],
        "even": _design_tree(made.even),
        **remarks(found),
    }


def _design_tree(item: planning.Appraisal) -> dict[str, Any]:
    """Returns a design as plain values; nan where its goal has no such number."""
    plain = asdict(item)
    return {
        **item.design._asdict(),
        "runs": item.design.runs,
        "cost": plain.pop("seconds"),
        "settled_wrongly": plain.pop("wrongly"),
        **{name: value for name, value in plain.items() if name != "design"},
    }


def _print(found: Analysis, made: planning.Proposal) -> None:
    x, y = found.selection.x_name, found.selection.y_said
    goals = {
        "slope": f"halve the interval of the slope of {y} on {x}, now {made.width_now:.4g} wide",
        "offset": f"tell log-linear from a power law with offset that halves the slope of {y} over the data",
        "prediction": f"halve the interval of {y} at {made.at}, now {made.width_now:.4g} wide",
    }
    show(
        f"goal: {goals[made.goal]}\n"
        f"  {made.replications} simulations per truth and design; budget {made.budget:g}\n"
        "  settled: how often a design tells an offset from a line; even: as many runs, evenly spaced"
    )
    header = ("design", "sizes x seeds", "cost", "width", "of now", "settled", "wrongly")
    rows = []
    for item in (*made.appraisals[:SHOWN], made.even):
        name, sizes, seeds = item.design
        widths = ("-", "-") if made.goal == "offset" else (f"{item.width:.4g}", f"{item.ratio:.3g}")
        shares = (f"{item.settled:.0%}", f"{item.wrongly:.1%}")
        rows.append((name, f"{len(sizes)} x {seeds}", f"{item.seconds:.5g}", *widths, *shares))
    print_table(header, rows, drop=("width", "wrongly", "cost"))
    best = made.best
    show(f"proposed: {best.design.name}: {', '.join(f'{size:.4g}' for size in best.design.sizes)}")
    if not made.reached:
        show("  the goal is not reached within the budget")
