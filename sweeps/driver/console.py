"""How times and progress are put in words, on a driver's screen as in `drorae status`."""

from __future__ import annotations

import math

from sweeps.folder.progress import RunningTrial

PROGRESS_COLUMNS = ("running", "phase", "step", "loss", "images/s", "memory")


def duration(seconds: float) -> str:
    """Returns seconds as `34 s`, `5 min` or `3.2 h`."""
    if seconds < 119.5:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7170 else f"{seconds / 3600:.1f} h"


def progress_cells(trial: RunningTrial) -> tuple[str, ...]:
    """Returns a running trial's cells of `PROGRESS_COLUMNS`, empty where nothing is known."""
    step = f"{trial.step}/{trial.total_steps}" if trial.total_steps else trial.note
    psnr = "" if trial.held_out_psnr is None or not trial.total_steps else f"PSNR {trial.held_out_psnr:.2f}"
    step = ", ".join(filter(None, (step, psnr, trial.silence)))
    loss = "" if trial.loss is None else f"{trial.loss:.3g}" if math.isfinite(trial.loss) else str(trial.loss)
    speed = "" if trial.images_per_second is None else f"{trial.images_per_second:,.0f}"
    memory = "" if trial.memory_bytes is None else f"{trial.memory_bytes / 1e9:.1f} GB"
    return trial.label, trial.phase, step, loss, speed, memory
