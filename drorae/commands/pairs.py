"""`drorae fit`, `drorae predict` and `drorae plan` on two axes: what `--and` asks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from drorae.commands.terminal import working
from drorae.errors import UserError

if TYPE_CHECKING:
    from analysis.inference.axes import JointAnalysis
    from analysis.inference.compute import Bought
    from analysis.inference.surface import PairForecast
    from drorae.commands.source import SizeOptions


def of_runs(seeds: float) -> str:
    """Says what an interval is of: a new run, or the mean of several."""
    return "a new run" if seeds == 1 else f"the mean of {seeds:g} new runs"


def sizes_of_pairs(flag: str, groups: Sequence[Sequence[str]]) -> list[tuple[float, float]]:
    """Returns the two sizes of every use of an option.

    Raises:
        UserError: not two, or one that is no number.
    """
    found = []
    for words in groups:
        given = f"{flag} {' '.join(words)}"
        try:
            numbers = [float(word) for word in words]
        except ValueError:
            raise UserError(f"{given}: expected two numbers, such as {flag} 1e8 2e10") from None
        if len(numbers) != 2:
            raise UserError(f"{given}: with --and expected two sizes, one of each axis, such as {flag} 1e8 2e10")
        found.append((numbers[0], numbers[1]))
    return found


def said(found: JointAnalysis, bought: Bought) -> list[str]:
    """Returns what compute buys, line by line."""
    lines: list[str] = []
    law, levels = bought.law, bought.levels
    if law is not None:
        lines.append(f"  compute-optimal, C = {law.per_pair:g} {found.x_name} {found.second_name}, by two-powers:")
        shares = ((found.x_name, law.exponent), (found.second_name, law.second_exponent))
        lines += [f"    {name} ~ C^{_share(share)}" for name, share in shares]
        for item in law.optima:
            lines.append(
                f"    C = {item.compute:.4g}: {found.x_name} {_share(item.first)}, {found.second_name} "
                f"{_share(item.second)}; {found.sample.y_said} {item.value:.4g}"
            )
    if levels is not None:
        lines.append(f"  isoFLOP optima of {found.x_name}, a parabola in its logarithm per level of compute:")
        for level in levels.levels:
            words = level.reason or f"{_share(level.minimum)}; {found.sample.y_said} {level.value:.4g}"
            lines.append(f"    C = {level.compute:.4g}, {level.n} configurations: {words}")
        if levels.exponent is not None:
            lines.append(f"    {found.x_name} ~ C^{_share(levels.exponent)}")
    return lines


def _share(share: Any) -> str:
    """Returns a number with its interval, where it has one."""
    low, high = share.ci95
    return f"{share.value:.4g} ({low:.4g} .. {high:.4g})"


def predict_pairs(
    options: SizeOptions, second: str, y: str, pairs: Sequence[tuple[float, float]], extrapolate: bool, seeds: int
) -> int:
    """Prints what laws of metric `y` on two axes say of the pairs asked for."""
    from analysis.inference.axes import analyse_axes
    from analysis.inference.surface import forecast_pair
    from analysis.report.trees import finite, joint_head, remarks

    if not pairs:
        raise UserError("nothing to predict: expected --at SIZE SECOND")
    with working(f"fitting {options.source}"):
        found = analyse_axes(options.read_all([options.x, second.partition(":")[0], y]), options.x, second, y)
        made = [forecast_pair(found, pair, extrapolate, seeds) for pair in pairs]
    tree = {
        **joint_head(found),
        "predictions": [_tree(item) for item in made],
        "verdicts": [item._asdict() for item in found.verdicts],
        **remarks(found),
    }
    words = [_text(found, item) for item in made]
    options.answer(finite(tree), "\n".join([*words, "of the fit", found.text()]))
    return 0


def _tree(made: PairForecast) -> dict[str, Any]:
    plain = asdict(made)
    laws = [
        {"law": item.law, "mean": item.value, "ci95": item.of_law, "prediction95": item.of_run} for item in made.laws
    ]
    kept = {name: plain[name] for name in ("at", "seeds", "trusted", "rule")}
    ends = {"ci95": made.of_law, "prediction95": made.of_run}
    return {**kept, "decades_beyond": made.beyond, "extrapolated": not made.trusted, "laws": laws, **ends}


def _text(found: JointAnalysis, made: PairForecast) -> str:
    first, second = made.at
    head = f"{found.sample.y_said} at {found.x_name} = {first:.4g}, {found.second_name} = {second:.4g}"
    if made.beyond > 1e-9:
        head += f", {made.beyond:.2f} decades beyond the pairs measured"
    if not made.trusted:
        head += " [EXTRAPOLATED beyond the trusted pairs]"
    what = of_runs(made.seeds)
    lines = [
        head,
        f"  95% envelope of {what}: {made.of_run.low:.4g} .. {made.of_run.high:.4g}; "
        f"of the law: {made.of_law.low:.4g} .. {made.of_law.high:.4g}",
        *(
            f"  {item.law}: {item.value:.4g}, {what} {item.of_run.low:.4g} .. {item.of_run.high:.4g}"
            for item in made.laws
        ),
        f"  trusted: {made.rule}",
    ]
    return "\n".join(lines)
