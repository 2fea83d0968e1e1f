"""What compute buys, for a report: the best split of every budget, and the best size of every level."""

from __future__ import annotations

from analysis.inference.axes import JointAnalysis
from analysis.inference.compute import Bought, ComputeLaw, IsoFlop, Share
from analysis.report.blocks import Block, Heading, Table, Text
from analysis.report.figures import number, short


def compute_blocks(found: JointAnalysis, bought: Bought) -> list[Block]:
    """Tables of what was asked for, with 95% intervals."""
    law, levels = bought.law, bought.levels
    return [*(_split(found, law) if law else []), *(_levels(found, levels) if levels else [])]


def _split(found: JointAnalysis, law: ComputeLaw) -> list[Block]:
    x, second = found.x_name, found.second_name
    rows = [(f"{item.compute:.4g}", _size(item.first), _size(item.second), number(item.value)) for item in law.optima]
    grow = f"{x} ~ C^{_share(law.exponent)}, {second} ~ C^{_share(law.second_exponent)}"
    return [
        Heading("Compute-optimal sizes"),
        Table((f"C = {law.per_pair:g} {x} {second}", f"{x} (95%)", f"{second} (95%)", found.sample.y_said), rows),
        Text(f"By two-powers: {grow}.", "soft"),
    ]


def _levels(found: JointAnalysis, levels: IsoFlop) -> list[Block]:
    rows = [
        (
            f"{item.compute:.4g}", str(item.n), _size(item.minimum) if item.minimum else "none",
            number(item.value) if item.minimum else "", item.reason,
        )
        for item in levels.levels
    ]  # fmt: skip
    said = f"{found.x_name} ~ C^{_share(levels.exponent)}." if levels.exponent else ""
    return [
        Heading("IsoFLOP optima"),
        Table(("C", "configurations", f"{found.x_name} (95%)", found.sample.y_said, "why none"), rows, (4,)),
        Text(f"The optimum of a parabola in log10 of {found.x_name}, level by level. {said}".strip(), "soft"),
    ]


def _size(share: Share) -> str:
    low, high = share.ci95
    return f"{short(share.value)} ({short(low)} … {short(high)})"


def _share(share: Share) -> str:
    low, high = share.ci95
    return f"{number(share.value)} ({number(low)} … {number(high)})"
