"""A fit as files: law.json, law.csv, figures and one self-contained HTML page."""

from __future__ import annotations

import base64
import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from analysis import figures
from analysis.evidence import Warning, warnings
from analysis.figures import display_name, equation, number, short, write_atomic
from analysis.laws import LawFit
from analysis.runs import Selection
from drorae.errors import UserError


def fit_json(fit: LawFit, selection: Selection, found: Sequence[Warning]) -> dict[str, Any]:
    """A fit as one JSON-able object without NaN or infinity (None stands for either)."""
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
    return {key: _finite(value) for key, value in tree.items()}


def write_report(
    fits: Sequence[LawFit],
    selections: Sequence[Selection],
    directory: str | Path,
    title: str,
    images: Mapping[str, Path] | None = None,
    command: str | None = None,
) -> dict[str, Path]:
    """Writes the report of one or several fits (one per metric) and returns its paths by name.

    json: law.json, the object of the first fit, the others' under "also"; csv: law.csv, every run of every fit
    with fitted value, residual and bands, or why it was left out; png, svg: law.*; residuals_png, residuals_svg;
    html: report.html, which holds all of it and loads nothing. `images` (caption -> PNG file) are embedded;
    `command` is printed as the way to make the report again. Each file appears whole or not at all.

    Raises:
        UserError: the directory cannot be written, or an image cannot be read.
    """
    directory = Path(directory)
    found = [warnings(fit, selection) for fit, selection in zip(fits, selections, strict=True)]
    trees = [fit_json(*item) for item in zip(fits, selections, found, strict=True)]
    if len(trees) > 1:
        trees[0] = trees[0] | {"also": trees[1:]}
    sizes = [selection.eval_images for selection in selections]
    try:
        directory.mkdir(parents=True, exist_ok=True)
        law = figures.save(figures.law_figure(fits, sizes), directory, "law")
        residuals = figures.save(figures.residual_figure(fits), directory, "residuals")
        page = _page(fits, selections, found, title, law["svg"], residuals["svg"], images or {}, command)
        text = json.dumps(trees[0], indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        return {
            "json": write_atomic(directory / "law.json", text.encode()),
            "csv": write_atomic(directory / "law.csv", _table_csv(fits, selections).encode()),
            **law,
            **{f"residuals_{kind}": path for kind, path in residuals.items()},
            "html": write_atomic(directory / "report.html", page.encode()),
        }
    except OSError as error:
        where = error.filename or directory
        raise UserError(f"{where}: {error.strerror or error}; the report needs a folder it can write to") from None


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


def _interval(low: float, high: float) -> str:
    return f"{number(low)} … {number(high)}"


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return value


def _table_csv(fits: Sequence[LawFit], selections: Sequence[Selection]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    bands = ("fitted", "residual", "ci95_low", "ci95_high", "prediction95_low", "prediction95_high")
    writer.writerow(("y", "row", "configuration", "seed", "x", "value", *bands, "used", "reason"))
    for fit, selection in zip(fits, selections, strict=True):
        for point in fit.points:
            at = fit.predict(point.x)
            values = (point.x, point.y, point.fitted, point.residual, *at[1:])
            row = [fit.y_name, point.label, point.configuration, point.seed, *(f"{value:.10g}" for value in values)]
            writer.writerow([*row, "yes", ""])
        for label, reason in selection.excluded:
            writer.writerow([fit.y_name, label, *[""] * 10, "no", reason])
    return stream.getvalue()


_STYLE = """
:root { color-scheme: light dark; --ink: #1c1c1e; --soft: #6a6a70; --rule: #e2e2e6; --page: #ffffff; --note: #f6f4ee; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e8ea; --soft: #a0a0a8; --rule: #38383d; --page: #17171a; --note: #24221d; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 2.5rem 1.25rem 4rem; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.5rem; font-weight: 600; margin: 0 0 .75rem; }
h2 { font-size: 1.05rem; font-weight: 600; margin: 2.5rem 0 .6rem; }
p { margin: .35rem 0; } .lead { font-size: 1.08rem; } .soft, figcaption { color: var(--soft); font-size: .88rem; }
figure { margin: 1.5rem 0; } figure img { width: 100%; height: auto; background: #fff; border: 1px solid var(--rule);
  border-radius: 6px; display: block; } figcaption { margin-top: .4rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-size: .86rem;
  font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .32rem .7rem; border-bottom: 1px solid var(--rule); white-space: nowrap; }
th { font-weight: 600; color: var(--soft); } th:first-child, td:first-child, td.text, th.text { text-align: left; }
td.text { white-space: normal; }
ul.notes { list-style: none; margin: 0; padding: .6rem 1rem; background: var(--note); border-radius: 6px; }
ul.notes li { margin: .3rem 0; } code { font: .86em ui-monospace, SFMono-Regular, Menlo, monospace; }
"""


def _page(
    fits: Sequence[LawFit],
    selections: Sequence[Selection],
    found: Sequence[Sequence[Warning]],
    title: str,
    law_svg: Path,
    residuals_svg: Path,
    images: Mapping[str, Path],
    command: str | None,
) -> str:
    names = ", ".join(display_name(fit.y_name) for fit in fits)
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{escape(title)}</h1>",
        *(f'<p class="lead">{escape(headline(fit))}</p>' for fit in fits),
        _figure(
            law_svg, "image/svg+xml", f"{names} against {fits[0].x_name} with fitted line and bands", _caption(fits)
        ),
        "<h2>Fits</h2>",
        _fit_table(fits, selections),
        _notes(fits, found),
        "<h2>Residuals</h2>",
        _figure(residuals_svg, "image/svg+xml", f"Residuals of {names}", "Run minus line; shaded: ± 1 residual sd."),
        "<h2>Runs</h2>",
        _run_table(fits, selections),
        _excluded(fits, selections),
    ]
    for caption, path in images.items():
        parts.append(_figure(Path(path), "image/png", caption, escape(caption)))
    if command:
        parts.append(f"<h2>Again</h2><p><code>{escape(command)}</code></p>")
    return "\n".join([*parts, "</body></html>", ""])


def _figure(path: Path, kind: str, alternative: str, caption: str) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    return (
        f'<figure><img alt="{escape(alternative)}" src="data:{kind};base64,{data}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _caption(fits: Sequence[LawFit]) -> str:
    band = "Light band: 95% prediction interval"
    if any(fit.replicated for fit in fits):
        band += " of a new configuration's mean over as many seeds (a single run scatters more)"
    return band + "; darker: 95% interval of the line. Hatched and dashed: beyond the data."


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], text: Sequence[int] = ()) -> str:
    def cells(tag: str, values: Sequence[str]) -> str:
        return "".join(
            f"<{tag}{' class=text' if i in text else ''}>{escape(value)}</{tag}>" for i, value in enumerate(values)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{cells("th", head)}</tr></thead><tbody>{body}</tbody></table></div>'


def _fit_table(fits: Sequence[LawFit], selections: Sequence[Selection]) -> str:
    head = (
        "Metric", "Law", "Slope", "95% CI", "Intercept", "R²", "Residual sd", "Seed sd", "Configurations", "Runs",
        "Eval images",
    )  # fmt: skip
    rows = [
        (
            fit.y_name, equation(fit), number(fit.slope), _interval(*fit.slope_ci95), number(fit.intercept),
            f"{fit.r2:.4f}", number(fit.residual_sd), "–" if fit.seed_sd is None else number(fit.seed_sd),
            str(fit.n_configurations), str(fit.n), f"{selection.eval_images:,}" if selection.eval_images else "–",
        )
        for fit, selection in zip(fits, selections, strict=True)
    ]  # fmt: skip
    x = display_name(fits[0].x_name)
    note = f'<p class="soft">x: {escape(x)}, {short(fits[0].x_range[0])} to {short(fits[0].x_range[1])}. '
    note += "Ordinary least squares; exact-t intervals"
    if any(fit.replicated for fit in fits):
        note += "; fitted to configuration means, since seeds are repeats and not sizes"
    return _table(head, rows) + note + ".</p>"


def _notes(fits: Sequence[LawFit], found: Sequence[Sequence[Warning]]) -> str:
    items = []
    for fit, notes in zip(fits, found, strict=True):
        prefix = f"{fit.y_name}: " if len(fits) > 1 else ""
        items += [f"<li>{escape(prefix + note.message)} <code>{escape(note.code)}</code></li>" for note in notes]
    return f'<h2>To bear in mind</h2><ul class="notes">{"".join(items)}</ul>' if items else ""


def _run_table(fits: Sequence[LawFit], selections: Sequence[Selection]) -> str:
    """All used runs, once each, with the columns a reader asks for first."""
    frame = pd.concat([selection.used for selection in selections])
    frame = frame[~frame.index.duplicated()].sort_index()
    columns = ["config_hash", "variant", "expert_hidden_dim", "num_layers", "seed"]
    columns += [selection.x_column for selection in selections] + [fit.y_name for fit in fits] + ["status"]
    columns = [name for name in dict.fromkeys(columns) if name in frame.columns]
    rows = [[_cell(value) for value in row] for row in frame[columns].itertuples(index=False, name=None)]
    return _table(columns, rows)


def _cell(value: Any) -> str:
    if pd.isna(value):
        return "–"
    if isinstance(value, float):
        return f"{value:,.0f}" if value.is_integer() and abs(value) < 1e15 else f"{value:.5g}"
    return str(value)


def _excluded(fits: Sequence[LawFit], selections: Sequence[Selection]) -> str:
    reasons: dict[tuple[str, str], list[str]] = {}
    for fit, selection in zip(fits, selections, strict=True):
        for item in selection.excluded:
            reasons.setdefault(item, []).append(fit.y_name)
    if not reasons:
        return '<p class="soft">No run was left out.</p>'
    everywhere = len(fits)
    rows = [
        (label, reason, "all" if len(names) == everywhere else ", ".join(names))
        for (label, reason), names in reasons.items()
    ]
    return "<h2>Left out</h2>" + _table(("Run", "Why", "Fits"), rows, text=(1, 2))
