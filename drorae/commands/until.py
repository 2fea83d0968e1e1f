"""`--until decided`: what ends a sweep before its grid does."""

from __future__ import annotations

from pathlib import Path

from drorae.commands.options import choose
from drorae.errors import UserError

ALL, DECIDED = "all", "decided"


def verdict_name(text: str) -> str:
    """Returns the name of the verdict that `--until` names; empty where all trials are to be run.

    Raises:
        UserError: neither all nor decided, or no such verdict.
    """
    word, given, name = text.partition("=")
    if text != ALL and word != DECIDED:
        raise UserError(f"--until {text}: expected {ALL}, {DECIDED} or {DECIDED}=VERDICT")
    if text == ALL:
        return ""
    from analysis.inference.looks import DECIDING, TREND

    return choose({name: name for name in DECIDING}, name if given else TREND, f"--until {DECIDED}", "verdict")


def decided(name: str, table: Path, looks: int) -> str | None:
    """Returns the verdict of this name on the metric that heads the report of a table; None while it is not decided.

    Args:
        name: of the verdict (`analysis.inference.looks.DECIDING`).
        table: with the columns of trials.csv.
        looks: how often this is asked at most.
    """
    from analysis.inference.looks import decided as judge
    from analysis.table.files import read_table
    from drorae.commands.report import leading_analysis

    try:
        verdict = judge(leading_analysis(read_table(table)), name, looks)
    except UserError:
        # Of too few trials there is no law.
        return None
    return None if verdict is None else f"{verdict.verdict.upper()} {verdict.claim} [level: {verdict.level}]"
