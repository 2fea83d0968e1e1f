"""A trial's pictures are drawn in a thread: many at once, and nothing of a caller's own plots is touched."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest

from sweeps.tracking.pictures import draw_pictures


def trial_folder(folder: Path) -> Path:
    """A finished trial's numbers: samples, the inside of a fusion of three layers, and a history."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    pictures = generator.integers(0, 255, (3, 4, 32, 32, 3)).astype(np.uint8)
    maps = generator.normal(size=(4, 3, 2, 2))
    np.savez(folder / "samples.npz", original=pictures[0], phase1=pictures[1], fused=pictures[2], routing=maps)
    spectra = {f"spectrum_{name}": generator.random((4, 32, 32)) for name in ("original", "phase1", "fused")}
    latents = {f"pca_{name}": generator.random((4, 2, 2, 3)) for name in ("base", "fused")}
    grids = {name: generator.random((4, 2, 2)) for name in ("cosine", "distance")}
    energy = {"energy": generator.random((4, 3, 2, 2)), "blocks": np.arange(3), "logits": maps}
    np.savez(folder / "inspection.npz", **spectra, **latents, **grids, **energy)
    rows = [{"phase": "phase2", "step": step, "loss": 1 / step} for step in range(1, 9)]
    (folder / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.mark.slow
def test_trials_are_drawn_at_once_and_a_caller_s_plots_stay_as_they_are(tmp_path: Path) -> None:
    before = matplotlib.get_backend()
    try:
        matplotlib.use("svg")
        mine = plt.figure()
        folders = [trial_folder(tmp_path / str(index)) for index in range(3)]
        with ThreadPoolExecutor(len(folders)) as pool:
            drawn = list(pool.map(draw_pictures, folders))
        assert matplotlib.get_backend() == "svg" and plt.get_fignums() == [mine.number] and plt.gcf() is mine
    finally:
        plt.close("all")
        matplotlib.use(before)
    assert {path.stem for path in drawn[0]} == {"grid", "routing", "spectrum", "latents", "logits", "energy", "loss"}
    for others in zip(*drawn, strict=True):
        assert len({path.read_bytes() for path in others}) == 1
