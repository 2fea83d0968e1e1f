"""Fits, laws and comparisons as LaTeX tables for a paper."""

from __future__ import annotations

import re
from collections.abc import Sequence

from analysis.inference.analysis import Analysis
from analysis.inference.axes import JointAnalysis
from analysis.inference.designs import DesignComparison
from analysis.report.figures import display_name, metric_name, number, said_parameters, short

_ESCAPES = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "%": r"\%", "#": r"\#", "_": r"\_",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}",
    # Behind the end of a row these would be its options.
    "[": "{[}", "]": "{]}", "*": "{*}",
    "\N{MINUS SIGN}": "$-$", "\N{EN DASH}": "--", "…": r"\,\dots\,", "∞": r"$\infty$", "±": r"$\pm$", "×": r"$\times$",
    "²": r"\textsuperscript{2}", "Δ": r"$\Delta$", "₁₀": r"\textsubscript{10}",
}  # fmt: skip
_SPECIAL = re.compile("|".join(map(re.escape, _ESCAPES)))
_POWER = re.compile(r"(?<=\d)e([\N{MINUS SIGN}+-]?)0*(\d+)\b")
_HEAD = "% Needs \\usepackage{booktabs}; signs beyond ASCII need XeLaTeX or LuaLaTeX and a font that has them.\n"


def escape(text: str) -> str:
    """`text` as LaTeX that prints just that, on one line."""
    plain = "".join(sign if sign.isprintable() else " " for sign in text)
    return _SPECIAL.sub(lambda found: _ESCAPES[found[0]], " ".join(plain.split()))


def latex_table(
    caption: str,
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    text: Sequence[int] = (0,),
    wide: int | None = None,
) -> str:
    """A table with booktabs' rules.

    Args:
        caption: what it shows.
        head: names of the columns.
        rows: cells, as many each.
        text: columns of words, which stand left; those of numbers stand right.
        wide: a column of long text, which is broken into lines; none by default.
    """
    columns = ["l" if k in text else "r" for k in range(len(head))]
    if wide is not None:
        columns[wide] = r"p{0.4\linewidth}"

    def line(cells: Sequence[str], numbers: bool) -> str:
        shown = [_powers(escape(cell)) if numbers and k not in text else escape(cell) for k, cell in enumerate(cells)]
        return " & ".join(shown) + r" \\"

    return "\n".join([
        r"\begin{table}", r"  \centering\small", rf"  \caption{{{escape(caption)}}}",
        rf"  \begin{{tabular}}{{{''.join(columns)}}}", r"    \toprule", f"    {line(head, False)}", r"    \midrule",
        *(f"    {line(row, True)}" for row in rows), r"    \bottomrule", r"  \end{tabular}", r"\end{table}", "",
    ])  # fmt: skip


def _powers(cell: str) -> str:
    """1e-05 as a power of ten; `cell` is escaped already, so that its minus sign is mathematics."""
    return _POWER.sub(
        lambda found: rf"$\times 10^{{{'-' if found[1] in ('-', chr(8722)) else ''}{found[2]}}}$",
        cell.replace("e$-$", "e-"),
    )


def law_tables(analyses: Sequence[Analysis]) -> str:
    """The line of every metric, and all laws with their parameters, as two tables."""
    first = analyses[0].line
    fits = []
    for item in analyses:
        line = item.line
        name = metric_name(line.sample) + (" (not supported)" if item.rejected else "")
        seed = "\N{EN DASH}" if line.seed_sd is None else number(line.seed_sd)
        numbers = (line.intercept, line.slope, *line.slope_ci95, line.curve.r2, line.curve.residual_sd)
        intercept, slope, low, high, r2, sd = map(number, numbers)
        fits.append((name, intercept, slope, f"{low} … {high}", r2, sd, seed, str(line.sample.n), str(line.n)))
    per = "tenfold size" if first.law == "log-linear" else "unit of size"
    ends = [short(end, first.sample.x_name) for end in (first.sample.low, first.sample.high)]
    caption = f"{display_name(first.sample.x_name)} from {ends[0]} to {ends[1]}: {first.law} fits, slope per {per}."
    head = ("Metric", "Intercept", "Slope", "95% CI", "R²", "Residual sd", "Seed sd", "n", "Runs")
    laws = [
        (metric_name(item.selection), law.name, law.form.formula, said_parameters(law), number(law.r2),
         number(item.comparison.judged(law).loo_rmse), item.comparison.behind(law))
        for item in analyses
        for law in item.comparison.fits
    ]  # fmt: skip
    columns = ("Metric", "Law", "Form", "Parameters (95% CI)", "R²", "Leave-one-out error")
    compared = latex_table("Laws compared.", (*columns, f"Δ{analyses[0].comparison.criterion}"), laws, (0, 1, 2), 3)
    return f"{_HEAD}{latex_table(caption, head, fits)}\n{compared}"


def joint_table(found: JointAnalysis) -> str:
    """The laws of two axes as a table."""
    caption = f"Laws of {metric_name(found.sample)} in {found.x_name} and {found.second_name}."
    head = ("Law", "Form", "Parameters (95% CI)", "R²", "ΔAICc")
    return _HEAD + latex_table(caption, head, found.rows(), (0, 1), 2)


def comparison_tables(found: DesignComparison) -> str:
    """The line of every design, and all differences, as two tables."""
    at = short(found.level_at, found.x_name)
    designs = [
        (line.design, number(line.slope), _ends(line.slope_ci95), number(line.level), _ends(line.level_ci95),
         str(line.n_configurations), str(line.n))
        for line in found.lines
    ]  # fmt: skip
    head = ("Design", "Slope", "95% CI", f"Level at {at}", "95% CI", "n", "Runs")
    lines = latex_table(f"{metric_name(found)}: lines of the designs.", head, designs)
    differences = [
        (f"{item.what}{'' if item.at is None else f' at {short(item.at, found.x_name)}'}",
         f"{item.a} \N{MINUS SIGN} {item.b}", number(item.difference), _ends(item.ci95), _ends(item.simultaneous95),
         f"{item.p_holm:.2g}")
        for item in found.differences
    ]  # fmt: skip
    columns = ("Of", "Designs", "Difference", "95% CI", "All at once", "p (Holm)")
    return f"{_HEAD}{lines}\n{latex_table('Differences.', columns, differences, (0, 1))}"


def _ends(pair: tuple[float, float]) -> str:
    return f"{number(pair[0])} … {number(pair[1])}"
