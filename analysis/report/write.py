"""A fit as files: law.json, law.csv, figures, one self-contained HTML page and the same in Markdown."""

from __future__ import annotations

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from analysis.inference.evidence import Warning, warnings
from analysis.inference.verdicts import Verdict
from analysis.laws.intervals import parameter_intervals, run_interval
from analysis.laws.line import LawFit
from analysis.report import figures
from analysis.report.blocks import Block, Cell, Heading, Link, Notes, Picture, Table, Text, html_page, markdown_page
from analysis.report.figures import Curve, display_name, number, short, write_atomic
from analysis.table.selection import Selection
from drorae.errors import UserError

if TYPE_CHECKING:
    from analysis.inference.analysis import Analysis

_LISTED = 12
"""Values of a hyper-parameter or sizes that the checklist names one by one."""


@dataclass(frozen=True)
class LawRow:
    """One law in the table of laws."""

    name: str
    formula: str
    """For people, such as E + A x^-b."""
    parameters: tuple[tuple[str, float, float, float], ...]
    """(name, value, low, high) with the 95% interval; infinite ends where it is unbounded."""
    r2: float
    aicc: float
    delta_aicc: float
    """Difference from the best law of the table."""
    at_bound: tuple[str, ...] = ()
    """Parameters that stopped at a bound."""
    curve: Curve | None = None
    """Its values over the drawn range, for the figure."""


@dataclass(frozen=True)
class Predicted:
    """A law's value at one size with the 95% interval of a new configuration."""

    law: str
    x: float
    mean: float
    low: float
    high: float
    observed: float | None = None
    """The value that came in, where there is one; then the prediction was made without it."""


@dataclass(frozen=True)
class BackTest:
    """Runs held out, and what the law of the others had predicted for them."""

    what: str
    """Such as: the 3 largest sizes predicted from the 5 smallest."""
    rows: tuple[Predicted, ...]


@dataclass(frozen=True)
class Findings:
    """What is known of a fit beyond its line."""

    laws: tuple[LawRow, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    back_tests: tuple[BackTest, ...] = ()
    predictions: tuple[Predicted, ...] = ()
    horizon: float | None = None
    """Largest x up to which predictions are trusted; None: the default of `analysis.report.figures.horizon`."""
    envelope: tuple[Curve, Curve] | None = None
    """Lowest and highest end of the intervals of all laws that are still in question."""


def fit_json(fit: LawFit, selection: Selection, found: Sequence[Warning]) -> dict[str, Any]:
    """The line as one JSON-able object without NaN or infinity (None stands for either).

    What goes beyond the line stands beside these keys by `Analysis.tree`, which has the version.

    | key | what it holds |
    |---|---|
    | law, x, y, unit | the preferred law, size and metric fitted, and whether configurations or rows are points |
    | n, n_configurations, dof | runs, points, residual degrees of freedom |
    | slope, intercept, r2, residual_sd | of the preferred law; slope per decade (log-linear) or per unit (linear) |
    | slope_ci95, intercept_ci95, slope_se, p_value | exact t |
    | seed_sd | pooled sd of runs that differ in seed alone; null without such runs |
    | x_range | smallest and largest x |
    | eval_images | images every value was measured on; null where the table does not say |
    | warnings | code, message |
    | excluded | row, reason |
    """
    tree = {
        "law": fit.law,
        "x": fit.x_name,
        "y": fit.y_name,
        "unit": fit.unit,
        "n": fit.n,
        "n_configurations": fit.n_configurations,
        "slope": fit.slope,
        "intercept": fit.intercept,
        "r2": fit.r2,
        "slope_ci95": list(fit.slope_ci95),
        "intercept_ci95": list(fit.intercept_ci95),
        "slope_se": fit.slope_se,
        "p_value": fit.p_value,
        "residual_sd": fit.residual_sd,
        "seed_sd": fit.seed_sd,
        "dof": fit.dof,
        "x_range": list(fit.x_range),
        "eval_images": selection.eval_images,
        "warnings": [item._asdict() for item in found],
        "excluded": [{"row": row, "reason": reason} for row, reason in selection.excluded],
    }
    return _finite(tree)


def findings_of(analysis: Analysis) -> Findings:
    """What `analysis.inference.analysis.analyse` found, as the report shows it."""
    sample, comparison, fit = analysis.fit.sample, analysis.comparison, analysis.fit
    end = analysis.horizon.high
    at = np.geomspace(sample.low, end, 60) if sample.low > 0 else np.linspace(sample.low, end, 60)

    def curve(y: np.ndarray) -> Curve:
        return tuple(map(float, at)), tuple(map(float, y))

    laws = tuple(
        LawRow(
            law.name, law.form.formula,
            tuple(
                (name, float(value), float(low), float(high))
                for (name, (low, high)), value in zip(parameter_intervals(law).items(), law.parameters, strict=True)
            ),
            law.r2, law.aicc, comparison.delta(law), law.at_bound,
            curve(law.value(at)) if law in comparison.plausible and law.name != fit.law else None,
        )
        for law in comparison.fits
    )  # fmt: skip
    seeds = max(1.0, float(np.median(sample.runs)))
    # As predictions do: the plausible laws, and beyond the data the one that can level off as well.
    heard = comparison.heard(end) if end > 0 else comparison.plausible
    asked = [(law, (at > sample.high) | (law in comparison.plausible)) for law in heard]
    lows, highs = np.full((2, len(asked), len(at)), np.nan)
    for i, (law, where) in enumerate(asked):
        lows[i, where], highs[i, where] = run_interval(law, sample, at[where], seeds)
    several = len(asked) > 1
    envelope = (curve(np.nanmin(lows, axis=0)), curve(np.nanmax(highs, axis=0)))
    made = analysis.predict(end) if end > 0 else None
    predictions = [Predicted(item.law, end, item.value, *item.of_run) for item in made.laws] if made else []
    if made and several:
        predictions.append(Predicted("envelope", end, made.laws[0].value, *made.of_run))
    tests = tuple(
        BackTest(
            f"the {len(test.held_out)} largest sizes predicted from the {test.trained} smallest, {test.law}",
            tuple(Predicted(test.law, item.x, item.predicted, item.low, item.high, item.y) for item in test.held_out),
        )
        for test in analysis.back_tests
        if test.law in ("envelope", fit.law)
    )
    return Findings(laws, analysis.verdicts, tests, tuple(predictions), end, envelope if several else None)


def horizon_of(fit: LawFit, findings: Findings) -> float:
    """The largest x up to which a fit is trusted."""
    return figures.horizon(fit) if findings.horizon is None else findings.horizon


def _inside(item: Predicted) -> bool | None:
    return None if item.observed is None else bool(item.low <= item.observed <= item.high)


def write_report(
    fits: Sequence[LawFit],
    selections: Sequence[Selection],
    directory: str | Path,
    title: str,
    images: Mapping[str, Path] | None = None,
    command: str | None = None,
    findings: Sequence[Findings] = (),
    jsons: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Path]:
    """Writes the report of one or several fits (one per metric) and returns its paths by name.

    json: law.json, the object of the first fit, the others' under "also"; csv: law.csv, every run of every fit
    with fitted value, residual and bands, or why it was left out; png, svg: law.*; residuals_png, residuals_svg;
    html: report.html, which holds all of it and loads nothing; markdown: report.md, the same for a repository.
    `images` (caption -> PNG file) are embedded; `command` is printed as the way to make the report again;
    `findings` has one entry per fit, or none; `jsons` the objects to write, `fit_json` unless given.
    Each file appears whole or not at all.

    Raises:
        UserError: the directory cannot be written, or an image cannot be read.
    """
    directory = Path(directory)
    known = tuple(findings) or (Findings(),) * len(fits)
    found = [warnings(fit, selection) for fit, selection in zip(fits, selections, strict=True)]
    trees = [dict(tree) for tree in jsons] or [fit_json(*item) for item in zip(fits, selections, found, strict=True)]
    if len(trees) > 1:
        trees[0] = trees[0] | {"also": trees[1:]}
    sizes = [selection.eval_images for selection in selections]
    try:
        directory.mkdir(parents=True, exist_ok=True)
        law = figures.save(figures.law_figure(fits, sizes, [_overlay(item) for item in known]), directory, "law")
        residuals = figures.save(figures.residual_figure(fits), directory, "residuals")
        blocks = _blocks(fits, selections, found, known, law, residuals, images or {}, command)
        text = json.dumps(trees[0], indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        return {
            "json": write_atomic(directory / "law.json", text.encode()),
            "csv": write_atomic(directory / "law.csv", _table_csv(fits, selections).encode()),
            **law,
            **{f"residuals_{kind}": path for kind, path in residuals.items()},
            "html": write_atomic(directory / "report.html", html_page(title, blocks).encode()),
            "markdown": write_atomic(directory / "report.md", markdown_page(title, blocks, directory).encode()),
        }
    except OSError as error:
        where = error.filename or directory
        raise UserError(f"{where}: {error.strerror or error}; the report needs a folder it can write to") from None


def _overlay(findings: Findings) -> figures.Overlay:
    curves = tuple((law.name, law.curve) for law in findings.laws if law.curve is not None and law.delta_aicc < 4)
    return figures.Overlay(curves, findings.envelope, findings.horizon)


def headline(fit: LawFit) -> str:
    """The fit in one sentence that claims no more than its interval."""
    per = f"per tenfold {display_name(fit.x_name).lower()}" if fit.law == "log-linear" else f"per unit of {fit.x_name}"
    name = display_name(fit.y_name)
    low, high = fit.slope_ci95
    basis = f"R² = {fit.r2:.2f}, {fit.n_configurations} {_units(fit)}"
    if fit.n != fit.n_configurations:
        basis += f", {fit.n} runs"
    if low <= 0 <= high:
        return (
            f"{name}: no trend is resolved; slope {number(fit.slope)} {per}, 95% CI {_interval(low, high)} ({basis})."
        )
    verb = "rises" if fit.slope > 0 else "falls"
    ends = sorted((abs(low), abs(high)))
    return f"{name} {verb} by {number(abs(fit.slope))} {per}, 95% CI {_interval(*ends)} ({basis})."


def _units(fit: LawFit) -> str:
    return "runs" if fit.unit == "row" else "configurations"


def _minus(text: str) -> str:
    return text.replace("-", "\N{MINUS SIGN}")


def _interval(low: float, high: float) -> str:
    return f"{number(low)} … {number(high)}"


def _finite(value: Any) -> Any:
    """The same tree with None for every number JSON does not know."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list):
        return [_finite(item) for item in value]
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return value


def _table_csv(fits: Sequence[LawFit], selections: Sequence[Selection]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    bands = ("fitted", "residual", "ci95_low", "ci95_high", "prediction95_low", "prediction95_high")
    writer.writerow(("y", "row", "configuration", "seed", "x", "value", *bands, "used", "reason"))
    for fit, selection in zip(fits, selections, strict=True):
        at = np.column_stack(fit.predict(np.array([point.x for point in fit.points]))[1:])
        for point, band in zip(fit.points, at, strict=True):
            values = (point.x, point.y, point.fitted, point.residual, *band)
            row = [fit.y_name, point.label, point.configuration, point.seed, *(f"{value:.10g}" for value in values)]
            writer.writerow([*row, "yes", ""])
        for label, reason in selection.excluded:
            writer.writerow([fit.y_name, label, *[""] * 10, "no", reason])
    return stream.getvalue()


def _blocks(
    fits: Sequence[LawFit],
    selections: Sequence[Selection],
    found: Sequence[Sequence[Warning]],
    findings: Sequence[Findings],
    law: Mapping[str, Path],
    residuals: Mapping[str, Path],
    images: Mapping[str, Path],
    command: str | None,
) -> list[Block]:
    names = ", ".join(display_name(fit.y_name) for fit in fits)
    drawn = f"{names} against {fits[0].x_name} with fitted line and bands"
    blocks: list[Block] = [
        *(Text(headline(fit), "lead") for fit in fits),
        Picture(law["svg"], law["png"], drawn, _caption(fits, findings), len(fits) > 1),
        *_verdict_table(fits, findings),
        Heading("Fits"),
        *_fit_table(fits, selections),
        *_law_table(fits, findings),
        *_prediction_tables(fits, findings),
        *_notes(fits, found),
        Heading("Residuals"),
        Picture(
            residuals["svg"],
            residuals["png"],
            f"Residuals of {names}",
            "Run minus line; shaded: ± 1 residual sd.",
            len(fits) > 1,
        ),
        *_checklists(fits, selections, findings),
        Heading("Runs"),
        _run_table(fits, selections),
        *_excluded(fits, selections),
        *(Picture(Path(path), Path(path), caption, caption) for caption, path in images.items()),
    ]
    return blocks + ([Heading("Again"), Text(command, "code")] if command else [])


def _caption(fits: Sequence[LawFit], findings: Sequence[Findings]) -> str:
    band = "Light band with dashed edges: 95% prediction interval"
    if any(fit.replicated for fit in fits):
        band += " of a new configuration's mean over as many seeds (a single run scatters more)"
    caption = band + "; darker band: 95% interval of the line. Hatched: beyond the data, up to the trusted horizon"
    if any(item.envelope for item in findings):
        caption += (
            "; thin dotted lines: envelope of the laws within 4 AICc of the best and, outside the data, of a power law "
            "with offset"
        )
    return caption + "."


_MARKS = {"supported": "✓ supported", "not supported": "✗ not supported", "undecided": "? undecided"}


def _verdict_table(fits: Sequence[LawFit], findings: Sequence[Findings]) -> list[Block]:
    rows = [
        (*_of(fits, fit), item.claim, _MARKS[item.verdict], _why(item))
        for fit, known in zip(fits, findings, strict=True)
        for item in known.verdicts
    ]
    if not rows:
        return []
    return [Heading("Verdicts"), _metric_table(fits, ("Claim", "Verdict", "Why"), rows, (0, 1, 2))]


def _why(verdict: Verdict) -> str:
    return verdict.reason + (f". Would decide it: {verdict.would_decide}" if verdict.would_decide else "")


def _of(fits: Sequence[LawFit], fit: LawFit) -> tuple[str, ...]:
    """The first cell of a row where a report has several metrics."""
    return (fit.y_name,) if len(fits) > 1 else ()


def _metric_table(
    fits: Sequence[LawFit], head: tuple[str, ...], rows: Sequence[Sequence[Cell]], text: tuple[int, ...] = ()
) -> Table:
    shift = len(fits) > 1
    return Table((*(("Metric",) if shift else ()), *head), rows, tuple(i + shift for i in text))


def _fit_table(fits: Sequence[LawFit], selections: Sequence[Selection]) -> list[Block]:
    head = (
        "Metric", "Slope", "95% CI", "Intercept", "R²", "Residual sd", "Seed sd", "Points", "Runs",
        "Eval images",
    )  # fmt: skip
    rows = [
        (
            fit.y_name, number(fit.slope), _interval(*fit.slope_ci95), number(fit.intercept),
            f"{fit.r2:.4f}", number(fit.residual_sd), "–" if fit.seed_sd is None else number(fit.seed_sd),
            str(fit.n_configurations), str(fit.n), f"{selection.eval_images:,}" if selection.eval_images else "–",
        )
        for fit, selection in zip(fits, selections, strict=True)
    ]  # fmt: skip
    note = f"x: {display_name(fits[0].x_name)}, {short(fits[0].x_range[0])} to {short(fits[0].x_range[1])}. "
    return [Table(head, rows), Text(note + _method(fits[0]) + ".", "soft")]


def _method(fit: LawFit) -> str:
    method = "Ordinary least squares; exact-t intervals"
    return method + "; fitted to configuration means, since seeds are repeats and not sizes" * fit.replicated


def _law_table(fits: Sequence[LawFit], findings: Sequence[Findings]) -> list[Block]:
    rows: list[tuple[str, ...]] = []
    for fit, known in zip(fits, findings, strict=True):
        for law in known.laws:
            values = "; ".join(
                f"{name} = {number(value)} ({_interval(low, high)})"
                + (", at its bound" if name in law.at_bound else "")
                for name, value, low, high in law.parameters
            )
            cells = (law.name, law.formula, values, f"{law.r2:.4f}", _minus(f"{law.aicc:.2f}"), f"{law.delta_aicc:.2f}")
            rows.append((*_of(fits, fit), *cells))
    if not rows:
        return []
    table = _metric_table(fits, ("Law", "Form", "Parameters (95% CI)", "R²", "AICc", "ΔAICc"), rows, (1, 2))
    note = "Laws within 4 AICc of the best cannot be told apart by these runs; R² is no evidence for a form."
    return [Heading("Laws"), table, Text(note, "soft")]


def _prediction_tables(fits: Sequence[LawFit], findings: Sequence[Findings]) -> list[Block]:
    blocks: list[Block] = []
    rows: list[tuple[str, ...]] = []
    for fit, known in zip(fits, findings, strict=True):
        end = horizon_of(fit, known)
        for item in known.predictions:
            beyond = f"beyond the trusted horizon {short(end)}" if item.x > end else ""
            rows.append(
                (*_of(fits, fit), item.law, short(item.x), number(item.mean), _interval(item.low, item.high), beyond)
            )
    if rows:
        head = ("Law", display_name(fits[0].x_name), "Predicted", "95% prediction interval", "")
        blocks += [Heading("Predictions"), _metric_table(fits, head, rows, (4,))]
    for fit, known in zip(fits, findings, strict=True):
        for test in known.back_tests:
            if not blocks or not any(block == Heading("Back-test") for block in blocks):
                blocks.append(Heading("Back-test"))
            prefix = f"{fit.y_name}: " if len(fits) > 1 else ""
            inside = sum(bool(_inside(item)) for item in test.rows)
            blocks.append(Text(f"{prefix}{test.what}: {inside} of {len(test.rows)} inside their 95% interval."))
            columns = ("Law", display_name(fit.x_name), "Predicted", "95% prediction interval", "Came in", "Inside")
            checked: list[tuple[str, ...]] = [
                (
                    item.law, short(item.x), number(item.mean), _interval(item.low, item.high),
                    "–" if item.observed is None else number(item.observed),
                    {True: "✓ yes", False: "✗ no", None: "–"}[_inside(item)],
                )
                for item in test.rows
            ]  # fmt: skip
            blocks.append(Table(columns, checked))
    return blocks


def _notes(fits: Sequence[LawFit], found: Sequence[Sequence[Warning]]) -> list[Block]:
    items = [
        (f"{fit.y_name}: {note.message}" if len(fits) > 1 else note.message, note.code)
        for fit, notes in zip(fits, found, strict=True)
        for note in notes
    ]
    return [Heading("To bear in mind"), Notes(tuple(items))] if items else []


def _checklists(fits: Sequence[LawFit], selections: Sequence[Selection], findings: Sequence[Findings]) -> list[Block]:
    """What a reviewer asks for, answered from the runs: one table where all fits use the same runs."""
    answers = [checklist(*item) for item in zip(fits, selections, findings, strict=True)]
    rows: list[tuple[str, str]] = []
    for lines in zip(*answers, strict=True):
        question = lines[0][0]
        for fit, (_, answer) in zip(fits, lines, strict=True):
            if len({text for _, text in lines}) == 1:
                rows.append((question, answer))
                break
            rows.append((question, f"{fit.y_name}: {answer}"))
            question = ""
    return [Heading("What a reviewer asks for"), Table(("Question", "Answer"), rows, (0, 1))]


def checklist(fit: LawFit, selection: Selection, findings: Findings | None = None) -> list[tuple[str, str]]:
    """(question, answer) pairs: form and why, points and exclusions, method, sizes, seeds, metric and N,
    hyper-parameters, what was held out."""
    known = findings or Findings()
    used = selection.used
    form = "y = a + b log10(x), a line per decade" if fit.law == "log-linear" else "y = a + b x"
    close = [law.name for law in known.laws if law.delta_aicc < 4 and law.name != fit.law]
    if close:
        why = f"asked for, not selected; within 4 AICc stand also {', '.join(close)}"
    elif known.laws:
        why = "no other law tried comes within 4 AICc"
    else:
        why = "assumed; no other form was tried"
    reasons = Counter(reason.split(":")[0] for _, reason in selection.excluded)
    left_out = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common(6)) or "none"
    kept = "".join(f"; {condition}" for condition in used.attrs.get("where", ()))
    sizes = sorted({x for x, _, _ in fit.means})
    listed = ", ".join(short(size) for size in sizes[:_LISTED]) + (" …" if len(sizes) > _LISTED else "")
    span = (
        f"{math.log10(sizes[-1] / sizes[0]):.2f} decades"
        if sizes[0] > 0
        else f"{short(sizes[0])} to {short(sizes[-1])}"
    )
    runs = [count for _, _, count in fit.means]
    if fit.seed_sd is None:
        seeds = "one run per configuration: the scatter between seeds is not known"
    else:
        many = str(runs[0]) if len(set(runs)) == 1 else f"{min(runs)} to {max(runs)}"
        dof = fit.n - len(runs)
        seeds = f"{many} runs per configuration; sd between seeds {number(fit.seed_sd)}, {dof} degrees of freedom"
    images = (
        f"{selection.eval_images:,} evaluation images for every value"
        if selection.eval_images
        else "number of images unknown"
    )
    return [
        ("Which form, and why", f"{form}; {why}"),
        ("Which points", f"{fit.n} runs, {fit.n_configurations} fitted points{kept}"),
        ("What was left out", f"{len(selection.excluded)} rows: {left_out}" if selection.excluded else "nothing"),
        ("Fitted how", _method(fit)),
        ("Which sizes", f"{len(sizes)} over {span}: {listed}"),
        ("How many seeds", seeds),
        ("Which metric, measured on what", f"{display_name(fit.y_name)}; {images}"),
        ("Which hyper-parameters", _hyper_parameters(selection)),
        ("What was held out", "; ".join(test.what for test in known.back_tests) or "nothing: every run was fitted"),
    ]  # fmt: skip


def _hyper_parameters(selection: Selection) -> str:
    """Config columns that varied over the used runs, and how many did not."""
    skip = {"fusion.expert_hidden_dim", "fusion.num_layers", selection.x_column}
    names = [name for name in map(str, selection.used.columns) if "." in name and "/" not in name and name not in skip]
    if not names:
        return "not in the table"
    varied = []
    for name in names:
        values = [str(value) for value in selection.used[name].unique()]
        if len(values) > 1:
            shown = ", ".join(values[:_LISTED]) + (" …" if len(values) > _LISTED else "")
            varied.append(f"{name} varies ({shown})")
    same = len(names) - len(varied)
    learning = [f"{name} = {selection.used[name].iloc[0]}" for name in names if name.endswith((".lr", ".epochs"))]
    constant = [text for text in learning if not any(item.startswith(text.split(" = ")[0]) for item in varied)]
    text = "; ".join(varied) or "none varies"
    return f"{text}; {same} the same in all runs" + (f", among them {', '.join(constant)}" if constant else "")


def _run_table(fits: Sequence[LawFit], selections: Sequence[Selection]) -> Table:
    """All used runs, once each, with the columns a reader asks for first; MLflow's page behind each where known."""
    frame = pd.concat([selection.used for selection in selections])
    frame = frame[~frame.index.duplicated()].sort_index()
    columns = ["config_hash", "variant", "expert_hidden_dim", "num_layers", "seed"]
    columns += [selection.x_column for selection in selections] + [fit.y_name for fit in fits] + ["status"]
    columns = [name for name in dict.fromkeys(columns) if name in frame.columns]
    cells: list[list[Cell]] = [
        [_cell(value) for value in row] for row in frame[columns].itertuples(index=False, name=None)
    ]
    if "run_url" in frame.columns:
        columns.append("MLflow")
        for row, url in zip(cells, frame["run_url"], strict=True):
            row.append("–" if pd.isna(url) else Link("run", str(url)))
    return Table(tuple(columns), cells)


def _cell(value: Any) -> str:
    if pd.isna(value):
        return "–"
    if isinstance(value, float):
        return f"{value:,.0f}" if value.is_integer() and abs(value) < 1e15 else f"{value:.5g}"
    return f"{value:,}" if isinstance(value, int) and abs(value) >= 10_000 else str(value)


def _excluded(fits: Sequence[LawFit], selections: Sequence[Selection]) -> list[Block]:
    reasons: dict[tuple[str, str], list[str]] = {}
    for fit, selection in zip(fits, selections, strict=True):
        for item in selection.excluded:
            reasons.setdefault(item, []).append(fit.y_name)
    if not reasons:
        return [Text("No run was left out.", "soft")]
    everywhere = len(fits)
    rows = [
        (label, reason, "all" if len(names) == everywhere else ", ".join(names))
        for (label, reason), names in reasons.items()
    ]
    return [Heading("Left out"), Table(("Run", "Why", "Fits"), rows, (1, 2))]
