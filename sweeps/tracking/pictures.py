"""Pictures of one trial, from what it left in its folder: reconstructions, loss, and the inside of its fusion."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from drorae.diagnostics.picture import mosaic
from drorae.runtime.figures import plain_figures
from drorae.storage.files import json_rows
from drorae.trial.folder import GRID, HISTORY, INSPECTION_ARRAYS, SAMPLES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage


IMAGES = 4
"""Images that a picture of a fusion's inside shows."""


@plain_figures()
def draw_pictures(directory: Path) -> list[Path]:
    """Draws what a finished trial's folder has the numbers for; returns the files drawn.

    From samples.npz grid.png and routing.png, from inspection.npz spectrum.png, latents.png, logits.png and
    energy.png (`drorae.diagnostics.inspection` says what they show), from history.jsonl loss.png.
    """
    drawn = []

    def target(name: str) -> Path:
        drawn.append(directory / name)
        return drawn[-1]

    samples, inside = _arrays(directory / SAMPLES), _arrays(directory / INSPECTION_ARRAYS)
    if {"original", "phase1", "fused", "routing"} <= samples.keys():
        original = samples["original"]
        _grid([original, samples["phase1"], samples["fused"]], target(GRID))
        _maps(original, samples["routing"], inside.get("blocks"), "routing weight", target("routing.png"))
        if inside:
            _spectrum(original, inside, target("spectrum.png"))
            _latents(original, inside, target("latents.png"))
        if "logits" in inside:
            _maps(original, inside["logits"], inside["blocks"], "router logit", target("logits.png"))
    if inside:
        _energy(inside["energy"], inside["blocks"], target("energy.png"))
    history = directory / HISTORY
    if history.is_file() and (rows := json_rows(history.read_bytes())):
        _loss([row for row in rows if "loss" in row], target("loss.png"))
    return drawn


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """Returns the arrays of an npz file; none where there is no file."""
    if not path.is_file():
        return {}
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


@contextlib.contextmanager
def _figure(path: Path, width: float, height: float) -> Iterator[Figure]:
    """Saves the block's figure, its size in inches. Not of pyplot, whose list of figures is shared by all threads."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = FigureCanvasAgg(Figure(figsize=(width, height))).figure
    yield figure
    figure.savefig(path, dpi=110, bbox_inches="tight")


def _enlarged(pictures: np.ndarray, axis: int) -> np.ndarray:
    """Returns pictures whose height and width are at `axis` and behind it, the small with cells of several pixels.

    Then the gaps of a mosaic can be narrower than a cell.
    """
    block = max(1, 16 // pictures.shape[axis])
    return pictures.repeat(block, axis=axis).repeat(block, axis=axis + 1)


def _centres(count: int, size: int, gap: int) -> list[float]:
    """Returns where the middles of a mosaic's pictures lie."""
    return [index * (size + gap) + (size - 1) / 2 for index in range(count)]


def _show(axis: Axes, picture: np.ndarray, **options: Any) -> AxesImage:
    """Shows a mosaic without frame and ticks; the gaps of one in colours [H, W, 3], each in [0, 1], are white."""
    image = axis.imshow(np.nan_to_num(picture, nan=1.0) if picture.ndim == 3 else picture, **options)
    axis.set_xticks([])
    axis.set_yticks([])
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)
    return image


def _grid(rows: Sequence[np.ndarray], path: Path, count: int = 10) -> None:
    """Rows: originals, the phase-1 decoder's, the fused tokenizer's; [N, S, S, 3] uint8 each."""
    rows = [images[:count] / 255 for images in rows]
    size = rows[0].shape[1]
    gap = max(1, size // 16)
    with _figure(path, len(rows[0]) * 1.1, 3.6) as figure:
        axis = figure.subplots()
        _show(axis, mosaic(rows, gap))
        axis.set_yticks(_centres(3, size, gap), ["original", "phase 1", "fused"], rotation=90, va="center")


def _maps(original: np.ndarray, values: np.ndarray, blocks: np.ndarray | None, label: str, path: Path) -> None:
    """Per image, each layer's value [N, n, gh, gw] as a map, one colour scale about zero for all.

    Layers go by their blocks' numbers; where a trial of an early version does not say these, by their distance from
    the last.
    """
    original, values = original[:IMAGES] / 255, values[:IMAGES]
    layers, limit = values.shape[1], float(np.abs(values).max()) or 1.0
    with _figure(path, (layers + 1) * 0.9 + 1, len(values) * 0.9 + 0.3) as figure:
        left, right = figure.subplots(1, 2, gridspec_kw={"width_ratios": [1, layers], "wspace": 0.02})
        _show(left, mosaic(list(original[:, None]), max(1, original.shape[1] // 16)))
        maps = _enlarged(values, 2)
        image = _show(right, mosaic(list(maps), 1), cmap="RdBu_r", vmin=-limit, vmax=limit)
        relative = [f"{layer + 1 - layers:+d}" if layer + 1 < layers else "last" for layer in range(layers)]
        names = relative if blocks is None else [str(block) for block in blocks]
        right.set_xticks(_centres(layers, maps.shape[2], 1), names, fontsize=8)
        right.tick_params(labeltop=True, labelbottom=False)
        figure.colorbar(image, ax=[left, right], shrink=0.8, label=label)


def _column(axis: Axes, pictures: np.ndarray, title: str, notes: Sequence[str] = (), **options: Any) -> AxesImage:
    """Pictures [N, H, W] or [N, H, W, 3] in [0, 1] one below the other, each with a note beside it."""
    pictures = _enlarged(pictures[:IMAGES], 1)
    size = pictures.shape[1]
    gap = max(1, size // 16)
    image = _show(axis, mosaic(list(pictures[:, None]), gap), **options)
    axis.set_title(title, fontsize=8)
    if notes:
        axis.set_yticks(_centres(len(pictures), size, gap), notes, rotation=90, va="center", fontsize=8)
    return image


def _spectrum(original: np.ndarray, inside: Mapping[str, np.ndarray], path: Path) -> None:
    """Rows: images; columns: the image, its log-magnitude spectrum, both reconstructions' differences from it."""
    differences = {"phase 1": inside["spectrum_phase1"][:IMAGES], "fused": inside["spectrum_fused"][:IMAGES]}
    limit = max(float(np.abs(values).max()) for values in differences.values()) or 1.0
    with _figure(path, 6.8, 1.7 * len(original[:IMAGES])) as figure:
        axes = figure.subplots(1, 4)
        _column(axes[0], original / 255, "original")
        _column(axes[1], inside["spectrum_original"], "ln(1 + |FFT|)", cmap="magma")
        for axis, (name, values) in zip(axes[2:], differences.items(), strict=True):
            notes = [f"MAD {np.abs(value).mean():.2f}" for value in values]
            image = _column(axis, values, name, notes, cmap="RdBu_r", vmin=-limit, vmax=limit)
        figure.colorbar(image, ax=axes, shrink=0.8, label="difference from the original")


def _latents(original: np.ndarray, inside: Mapping[str, np.ndarray], path: Path) -> None:
    """Rows: images; columns: the image, z_base and z_fuse on three axes as colours, their cosine and distance."""
    cosine, distance = inside["cosine"][:IMAGES], inside["distance"][:IMAGES]
    with _figure(path, 7.6, 1.6 * len(cosine)) as figure:
        axes = figure.subplots(1, 5)
        _column(axes[0], original / 255, "original")
        _column(axes[1], inside["pca_base"], "z_base")
        _column(axes[2], inside["pca_fused"], "z_fuse")
        notes = [f"{value.mean():.3f}" for value in cosine]
        _column(axes[3], cosine, "cos(z_fuse, z_base)", notes, cmap="RdBu_r", vmin=-1, vmax=1)
        notes = [f"{value.mean():.3g}" for value in distance]
        farthest = float(distance.max()) or 1.0
        _column(axes[4], distance, "|z_fuse - z_base|", notes, cmap="viridis", vmin=0, vmax=farthest)


def _energy(energy: np.ndarray, blocks: np.ndarray, path: Path) -> None:
    """Each block's share of the fused energy [N, n, gh, gw]: mean, and the 5th to 95th percentile of tokens."""
    tokens = energy.transpose(1, 0, 2, 3).reshape(len(blocks), -1)
    mean = tokens.mean(1)
    low, high = np.percentile(tokens, (5, 95), axis=1)
    # A skewed share may have its mean outside its percentiles.
    bars = [np.maximum(mean - low, 0), np.maximum(high - mean, 0)]
    with _figure(path, 6, 3.5) as figure:
        axis = figure.subplots()
        axis.bar(blocks, mean)
        axis.errorbar(blocks, mean, bars, fmt="none", ecolor="black")
        axis.set_xticks(blocks)
        axis.set(xlabel="encoder block", ylabel="share of the energy")


def _loss(rows: list[dict[str, float]], path: Path) -> None:
    """The training loss over the steps of each phase."""
    with _figure(path, 6, 3.5) as figure:
        axis = figure.subplots()
        for phase in dict.fromkeys(row["phase"] for row in rows):
            part = [row for row in rows if row["phase"] == phase]
            axis.plot([row["step"] for row in part], [row["loss"] for row in part], label=str(phase))
        axis.set(xlabel="step of the phase", ylabel="training loss")
        axis.grid(alpha=0.3)
        axis.legend()
