"""The plots of a law: points, line and 95% bands; residuals. PNG and SVG, without a display."""

from __future__ import annotations

import io
import math
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.laws.line import LawFit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import Formatter

EXTRAPOLATE_DECADES = 0.3
"""How far beyond the largest size a log-linear law is drawn: the horizon within which a wrong form does least
harm (simulated coverage of the 95% prediction interval at least .87 with n = 8)."""
EXTRAPOLATE_SHARE = 0.25
"""The same for a linear law, as a share of the range of x."""

INK, LINE = "#222222", "#0072B2"
_LAW_STYLES: list[Any] = ["-.", (0, (1, 1)), (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2))]
# Okabe and Ito's colours, told apart by the colour-blind; markers tell them apart in grey.
_SEED_STYLES = (
    ("o", "#E69F00"), ("s", "#009E73"), ("^", "#CC79A7"), ("D", "#56B4E9"),
    ("v", "#D55E00"), ("P", "#F0E442"), ("X", "#999999"), ("*", "#000000"),
)  # fmt: skip

RASTER_POINTS = 2000
"""Runs from which a figure's points are drawn as pixels: an SVG of so many shapes takes long to open."""

Curve = tuple[tuple[float, ...], tuple[float, ...]]
"""x and y of a drawn line."""


@dataclass(frozen=True)
class Overlay:
    """What a law's figure shows beside the preferred law."""

    curves: tuple[tuple[str, Curve], ...] = ()
    """Other laws by name."""
    envelope: tuple[Curve, Curve] | None = None
    horizon: float | None = None
    """Largest trusted x; None: the default."""


_NAMES = {
    "psnr": "PSNR (dB)",
    "ssim": "SSIM",
    "rfid": "rFID",
    "rfid_inception": "rFID (Inception features)",
    "rfd_dinov2": "Fréchet distance (DINOv2 features)",
    "rfd_effnet": "Fréchet distance (EfficientNet features)",
    "l1": "L1 error",
    "params": "Fusion parameters",
    "fusion_params": "Fusion parameters",
    "fusion_params_paper": "Fusion parameters (paper's formula)",
    "capacity": "Expert hidden dim",
    "expert_hidden_dim": "Expert hidden dim",
    "layers": "Fused layers",
    "num_layers": "Fused layers",
}


def display_name(name: str) -> str:
    """A metric's or size's name for people, with its unit; unknown names stay as they are."""
    return _NAMES.get(name, name)


def number(value: float) -> str:
    """A number for labels: 4 digits after the point at ordinary sizes, else 4 significant ones, true minus sign."""
    if math.isinf(value):
        return "∞" if value > 0 else "\N{MINUS SIGN}∞"
    text = f"{value:.4f}" if 0.001 <= abs(value) < 1 else f"{value:.4g}"
    return text.replace("-", "\N{MINUS SIGN}")


def equation(fit: LawFit) -> str:
    """The fitted line, e.g. 'rFID = 0.9194 − 0.0564 log₁₀(x)'."""
    sign = "+" if fit.slope >= 0 else "\N{MINUS SIGN}"
    term = "log₁₀(x)" if fit.law == "log-linear" else "x"
    name = display_name(fit.y_name).split(" (")[0]
    return f"{name} = {number(fit.intercept)} {sign} {number(abs(fit.slope))} {term}"


def horizon(fit: LawFit) -> float:
    """The largest x to which the law is drawn."""
    low, high = fit.x_range
    if fit.law == "log-linear":
        return high * 10**EXTRAPOLATE_DECADES
    return high + EXTRAPOLATE_SHARE * (high - low)


def law_figure(
    fits: Sequence[LawFit], eval_images: Sequence[int | None] = (), overlays: Sequence[Overlay] = ()
) -> Figure:
    """One panel per fit: runs marked by seed, line, confidence and prediction band, hatched beyond the data.

    Everything is told apart by marker, line style or hatching as well as by colour.
    """
    figure, drawn = panels(len(fits))
    for i, (fit, axes) in enumerate(zip(fits, drawn, strict=True)):
        overlay = overlays[i] if i < len(overlays) else Overlay()
        _draw_law(axes, fit, eval_images[i] if i < len(eval_images) else None, overlay)
    return figure


def residual_figure(fits: Sequence[LawFit]) -> Figure:
    """One panel per fit: residuals of all runs against x, marked by seed, with the residual deviation."""
    figure, drawn = panels(len(fits), 2.7)
    for fit, axes in zip(fits, drawn, strict=True):
        axes.axhspan(-fit.residual_sd, fit.residual_sd, color=LINE, alpha=0.12, lw=0, label="± 1 residual sd")
        axes.axhline(0, color=INK, lw=1)
        _scatter(axes, fit, [point.residual for point in fit.points])
        _x_axis(axes, fit, horizon(fit))
        axes.set_ylabel(f"residual, {display_name(fit.y_name).split(' (')[0]}")
        axes.legend(frameon=False, fontsize=8, ncols=5, loc="lower left", bbox_to_anchor=(0, 1))
    return figure


def save(figure: Figure, directory: Path, name: str) -> dict[str, Path]:
    """Writes name.png (150 dpi) and name.svg, each renamed into place; the same figure gives the same bytes."""
    import matplotlib

    paths = {}
    # Laid out once for all files, and not drawn for it.
    layout = figure.get_layout_engine()
    if layout is not None:
        layout.execute(figure)
    figure.set_layout_engine("none")
    with matplotlib.rc_context({"svg.hashsalt": "drorae", "svg.fonttype": "path"}):
        for kind, options in (("png", {"dpi": 150}), ("svg", {"metadata": {"Date": None}})):
            buffer = io.BytesIO()
            arguments: dict[str, Any] = dict(options)
            figure.savefig(buffer, format=kind, facecolor="white", **arguments)
            paths[kind] = write_atomic(directory / f"{name}.{kind}", buffer.getvalue())
    return paths


def write_atomic(path: Path, content: bytes) -> Path:
    """Writes a file under a temporary name beside it and renames it, so that it is never seen half-written."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


def panels(count: int, height: float = 4.8) -> tuple[Figure, list[Axes]]:
    """A figure of `count` empty panels, two in a row; `height`: inches of each."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(count, 2)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(7.2 if columns == 1 else 12.4, height * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for spare in axes[count:]:
        spare.remove()
    for panel in axes[:count]:
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(True, color="#e6e6e6", lw=0.6)
        panel.set_axisbelow(True)
    return figure, list(axes[:count])


def _draw_law(axes: Axes, fit: LawFit, eval_images: int | None, overlay: Overlay) -> None:
    low, high = fit.x_range
    end = max(horizon(fit) if overlay.horizon is None else overlay.horizon, high)
    space = np.geomspace if fit.law == "log-linear" else np.linspace
    inside, beyond = space(low, high, 200), space(high, end, 80)
    at, after = fit.predict(inside), fit.predict(beyond)
    band = "95% prediction interval" + (", new configuration's mean" if fit.replicated else "")
    axes.fill_between(inside, at.prediction_low, at.prediction_high, color=LINE, alpha=0.13, lw=0, label=band)
    for edge in (at.prediction_low, at.prediction_high):
        axes.plot(inside, edge, color=LINE, lw=0.7, ls=(0, (6, 3)))
    axes.fill_between(inside, at.mean_ci_low, at.mean_ci_high, color=LINE, alpha=0.3, lw=0, label="95% CI of the line")
    axes.fill_between(
        beyond, after.prediction_low, after.prediction_high, facecolor="none", edgecolor=LINE, alpha=0.35, lw=0,
        hatch="////", label="beyond the data",
    )  # fmt: skip
    low_ci, high_ci = fit.slope_ci95
    label = f"{equation(fit)}\nslope 95% CI {number(low_ci)} … {number(high_ci)}; R² = {fit.r2:.3f}"
    axes.plot(inside, at.mean, color=LINE, lw=2, label=label)
    axes.plot(beyond, after.mean, color=LINE, lw=1.6, ls=(0, (4, 3)))
    for (name, (x, y)), style in zip(overlay.curves, _LAW_STYLES * len(overlay.curves), strict=False):
        axes.plot(x, y, color=INK, lw=1, ls=style, label=name)
    for i, (x, y) in enumerate(overlay.envelope or ()):
        axes.plot(x, y, color=INK, lw=0.9, ls=":", label="" if i else "envelope of the laws in question")
    axes.axvline(high, color="#888888", lw=0.8, ls=":")
    axes.axvline(end, color="#888888", lw=0.8)
    free = (0.98, "top") if fit.slope > 0 else (0.02, "bottom")
    axes.annotate(
        "trusted horizon", (end, free[0]), xycoords=("data", "axes fraction"), xytext=(3, 0), ha="left", va=free[1],
        textcoords="offset points", rotation=90, fontsize=7, color="#555555",
    )  # fmt: skip
    _scatter(axes, fit, [point.y for point in fit.points])
    _x_axis(axes, fit, end)
    measured = f"\nN = {eval_images:,} images" if eval_images else ""
    axes.set_ylabel(display_name(fit.y_name) + measured)
    bottom, top = axes.get_ylim()
    # Room for the legend on the side the line leaves free.
    room = (0.34 + 0.05 * (len(overlay.curves) + (overlay.envelope is not None))) * (top - bottom)
    axes.set_ylim(bottom - (room if fit.slope > 0 else 0), top + (room if fit.slope <= 0 else 0))
    axes.legend(
        facecolor="white",
        edgecolor="white",
        framealpha=1,
        fontsize=8,
        loc="upper right" if fit.slope <= 0 else "lower right",
    )


def _scatter(axes: Axes, fit: LawFit, values: Sequence[float]) -> None:
    seeds = sorted({point.seed for point in fit.points}, key=lambda seed: (len(seed), seed))
    many = len(fit.points) > RASTER_POINTS
    x, y, of = np.array([point.x for point in fit.points]), np.array(values), [point.seed for point in fit.points]
    marks: list[tuple[np.ndarray, str, str, str]] = []
    if len(seeds) > len(_SEED_STYLES):
        marks.append((np.full(len(x), True), "o", "#999999", f"runs of {len(seeds)} seeds"))
    else:
        for i, seed in enumerate(seeds):
            marker, colour = _SEED_STYLES[i] if len(seeds) > 1 else ("o", INK)
            marks.append((np.array([item == seed for item in of]), marker, colour, f"seed {seed}" if seed else "runs"))
    for chosen, marker, colour, label in marks:
        axes.scatter(
            x[chosen], y[chosen], marker=marker, s=12 if many else 42, color=colour, edgecolors=INK,
            linewidths=0.3 if many else 0.7, zorder=3, label=label, rasterized=many,
        )  # fmt: skip


def _x_axis(axes: Axes, fit: LawFit, end: float) -> None:
    if fit.law == "log-linear":
        decades = math.log10(end / fit.x_range[0])
        subs = (1.0,) if decades > 3.5 else (1.0, 3.0) if decades > 2.2 else (1.0, 2.0, 5.0)
        log_axis(axes, subs)
        margin = 10 ** (0.035 * decades)
        axes.set_xlim(fit.x_range[0] / margin, end * margin)
    else:
        axes.xaxis.set_major_formatter(_short_labels())
    axes.set_xlabel(display_name(fit.x_name))


def log_axis(axes: Axes, subs: Sequence[float]) -> None:
    """Makes the x axis one of log10 of a size, with labels at these multiples of the powers of ten."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=subs))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(_short_labels())


def _short_labels() -> Formatter:
    from matplotlib.ticker import FuncFormatter

    return FuncFormatter(lambda value, _: short(value))


def short(value: float) -> str:
    """A size for labels: 128, 19 K, 113.4 M."""
    for limit, scale, unit in ((1e9, 1e9, " G"), (1e6, 1e6, " M"), (1e4, 1e3, " K")):
        if abs(value) >= limit:
            return f"{float(f'{value / scale:.4g}'):g}{unit}"
    return f"{value:g}"
