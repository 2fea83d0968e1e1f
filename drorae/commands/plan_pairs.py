"""`drorae plan --and`: which pairs of sizes to run next."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

from drorae.commands.options import option
from drorae.commands.terminal import print_table, show
from drorae.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from analysis.inference.axes import JointAnalysis
    from analysis.inference.pair_plan import PairCost, PairGoal, PairProposal

VARIED = {
    **dict.fromkeys(("num_layers", "fusion.num_layers"), "layers"),
    **dict.fromkeys(("expert_hidden_dim", "fusion.expert_hidden_dim"), "capacity"),
}
"""Columns of sizes that a sweep can set, and what it calls them."""


@dataclass(kw_only=True)
class PairPlanOptions:
    """The second axis of a plan."""

    second: Annotated[str | None, option("COLUMN[:SCALE]", "default: one axis", "and")] = None
    """A second axis, as in drorae fit: pairs of sizes are chosen, --smallest and --largest are the first axis's, and
    --cost is FIXED[,PER_SIZE[,PER_SECOND[,PER_PRODUCT]]]."""
    second_smallest: Annotated[float | None, option("SIZE", "default: the data's", "and-smallest")] = None
    """Smallest size of the second axis that may be run."""
    second_largest: Annotated[float | None, option("SIZE", "default: the data's", "and-largest")] = None
    """Largest size of the second axis that may be run."""


@dataclass(frozen=True)
class PairPlan:
    """A plan of pairs, to be said."""

    found: JointAnalysis
    made: PairProposal
    cost: PairCost
    """Of a run."""


def plan_pairs(
    frame: pd.DataFrame,
    axes: tuple[str, str],
    y: str,
    goal: PairGoal,
    budget: float,
    cost: Sequence[float] | None,
    at: Sequence[float],
    bounds: Sequence[tuple[float | None, float | None]],
    seeds: int,
) -> PairPlan:
    """Plans which pairs of sizes to run next.

    Args:
        frame: the runs so far.
        axes: columns of the sizes.
        y: column of the metric.
        goal: see `propose_pairs`.
        budget: seconds, or whatever a cost is in.
        cost: parts of a run's cost; None to measure it.
        at: the pair of the goal prediction.
        bounds: smallest and largest size of either axis.
        seeds: runs of every pair.
    """
    from analysis.inference.axes import analyse_axes
    from analysis.inference.pair_plan import PairCost, measured_pair_cost, propose_pairs

    found = analyse_axes(frame, *axes, y)
    if cost is None:
        spent = measured_pair_cost(found.sample.x[found.groups], run_seconds(found.selection.used))
    else:
        spent = PairCost(*cost)
    pair = (at[0], at[1]) if goal == "prediction" else None
    return PairPlan(found, propose_pairs(found, goal, spent, budget, pair, bounds[0], bounds[1], seeds), spent)


def run_seconds(used: pd.DataFrame) -> np.ndarray:
    """Returns what every run took, training and evaluation, as its columns say it; nan where they do not.

    Raises:
        UserError: there is no such column.
    """
    import numpy as np

    if "train_seconds" not in used.columns:
        raise UserError("--budget: the table has no train_seconds to measure the cost from; expected --cost")
    seconds = numbers_of(used, "train_seconds")
    return seconds + np.nan_to_num(numbers_of(used, "eval_seconds")) if "eval_seconds" in used.columns else seconds


def numbers_of(frame: pd.DataFrame, name: str) -> np.ndarray:
    """Returns a column's numbers; nan where there is none."""
    import pandas as pd

    return pd.to_numeric(frame[name], errors="coerce").to_numpy(dtype=float)


def pair_points(plan: PairPlan) -> list[dict[str, Any]] | None:
    """Returns what each new trial sets; None where the axes are not capacity and layers."""
    from analysis.table.columns import find_column

    found, made = plan.found, plan.made
    used = found.selection.used
    columns = [find_column(used, name) for name in (found.x_name, found.second_name)]
    if not set(columns) <= set(VARIED):
        return None
    return [
        {**{VARIED[name]: max(round(size), 1) for name, size in zip(columns, pair, strict=True)}, "seed": seed}
        for pair in made.pairs
        for seed in range(made.seeds)
    ]


def pair_tree(plan: PairPlan, counted: bool) -> dict[str, Any]:
    """Returns the plan as plain values; `counted`: whether runs are counted, and none has a cost of its own."""
    from analysis.report.trees import joint_head, remarks

    found, made = plan.found, plan.made
    return {
        **joint_head(found),
        "goal": made.goal,
        "law": made.law,
        "at": made.at,
        "budget": made.budget,
        "cost": None if counted else asdict(plan.cost),
        "seeds": made.seeds,
        "widths_now": dict(zip(made.names, made.widths_now, strict=True)),
        "reached": made.reached,
        "pairs": [
            {"at": step.pair, "cost": step.seconds, "widths": dict(zip(made.names, step.widths, strict=True))}
            for step in made.steps
        ],
        **remarks(found),
    }


def print_pairs(plan: PairPlan) -> None:
    """Prints the plan for people."""
    found, made = plan.found, plan.made
    at = "" if made.at is None else f" at {found.x_name} = {made.at[0]:.4g}, {found.second_name} = {made.at[1]:.4g}"
    now = ", ".join(f"{name}{at} {_width(width)}" for name, width in zip(made.names, made.widths_now, strict=True))
    show(
        f"goal: halve the {made.goal}'s interval of {found.sample.y_said} on {found.x_name} and {found.second_name}\n"
        f"  by {made.law}; now {now} wide; budget {made.budget:g}\n"
        "  locally optimal for the parameters fitted; the most useful pair for its cost first"
    )
    rows = []
    for step in made.steps:
        widths = [
            text
            for width, before in zip(step.widths, made.widths_now, strict=True)
            for text in (_width(width), f"{width / before:.2f}" if math.isfinite(before) and before else "-")
        ]
        rows.append((*(f"{size:.4g}" for size in step.pair), str(made.seeds), f"{step.seconds:.5g}", *widths))
    ends = [head for name in made.names for head in (f"{name} width", f"{name} of now")]
    heads = (found.x_name, found.second_name, "runs", "cost in all", *ends)
    print_table(heads, rows, drop=("runs", *(head for head in ends if head.endswith("width"))))
    if not made.reached:
        show("  the goal is not reached within the budget")


def _width(width: float) -> str:
    return f"{width:.4g}" if math.isfinite(width) else "unbounded"
