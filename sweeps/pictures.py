"""Pictures of one trial, from what it left in its folder: reconstructions, routing weights, loss."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
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


def _grid(original: np.ndarray, phase1: np.ndarray, fused: np.ndarray, path: Path, count: int = 10) -> None:
    """Rows: originals, the phase-1 decoder's, the fused tokenizer's; [N, S, S, 3] uint8 each."""
    import matplotlib.pyplot as plt

    count = min(count, len(original))
    figure, axes = plt.subplots(3, count, figsize=(count * 1.1, 3.6), squeeze=False)
    for row, (name, images) in enumerate((("original", original), ("phase 1", phase1), ("fused", fused))):
        for column in range(count):
            axes[row, column].imshow(images[column])
            axes[row, column].set_xticks([])
            axes[row, column].set_yticks([])
        axes[row, 0].set_ylabel(name)
    _save(figure, path)


def _routing(original: np.ndarray, routing: np.ndarray, path: Path, count: int = 4) -> None:
    """Per image, each layer's routing weight [N, n, gh, gw] as a map, one colour scale about zero for all."""
    import matplotlib.pyplot as plt

    count, layers = min(count, len(original)), routing.shape[1]
    limit = float(np.abs(routing[:count]).max()) or 1.0
    figure, axes = plt.subplots(count, layers + 1, figsize=((layers + 1) * 0.9, count), squeeze=False)
    image = None
    for row in range(count):
        axes[row, 0].imshow(original[row])
        for layer in range(layers):
            image = axes[row, layer + 1].imshow(routing[row, layer], cmap="RdBu_r", vmin=-limit, vmax=limit)
            if row == 0:
                axes[0, layer + 1].set_title(f"{layer + 1 - layers:+d}" if layer + 1 < layers else "last", fontsize=8)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    if image is not None:
        figure.colorbar(image, ax=axes, shrink=0.8, label="routing weight")
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
