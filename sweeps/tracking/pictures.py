"""Pictures of one trial, from what it left in its folder: reconstructions, loss, and the inside of its fusion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from drorae.storage.files import json_rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage


def draw_pictures(directory: Path) -> list[Path]:
    """Draws what a finished trial's folder has the numbers for; returns the files drawn.

    From samples.npz grid.png and routing.png, from inspection.npz spectrum.png, latents.png, logits.png and
    energy.png (`drorae.diagnostics.inspection` says what they show), from history.jsonl loss.png.
    """
    drawn = []

    def target(name: str) -> Path:
        drawn.append(directory / name)
        return drawn[-1]

    samples, inside = _arrays(directory / "samples.npz"), _arrays(directory / "inspection.npz")
    if {"original", "phase1", "fused", "routing"} <= samples.keys():
        _grid(samples["original"], samples["phase1"], samples["fused"], target("grid.png"))
        _maps(samples["original"], samples["routing"], "routing weight", target("routing.png"))
        if inside:
            _spectrum(samples["original"], inside, target("spectrum.png"))
            _latents(samples["original"], inside, target("latents.png"))
        if "logits" in inside:
            _maps(samples["original"], inside["logits"], "router logit", target("logits.png"))
    if inside:
        _energy(inside["energy"], inside["blocks"], target("energy.png"))
    history = directory / "history.jsonl"
    if history.is_file() and (rows := json_rows(history.read_bytes())):
        _loss([row for row in rows if "loss" in row], target("loss.png"))
    return drawn


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an npz file; none where there is no file."""
    if not path.is_file():
        return {}
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def _figure(width: float, height: float) -> Figure:
    """An empty figure, in inches. Not of pyplot, whose list of figures is shared by all threads."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    return FigureCanvasAgg(Figure(figsize=(width, height))).figure


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=110, bbox_inches="tight")


def _mosaic(rows: Sequence[np.ndarray], gap: int) -> np.ndarray:
    """Rows of pictures [N, H, W, ...] as one picture, `gap` pixels of NaN between them.

    One picture in one set of axes: dozens of axes take matplotlib seconds.
    """
    count, height, width = rows[0].shape[:3]
    shape = (len(rows) * (height + gap) - gap, count * (width + gap) - gap, *rows[0].shape[3:])
    canvas = np.full(shape, np.nan)
    for row, pictures in enumerate(rows):
        for column, picture in enumerate(pictures):
            top, left = row * (height + gap), column * (width + gap)
            canvas[top : top + height, left : left + width] = picture
    return canvas


def _enlarged(pictures: np.ndarray, axis: int) -> np.ndarray:
    """Pictures whose height and width are at `axis` and behind it, the small with cells of several pixels.

    Then the gaps of a mosaic can be narrower than a cell.
    """
    block = max(1, 16 // pictures.shape[axis])
    return pictures.repeat(block, axis=axis).repeat(block, axis=axis + 1)


def _centres(count: int, size: int, gap: int) -> list[float]:
    """Where the middles of a mosaic's pictures lie."""
    return [index * (size + gap) + (size - 1) / 2 for index in range(count)]


def _frameless(axis: Axes) -> None:
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_visible(False)


def _grid(original: np.ndarray, phase1: np.ndarray, fused: np.ndarray, path: Path, count: int = 10) -> None:
    """Rows: originals, the phase-1 decoder's, the fused tokenizer's; [N, S, S, 3] uint8 each."""
    count, size = min(count, len(original)), original.shape[1]
    gap = max(1, size // 16)
    picture = _mosaic([images[:count] / 255 for images in (original, phase1, fused)], gap)
    figure = _figure(count * 1.1, 3.6)
    axis = figure.subplots()
    axis.imshow(np.nan_to_num(picture, nan=1.0))
    _frameless(axis)
    axis.set_yticks(_centres(3, size, gap), ["original", "phase 1", "fused"], rotation=90, va="center")
    axis.tick_params(length=0)
    _save(figure, path)


def _maps(original: np.ndarray, values: np.ndarray, label: str, path: Path, count: int = 4) -> None:
    """Per image, each layer's value [N, n, gh, gw] as a map, one colour scale about zero for all."""
    count, layers = min(count, len(original)), values.shape[1]
    limit = float(np.abs(values[:count]).max()) or 1.0
    ratios = {"width_ratios": [1, layers], "wspace": 0.02}
    figure = _figure((layers + 1) * 0.9 + 1, count * 0.9 + 0.3)
    left, right = figure.subplots(1, 2, gridspec_kw=ratios)
    gap = max(1, original.shape[1] // 16)
    left.imshow(np.nan_to_num(_mosaic(list(original[:count, None] / 255), gap), nan=1.0))
    maps = _enlarged(values[:count], 2)
    image = right.imshow(_mosaic(list(maps), 1), cmap="RdBu_r", vmin=-limit, vmax=limit)
    for axis in (left, right):
        _frameless(axis)
    names = [f"{layer + 1 - layers:+d}" if layer + 1 < layers else "last" for layer in range(layers)]
    right.set_xticks(_centres(layers, maps.shape[2], 1), names, fontsize=8)
    right.tick_params(length=0, labeltop=True, labelbottom=False)
    figure.colorbar(image, ax=[left, right], shrink=0.8, label=label)
    _save(figure, path)


def _column(axis: Axes, pictures: np.ndarray, title: str, notes: Sequence[str] = (), **options: Any) -> AxesImage:
    """Pictures [N, H, W] or [N, H, W, 3] in [0, 1] one below the other, each with a note beside it."""
    pictures = _enlarged(pictures, 1)
    size = pictures.shape[1]
    gap = max(1, size // 16)
    column = _mosaic(list(pictures[:, None]), gap)
    image = axis.imshow(np.nan_to_num(column, nan=1.0) if column.ndim == 3 else column, **options)
    _frameless(axis)
    axis.set_title(title, fontsize=8)
    if notes:
        axis.set_yticks(_centres(len(pictures), size, gap), notes, rotation=90, va="center", fontsize=8)
        axis.tick_params(length=0)
    return image


def _spectrum(original: np.ndarray, inside: Mapping[str, np.ndarray], path: Path, count: int = 4) -> None:
    """Rows: images; columns: the image, its log-magnitude spectrum, both reconstructions' differences from it."""
    count = min(count, len(original))
    differences = [("phase 1", inside["spectrum_phase1"][:count]), ("fused", inside["spectrum_fused"][:count])]
    limit = max(float(np.abs(values).max()) for _, values in differences) or 1.0
    figure = _figure(6.8, 1.7 * count)
    axes = figure.subplots(1, 4)
    _column(axes[0], original[:count] / 255, "original")
    _column(axes[1], inside["spectrum_original"][:count], "ln(1 + |FFT|)", cmap="magma")
    for axis, (name, values) in zip(axes[2:], differences, strict=True):
        notes = [f"MAD {np.abs(value).mean():.2f}" for value in values]
        image = _column(axis, values, name, notes, cmap="RdBu_r", vmin=-limit, vmax=limit)
    figure.colorbar(image, ax=axes, shrink=0.8, label="difference from the original")
    _save(figure, path)


def _latents(original: np.ndarray, inside: Mapping[str, np.ndarray], path: Path, count: int = 4) -> None:
    """Rows: images; columns: the image, z_base and z_fuse on three axes as colours, their cosine and distance."""
    count = min(count, len(original))
    cosine, distance = inside["cosine"][:count], inside["distance"][:count]
    figure = _figure(7.6, 1.6 * count)
    axes = figure.subplots(1, 5)
    _column(axes[0], original[:count] / 255, "original")
    _column(axes[1], inside["pca_base"][:count], "z_base")
    _column(axes[2], inside["pca_fused"][:count], "z_fuse")
    notes = [f"{value.mean():.3f}" for value in cosine]
    _column(axes[3], cosine, "cos(z_fuse, z_base)", notes, cmap="RdBu_r", vmin=-1, vmax=1)
    notes = [f"{value.mean():.3g}" for value in distance]
    farthest = float(distance.max()) or 1.0
    _column(axes[4], distance, "|z_fuse - z_base|", notes, cmap="viridis", vmin=0, vmax=farthest)
    _save(figure, path)


def _energy(energy: np.ndarray, blocks: np.ndarray, path: Path) -> None:
    """Each block's share of the fused energy [N, n, gh, gw]: mean, and the 5th to 95th percentile of tokens."""
    tokens = energy.transpose(1, 0, 2, 3).reshape(len(blocks), -1)
    mean = tokens.mean(1)
    low, high = np.percentile(tokens, (5, 95), axis=1)
    figure = _figure(6, 3.5)
    axis = figure.subplots()
    axis.bar(blocks, mean)
    # A skewed share may have its mean outside its percentiles.
    axis.errorbar(blocks, mean, [np.maximum(mean - low, 0), np.maximum(high - mean, 0)], fmt="none", ecolor="black")
    axis.set_xticks(blocks)
    axis.set_xlabel("encoder block")
    axis.set_ylabel("share of the energy")
    _save(figure, path)


def _loss(rows: list[dict[str, float]], path: Path) -> None:
    figure = _figure(6, 3.5)
    axis = figure.subplots()
    for phase in dict.fromkeys(row["phase"] for row in rows):
        part = [row for row in rows if row["phase"] == phase]
        axis.plot([row["step"] for row in part], [row["loss"] for row in part], label=str(phase))
    axis.set_xlabel("step of the phase")
    axis.set_ylabel("training loss")
    axis.grid(alpha=0.3)
    axis.legend()
    _save(figure, path)
