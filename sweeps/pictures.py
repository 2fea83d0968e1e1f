"""Pictures of one trial, from what it left in its folder: reconstructions, routing weights, loss."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw_pictures(directory: Path) -> list[Path]:
    """Draws grid.png, routing.png and loss.png into a finished trial's folder; returns those drawn."""
    import matplotlib

    matplotlib.use("Agg")
    drawn = []
    samples = directory / "samples.npz"
    if samples.is_file():
        with np.load(samples, allow_pickle=False) as arrays:
            _grid(arrays["original"], arrays["phase1"], arrays["fused"], directory / "grid.png")
            _routing(arrays["original"], arrays["routing"], directory / "routing.png")
        drawn += [directory / "grid.png", directory / "routing.png"]
    history = directory / "history.jsonl"
    if history.is_file() and history.stat().st_size:
        rows = [json.loads(line) for line in history.read_text().splitlines()]
        _loss([row for row in rows if "loss" in row], directory / "loss.png")
        drawn.append(directory / "loss.png")
    return drawn


def _save(figure: Figure, path: Path) -> None:
    import matplotlib.pyplot as plt

    figure.savefig(path, dpi=110, bbox_inches="tight")
    plt.close(figure)


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
    import matplotlib.pyplot as plt

    count, size = min(count, len(original)), original.shape[1]
    gap = max(1, size // 16)
    picture = _mosaic([images[:count] / 255 for images in (original, phase1, fused)], gap)
    figure, axis = plt.subplots(figsize=(count * 1.1, 3.6))
    axis.imshow(np.nan_to_num(picture, nan=1.0))
    _frameless(axis)
    axis.set_yticks(_centres(3, size, gap), ["original", "phase 1", "fused"], rotation=90, va="center")
    axis.tick_params(length=0)
    _save(figure, path)


def _routing(original: np.ndarray, routing: np.ndarray, path: Path, count: int = 4) -> None:
    """Per image, each layer's routing weight [N, n, gh, gw] as a map, one colour scale about zero for all."""
    import matplotlib.pyplot as plt

    count, layers, grid = min(count, len(original)), routing.shape[1], routing.shape[2]
    limit = float(np.abs(routing[:count]).max()) or 1.0
    ratios = {"width_ratios": [1, layers], "wspace": 0.02}
    size = ((layers + 1) * 0.9 + 1, count * 0.9 + 0.3)
    figure, (left, right) = plt.subplots(1, 2, figsize=size, gridspec_kw=ratios)
    gap = max(1, original.shape[1] // 16)
    left.imshow(np.nan_to_num(_mosaic(list(original[:count, None] / 255), gap), nan=1.0))
    # Every cell of a map becomes a block, so that the gaps can be narrower than a cell.
    block = max(1, 16 // grid)
    maps = routing[:count].repeat(block, axis=2).repeat(block, axis=3)
    image = right.imshow(_mosaic(list(maps), 1), cmap="RdBu_r", vmin=-limit, vmax=limit)
    for axis in (left, right):
        _frameless(axis)
    names = [f"{layer + 1 - layers:+d}" if layer + 1 < layers else "last" for layer in range(layers)]
    right.set_xticks(_centres(layers, grid * block, 1), names, fontsize=8)
    right.tick_params(length=0, labeltop=True, labelbottom=False)
    figure.colorbar(image, ax=[left, right], shrink=0.8, label="routing weight")
    _save(figure, path)


def _loss(rows: list[dict[str, float]], path: Path) -> None:
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6, 3.5))
    for phase in dict.fromkeys(row["phase"] for row in rows):
        part = [row for row in rows if row["phase"] == phase]
        axis.plot([row["step"] for row in part], [row["loss"] for row in part], label=str(phase))
    axis.set_xlabel("step of the phase")
    axis.set_ylabel("training loss")
    axis.grid(alpha=0.3)
    axis.legend()
    _save(figure, path)
