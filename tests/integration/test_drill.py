"""The fault drill in short: `make drill` is the long one."""

from __future__ import annotations

from pathlib import Path

from drill import Faults, Scale, run_seed, undisturbed


def test_a_sweep_survives_the_loss_of_each_of_its_parts(tmp_path: Path, cache_dir: Path) -> None:
    scale = Scale(capacities=(4, 16), seeds=(0, 1), epochs=12)
    others = dict.fromkeys(("term", "hup", "interrupt", "stop", "memory", "damage", "move", "upgrade"), 0)
    faults = Faults(worker=1, node=1, driver=1, tracking=1, disk=1, **others, away_seconds=10)
    reference = undisturbed(scale, tmp_path, cache_dir)
    outcome = run_seed(0, faults, scale, cache_dir, reference, tmp_path / "logs")
    logs = {path.name: path.read_text()[-2000:] for path in (tmp_path / "logs").glob("*dr*.log")}
    assert not outcome.problems, (outcome.problems, logs)
