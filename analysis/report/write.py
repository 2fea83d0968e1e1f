"""Analyses as files: law.json, law.csv, figures, one self-contained HTML page and the same in Markdown."""

from __future__ import annotations

import contextlib
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.inference.analysis import Analysis
from analysis.inference.asked import JointLaw, joint_lines
from analysis.inference.axes import JointAnalysis
from analysis.inference.compute import Bought
from analysis.inference.convergence import unmeasured
from analysis.inference.evidence import BackTest
from analysis.inference.tradeoff import TradeOff
from analysis.inference.verdicts import Verdict
from analysis.laws.digits import share
from analysis.laws.line import Line
from analysis.report import figures
from analysis.report.blocks import Block, Cell, Heading, Link, Notes, Picture, Table, Text, html_page, markdown_page
from analysis.report.compute import compute_blocks
from analysis.report.contours import contour_figure, surface_caption
from analysis.report.figures import display_name, metric_name, number, said_parameters, short
from analysis.report.fonts import boxes
from analysis.report.latex import joint_table, law_tables
from analysis.report.style import Style
from analysis.report.tradeoff import trade_off_blocks, trade_off_figure
from analysis.report.trees import fit_tree, joint_tree
from analysis.table.configurations import CONFIGURATION_COLUMNS, configuration_columns
from analysis.table.selection import Selection
from drorae.errors import UserError
from drorae.storage.files import write_atomic

_NONE = "\N{EN DASH}"
"""A cell without a value."""
_LISTED = 12
"""Values of a hyper-parameter or sizes that the checklist names one by one."""


def write_report(
    analyses: Sequence[Analysis],
    directory: str | Path,
    title: str,
    images: Mapping[str, Path] | None = None,
    command: str | None = None,
    trees: Sequence[Mapping[str, Any]] = (),
    record: Sequence[str] = (),
    style: Style = "screen",
    trade_offs: Sequence[TradeOff] = (),
) -> dict[str, Path]:
    """Writes the report of one or several metrics and returns its paths by name.

    json: law.json, the object of the first metric, the others' under "also"; csv: law.csv, every run of every fit
    with fitted value, residual and bands, or why it was left out; tex: law.tex, the fits as LaTeX tables; png, svg,
    pdf: law.*; residuals_png, residuals_svg, residuals_pdf; tradeoff_png, tradeoff_svg, tradeoff_pdf where there are
    trade-offs; html: report.html, which holds all of it and loads nothing; markdown: report.md, the same for a
    repository. Each file appears whole or not at all.

    Args:
        analyses: one per metric, all against the same size.
        directory: folder of the report, made if it is missing.
        title: of the page.
        images: caption to PNG file, embedded in the page; none by default.
        command: printed as the way to make the report again; left out by default.
        trees: the objects to write as JSON, one per metric; `fit_tree` of each by default.
        record: how registered predictions did, line by line; nothing by default.
        style: of the figures, screen or paper.
        trade_offs: reconstruction against generation; none by default.

    Raises:
        UserError: the directory cannot be written, or an image cannot be read.
    """
    first, *others = trees or [fit_tree(item) for item in analyses]
    tree = dict(first) | ({"also": others} if others else {})
    with report_folder(directory) as folder:
        drawn = figures.law_figure(analyses)
        paths = figures.save(drawn, folder, "law", style)
        residuals = figures.save(figures.residual_figure(analyses), folder, "residuals", style)
        paths |= {f"residuals_{kind}": path for kind, path in residuals.items()}
        beside: list[Block] = []
        if trade_offs:
            plane = trade_off_figure(trade_offs)
            paths |= {f"tradeoff_{kind}": path for kind, path in figures.save(plane, folder, "tradeoff", style).items()}
            beside = trade_off_blocks(trade_offs, paths, boxes(plane))
        text = json.dumps(tree, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        paths["json"] = _write(folder / "law.json", text)
        paths["csv"] = _write(folder / "law.csv", _table_csv(analyses))
        paths["tex"] = _write(folder / "law.tex", law_tables(analyses))
        caption = _caption(analyses) + boxes(drawn)
        blocks = _blocks(analyses, paths, caption, images or {}, command, record, beside)
        return paths | write_pages(folder, title, blocks)


def write_joint_report(
    found: JointAnalysis,
    directory: str | Path,
    command: str | None = None,
    law: JointLaw | None = None,
    style: Style = "screen",
    bought: Bought | None = None,
) -> dict[str, Path]:
    """Writes axes.json, axes.tex, axes.* and surface.* (png, svg, pdf), report.html and report.md.

    Args:
        found: the laws.
        directory: folder of the report, made if it is missing.
        command: printed as the way to make the report again; left out by default.
        law: the law asked for, which leads; none by default.
        style: of the figures, screen or paper.
        bought: what compute buys, shown as well; nothing by default.

    Returns:
        The paths by kind.

    Raises:
        UserError: the directory cannot be written.
    """
    title = f"{metric_name(found.sample)} against {found.x_name} and {found.second_name}"
    with report_folder(directory) as folder:
        drawn = figures.joint_figure(found)
        paths = figures.save(drawn, folder, "axes", style)
        surface = figures.save(contour_figure(found, bought), folder, "surface", style)
        paths |= {f"surface_{kind}": path for kind, path in surface.items()}
        paths["json"] = _write(folder / "axes.json", json.dumps(joint_tree(found, law, bought), indent=1))
        paths["tex"] = _write(folder / "axes.tex", joint_table(found))
        asked = [Text(text.strip(), "soft" if i else "lead") for i, text in enumerate(joint_lines(law))]
        blocks = _joint_blocks(found, title, paths, command, boxes(drawn), bought)
        return paths | write_pages(folder, title, [*asked, *blocks])


@contextlib.contextmanager
def report_folder(directory: str | Path) -> Iterator[Path]:
    """The folder of a report; what the system refuses within becomes a UserError."""
    folder = Path(directory)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
    except OSError as error:
        where = error.filename or directory
        raise UserError(f"{where}: {error.strerror or error}; the report needs a folder it can write to") from None


def _write(path: Path, text: str) -> Path:
    return write_atomic(path, text.encode())


def write_pages(folder: Path, title: str, blocks: Sequence[Block]) -> dict[str, Path]:
    """Writes report.html and report.md and returns their paths by kind."""
    return {
        "html": _write(folder / "report.html", html_page(title, blocks)),
        "markdown": _write(folder / "report.md", markdown_page(title, blocks, folder)),
    }


def headline(analysis: Analysis) -> str:
    """What is supported, in one sentence that claims no more: the slope, or the law that leads where it is rejected."""
    line, leading = analysis.line, analysis.leading
    x = line.sample.x_name
    asked = analysis.asked
    if asked is not None:
        said = f"{metric_name(line.sample)}: {leading.name}, {asked.how}: {leading.form.formula}; "
        said += said_parameters(asked)
        said += f". {asked.floor.text}" if asked.floor is not None else ""
        doubt = f" The data do not support this law: {analysis.law_verdicts[0].reason}." if analysis.rejected else ""
        return f"{said} (R² = {share(leading.r2, 2)}, {line.sample.n} points).{doubt}"
    if analysis.rejected:
        reason = analysis.law_verdicts[0].reason
        law = (
            "" if leading.name == line.law else f" {leading.name} leads, {leading.text} (R² = {share(leading.r2, 2)})."
        )
        return f"{metric_name(line.sample)}: a {line.law} law is not supported, {reason}.{law}"
    per = f"per tenfold {display_name(x).lower()}" if line.law == "log-linear" else f"per unit of {x}"
    name = metric_name(line.sample)
    low, high = line.slope_ci95
    basis = f"R² = {share(line.curve.r2, 2)}, {line.sample.n} {'runs' if line.unit == 'row' else 'configurations'}"
    basis += f", {line.n} runs" if line.n != line.sample.n else ""
    said, slope, ends = f"{name}: no trend is resolved; slope", line.slope, [low, high]
    if not low <= 0 <= high:
        said = f"{name} {'rises' if slope > 0 else 'falls'} by"
        slope, ends = abs(slope), sorted((abs(low), abs(high)))
    return f"{said} {number(slope, high - low)} {per}, 95% CI {_interval(*ends)} ({basis})."


def _size(line: Line, x: float) -> str:
    return short(x, line.sample.x_name)


def _interval(low: float, high: float) -> str:
    return f"{number(low, high - low)} … {number(high, high - low)}"


def _table_csv(analyses: Sequence[Analysis]) -> str:
    """Every run of every fit with fitted value, residual and bands, or why it was left out."""
    bands = ("ci95_low", "ci95_high", "prediction95_low", "prediction95_high")
    parts = []
    for analysis in analyses:
        line, selection = analysis.line, analysis.selection
        used = pd.DataFrame(
            {"row": selection.labels, "configuration": line.configurations.astype(str), "seed": selection.seeds}
        )
        fitted, ends = analysis.residual_law.value(selection.x), line.predict(selection.x)[1:]
        if analysis.asked is not None:
            ends = (*analysis.law_interval(selection.x), *analysis.new_point_interval(selection.x))
        used = used.assign(x=selection.x, value=selection.y, fitted=fitted, residual=selection.y - fitted)
        used = used.assign(**dict(zip(bands, ends, strict=True)), used="yes")
        unused = pd.DataFrame(selection.excluded, columns=["row", "reason"]).assign(used="no")
        parts.append(pd.concat([used, unused]).assign(y=selection.y_name))
    columns = ["y", "row", "configuration", "seed", "x", "value", "fitted", "residual", *bands, "used", "reason"]
    return str(pd.concat(parts)[columns].to_csv(index=False, float_format="%.10g", lineterminator="\n"))


def _blocks(
    analyses: Sequence[Analysis],
    paths: Mapping[str, Path],
    caption: str,
    images: Mapping[str, Path],
    command: str | None,
    record: Sequence[str],
    beside: Sequence[Block],
) -> list[Block]:
    several = len(analyses) > 1
    names = ", ".join(metric_name(item.selection) for item in analyses)
    drawn = f"{names} against {analyses[0].selection.x_name} with the leading law and its bands"
    about = analyses[0].residual_law.name if analyses[0].asked is not None else "line"
    below = f"Run minus {about}; shaded: ± 1 residual sd."
    return [
        *(Text(headline(item), "lead") for item in analyses),
        *(Text(f"{item.selection.y_name}: {item.not_converged}.", "lead") for item in analyses if item.not_converged),
        Picture(paths["svg"], paths["png"], drawn, caption, several),
        *_verdict_table(analyses),
        *_gain_table(analyses),
        *beside,
        Heading("Fits"),
        *_fit_table(analyses),
        *_law_table(analyses),
        *_prediction_table(analyses),
        *_back_tests(analyses),
        *_notes(analyses),
        *_record(record),
        Heading("Residuals"),
        Picture(paths["residuals_svg"], paths["residuals_png"], f"Residuals of {names}", below, several),
        *_checklists(analyses),
        Heading("Runs"),
        _run_table([item.selection for item in analyses]),
        *_excluded([item.selection for item in analyses]),
        *(Picture(Path(path), Path(path), said, said) for said, path in images.items()),
        *how_again(command),
    ]


def _record(lines: Sequence[str]) -> list[Block]:
    """How registered predictions did; nothing where there are none."""
    return [Heading("Record"), Notes(tuple((line.strip(), None) for line in lines))] if lines else []


def how_again(command: str | None) -> list[Block]:
    """The command that makes a report again; nothing where there is none."""
    return [Heading("Again"), Text(command, "code")] if command else []


def _caption(analyses: Sequence[Analysis]) -> str:
    band = "Light band with dashed edges: 95% prediction interval"
    if any(item.line.replicated for item in analyses):
        band += " of a new configuration's mean over as many seeds (a single run scatters more)"
    caption = f"Thick: the law that leads. {band}; darker band: 95% interval of the law. "
    caption += "Hatched: beyond the data, up to the trusted horizon"
    if any(item.convergence is not None and item.convergence.ends for item in analyses):
        caption += "; hollow diamonds: with twice the steps, joined to the same trial"
    if any(item.disputed for item in analyses):
        caption += "; thin dotted lines: envelope of the laws within 4 AICc of the best and of a power law with "
        caption += "offset, which predictions hear outside the data alone"
    return caption + "."


MARKS = {"supported": "✓ supported", "not supported": "✗ not supported", "undecided": "? undecided"}
"""How a verdict's word is marked in a table."""


def _metric_table(
    several: bool, title: str, head: tuple[str, ...], rows: Sequence[tuple[str, ...]], text: tuple[int, ...]
) -> list[Block]:
    """A table whose rows begin with their metric, which is shown where there are several; nothing of no rows."""
    table = Table(("Metric", *head), rows, tuple(i + 1 for i in text))
    if not several:
        table = Table(head, [row[1:] for row in rows], text)
    return [Heading(title), table] if rows else []


def _verdict_table(analyses: Sequence[Analysis]) -> list[Block]:
    def why(verdict: Verdict) -> str:
        said = f"{verdict.reason}. Level: {verdict.level}"
        return said + (f". Would decide it: {verdict.would_decide}" if verdict.would_decide else "")

    said = [(item.selection.y_said, verdict) for item in analyses for verdict in item.verdicts]
    rows = [(name, verdict.claim, MARKS[verdict.verdict], why(verdict)) for name, verdict in said]
    return _metric_table(len(analyses) > 1, "Verdicts", ("Claim", "Verdict", "Why"), rows, (0, 1, 2))


def _gain_table(analyses: Sequence[Analysis]) -> list[Block]:
    rows = []
    for item, found in ((item, item.gains) for item in analyses):
        for size, gain, ci95, runs in found.configurations if found else ():
            cells = (_size(item.line, size), number(gain, ci95.high - ci95.low), _interval(*ci95), str(runs))
            rows.append((item.selection.y_name, *cells))
    head = (display_name(analyses[0].selection.x_name), "Mean gain", "95% interval", "Runs")
    note = (
        "Positive is better. Paired over the evaluation images, which all runs share; seeds and decoders as they are."
    )
    return (
        [*_metric_table(len(analyses) > 1, "Gain over no fusion", head, rows, ()), Text(note, "soft")] if rows else []
    )


def _fit_table(analyses: Sequence[Analysis]) -> list[Block]:
    rows = []
    drawn = list(dict.fromkeys(new.what for item in analyses for new in item.draws.intervals))
    for item, line in ((item, item.line) for item in analyses):
        images = line.selection.eval_images
        cells = {
            "Metric": line.sample.y_said,
            "Slope": number(line.slope, line.slope_ci95.high - line.slope_ci95.low),
            "95% CI": _interval(*line.slope_ci95),
            **{f"For new {what}": _new_draws(item, what) for what in drawn},
            "Intercept": number(line.intercept),
            "R²": share(line.curve.r2),
            "Residual sd": number(line.curve.residual_sd),
            "Seed sd": _NONE if line.seed_sd is None else number(line.seed_sd),
            "Points": str(line.sample.n),
            "Runs": str(line.n),
            "Eval images": f"{images:,}" if images else _NONE,
        }
        rows.append(tuple(cells.values()))
    head, line = tuple(cells), analyses[0].line
    sizes = (
        f"x: {display_name(line.sample.x_name)}, {_size(line, line.sample.low)} to {_size(line, line.sample.high)}. "
    )
    rejected = ", ".join(item.line.sample.y_said for item in analyses if item.line_rejected)
    doubt = f" Of the {line.law} law, which these points do not support: {rejected}." if rejected else ""
    return [Table(head, rows), Text(f"{sizes}{_method(line)}.{doubt}", "soft")]


def _new_draws(analysis: Analysis, what: str) -> str:
    return next((_interval(*new.slope) for new in analysis.draws.intervals if new.what == what), _NONE)


def _method(line: Line) -> str:
    method = "Ordinary least squares; exact-t intervals"
    return method + "; fitted to configuration means, since seeds are repeats and not sizes" * line.replicated


def _law_table(analyses: Sequence[Analysis]) -> list[Block]:
    rows = []
    for item, law in [(analysis, law) for analysis in analyses for law in analysis.comparison.fits]:
        judged = item.comparison.judged(law)
        aicc = f"{judged.aicc:.2f}".replace("-", "\N{MINUS SIGN}") if math.isfinite(judged.aicc) else _NONE
        numbers = (share(law.r2), number(judged.loo_rmse), aicc, item.comparison.behind(law))
        cells = (law.name, law.form.formula, said_parameters(law), *numbers)
        rows.append((item.selection.y_said, *cells))
    criterion = analyses[0].comparison.criterion
    head = ("Law", "Form", "Parameters (95% CI)", "R²", "Leave-one-out error", "AICc", f"Δ{criterion}")
    note = "Laws within 4 AICc of the best cannot be told apart by these runs; R² is no evidence for a form."
    return [*_metric_table(len(analyses) > 1, "Laws", head, rows, (1, 2)), Text(note, "soft")]


def _prediction_table(analyses: Sequence[Analysis]) -> list[Block]:
    """What the laws say of the end of the horizon."""
    rows = []
    for item in (item for item in analyses if item.horizon.high > 0):
        made = item.predict(item.horizon.high)
        said = [(law.law, law.value, law.of_run) for law in made.laws]
        if len(said) > 1:
            said.append((f"envelope{item.draws.here}", made.laws[0].value, made.of_run))
        fresh = (("on new images", made.on_new_images), ("from a new decoder", made.on_new_decoders))
        said += [(what, made.laws[0].value, ends) for what, ends in fresh if ends is not None]
        name = item.selection.y_said
        rows += [
            (name, law, _size(item.line, made.x), number(value, run[1] - run[0]), _interval(*run), "")
            for law, value, run in said
        ]
    head = ("Law", display_name(analyses[0].selection.x_name), "Predicted", "95% prediction interval", "")
    return _metric_table(len(analyses) > 1, "Predictions", head, rows, (4,))


def _shown_tests(analysis: Analysis) -> list[tuple[str, BackTest]]:
    """The back-tests of the envelope and of the line, and what each is."""
    return [
        (f"the {len(test.held_out)} largest sizes predicted from the {test.trained} smallest, {test.law}", test)
        for test in analysis.back_tests
        if test.law in ("envelope", analysis.line.law)
    ]


def _back_tests(analyses: Sequence[Analysis]) -> list[Block]:
    blocks: list[Block] = []
    for item in analyses:
        prefix = f"{item.selection.y_said}: " if len(analyses) > 1 else ""
        head = ("Law", display_name(item.selection.x_name), "Predicted", "95% prediction interval", "Came in", "Inside")
        for what, test in _shown_tests(item):
            said = f"{prefix}{what}: {test.hits} of {len(test.held_out)} inside their 95% interval."
            rows = []
            for row in test.held_out:
                cells = (
                    test.law,
                    _size(item.line, row.x),
                    number(row.predicted),
                    _interval(row.low, row.high),
                    number(row.y),
                )
                rows.append((*cells, "✓ yes" if row.inside else "✗ no"))
            blocks += [Text(said), Table(head, rows)]
    return [Heading("Back-test"), *blocks] if blocks else []


def _notes(analyses: Sequence[Analysis]) -> list[Block]:
    items = [
        ((f"{item.selection.y_said}: " if len(analyses) > 1 else "") + note.message, note.code)
        for item in analyses
        for note in item.cautions
    ]
    items += [(note.message, note.code) for note in unmeasured([item.selection for item in analyses])]
    return [Heading("To bear in mind"), Notes(tuple(items))] if items else []


def _checklists(analyses: Sequence[Analysis]) -> list[Block]:
    """What a reviewer asks for, answered from the runs: one table where all fits use the same runs."""
    rows: list[tuple[str, str]] = []
    for lines in zip(*(checklist(item) for item in analyses), strict=True):
        question = lines[0][0]
        if len({answer for _, answer in lines}) == 1:
            rows.append(lines[0])
            continue
        for item, (_, answer) in zip(analyses, lines, strict=True):
            rows.append((question, f"{item.selection.y_said}: {answer}"))
            question = ""
    return [Heading("What a reviewer asks for"), Table(("Question", "Answer"), rows, (0, 1))]


def checklist(analysis: Analysis) -> list[tuple[str, str]]:
    """Returns what a reviewer asks for as (question, answer) pairs.

    Form and why, points and exclusions, method, sizes, seeds, metric and number of images, hyper-parameters, what was
    held out.
    """
    line, selection = analysis.line, analysis.selection
    form = "y = a + b log10(x), a line per decade" if line.law == "log-linear" else "y = a + b x"
    close = [law.name for law in analysis.comparison.plausible if law.name != line.law]
    rivals = f"asked for, not selected; within 4 AICc stand also {', '.join(close)}"
    why = rivals if close else "no other law tried comes within 4 AICc"
    method = _method(line)
    if analysis.asked is not None:
        form, method = analysis.leading.form.formula, f"{analysis.asked.how}; intervals: {analysis.asked.basis}"
        why = (
            f"asked for; {analysis.law_verdicts[0].verdict}: {analysis.law_verdicts[0].reason}"
            if analysis.law_verdicts
            else "asked for"
        )
    elif analysis.rejected:
        why = f"asked for and not supported: {analysis.law_verdicts[0].reason}; {analysis.leading.name} leads"
    conditions = "".join(f"; {condition}" for condition in selection.used.attrs.get("where", ()))
    count = selection.eval_images
    images = f"{count:,} evaluation images for every value" if count else "number of images unknown"
    tests = [what for what, _ in _shown_tests(analysis)]
    return [
        ("Which form, and why", f"{form}; {why}"),
        ("Which points", f"{line.n} runs, {line.sample.n} fitted points{conditions}"),
        ("What was left out", _reasons(selection)),
        ("Fitted how", method),
        ("Which sizes", _sizes(line)),
        ("How many seeds", _seeds(line)),
        ("Which metric, measured on what", f"{metric_name(selection)}; {images}"),
        ("Which hyper-parameters", _hyper_parameters(selection)),
        ("What was held out", "; ".join(tests) or "nothing: every run was fitted"),
    ]


def _reasons(selection: Selection) -> str:
    if not selection.excluded:
        return "nothing"
    reasons = Counter(reason.split(":")[0] for _, reason in selection.excluded)
    listed = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common(6))
    return f"{len(selection.excluded)} rows: {listed}"


def _sizes(line: Line) -> str:
    sizes = np.unique(line.sample.x)
    span = f"{_size(line, sizes[0])} to {_size(line, sizes[-1])}"
    if sizes[0] > 0:
        span = f"{math.log10(sizes[-1] / sizes[0]):.2f} decades"
    return f"{len(sizes)} over {span}: {_listed([_size(line, size) for size in sizes])}"


def _seeds(line: Line) -> str:
    if line.seed_sd is None:
        return "one run per configuration: the scatter between seeds is not known"
    least, most = int(line.sample.runs.min()), int(line.sample.runs.max())
    many = str(least) if least == most else f"{least} to {most}"
    dof = line.sample.seed_dof
    return f"{many} runs per configuration; sd between seeds {number(line.seed_sd)}, {dof} degrees of freedom"


def _hyper_parameters(selection: Selection) -> str:
    """Config columns that varied over the used runs, and how many did not."""
    skip = {"fusion.expert_hidden_dim", "fusion.num_layers", *CONFIGURATION_COLUMNS, selection.x_column}
    names = [name for name in configuration_columns(selection.used) if name not in skip]
    if not names:
        return "not in the table"
    values = {name: list(map(str, selection.used[name].unique())) for name in names}
    varied = [f"{name} varies ({_listed(found)})" for name, found in values.items() if len(found) > 1]
    learning = [name for name in names if name.endswith((".lr", ".epochs")) and len(values[name]) == 1]
    constant = ", ".join(f"{name} = {selection.used[name].iloc[0]}" for name in learning)
    text = f"{'; '.join(varied) or 'none varies'}; {len(names) - len(varied)} the same in all runs"
    return text + (f", among them {constant}" if constant else "")


def _listed(values: Sequence[str]) -> str:
    return ", ".join(values[:_LISTED]) + (" …" if len(values) > _LISTED else "")


def _run_table(selections: Sequence[Selection]) -> Table:
    """All used runs, once each, with the columns a reader asks for first; MLflow's page behind each where known."""
    frame = pd.concat([selection.used for selection in selections])
    frame = frame[~frame.index.duplicated()].sort_index()
    columns = ["config_hash", "variant", "expert_hidden_dim", "num_layers", "seed"]
    columns += [item.x_column for item in selections] + [item.y_name for item in selections] + ["status"]
    shown = frame[[name for name in dict.fromkeys(columns) if name in frame.columns]].astype(object)
    if "run_url" in frame.columns:
        shown["MLflow"] = frame["run_url"].map(lambda url: Link("run", str(url)), na_action="ignore")
    rows = [[_cell(value) for value in row] for row in shown.itertuples(index=False, name=None)]
    return Table(tuple(shown.columns), rows)


def _cell(value: Any) -> Cell:
    if isinstance(value, Link):
        return value
    if pd.isna(value):
        return _NONE
    if isinstance(value, float):
        return f"{value:,.0f}" if value.is_integer() and abs(value) < 1e15 else f"{value:.5g}"
    return f"{value:,}" if isinstance(value, int) and abs(value) >= 10_000 else str(value)


def _excluded(selections: Sequence[Selection]) -> list[Block]:
    reasons: dict[tuple[str, str], list[str]] = {}
    for selection in selections:
        for item in selection.excluded:
            reasons.setdefault(item, []).append(selection.y_name)
    if not reasons:
        return [Text("No run was left out.", "soft")]
    everywhere = len(selections)
    rows = [(*item, "all" if len(names) == everywhere else ", ".join(names)) for item, names in reasons.items()]
    return [Heading("Left out"), Table(("Run", "Why", "Fits"), rows, (1, 2))]


def _joint_blocks(
    found: JointAnalysis,
    title: str,
    paths: Mapping[str, Path],
    command: str | None,
    drawn: str,
    bought: Bought | None,
) -> list[Block]:
    notes: list[tuple[str, str | None]] = [(f"{name}: not fitted: {reason}", None) for name, reason in found.skipped]
    notes += [(item.message, item.code) for item in found.cautions]
    notes += [(f"left out: {row}: {reason}", None) for row, reason in found.selection.excluded]
    tests = [(test.what, f"{test.f:.3g}", f"{test.extra}, {test.dof}", f"{test.p_value:.2g}") for test in found.tests]
    caption = (
        "Left: configurations and the additive law at values of the second axis, the darker the larger. Right: what "
        "the best law of both axes says against what was measured."
    )
    return [
        Picture(paths["svg"], paths["png"], title, caption + drawn, True),
        Picture(paths["surface_svg"], paths["surface_png"], f"Contours of {title}", surface_caption(found, bought)),
        Heading("Verdicts"),
        Table(("claim", "verdict", "reason", "would decide it", "level"), list(found.verdicts), (0, 2, 3, 4)),
        Heading("Laws"),
        Table(("law", "formula", "parameters (95%)", "R²", "ΔAICc"), found.rows(), (1, 2)),
        Notes(tuple(notes)),
        Heading("Tests"),
        Table(("of", "F", "degrees of freedom", "p"), tests, (0,)),
        *compute_blocks(found, bought or Bought()),
        *how_again(command),
    ]
