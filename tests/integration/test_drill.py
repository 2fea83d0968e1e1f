"""The fault drill in short: `make drill` is the long one."""

from __future__ import annotations

from pathlib import Path

from drill import CLI, Faults, Scale, run_seed

from drorae.commands.main import parse
from drorae.commands.sweep import Sweep
from drorae.config import config_hash
from drorae.machine.precision import settled
from drorae.trial.run import run_trial
from sweeps.spec import expand


def alone(scale: Scale, folder: Path, cache: Path) -> dict[str, dict[str, float]]:
    """Metrics of the drill's trials by config hash when no sweep runs them; fills the cache, too.

    `make drill` compares with an undisturbed sweep, which takes three times as long.
    """
    command = parse([text for text in scale.command(folder, cache)[len(CLI) :] if text != "--debug"])
    assert isinstance(command, Sweep)
    configs = {config_hash(config): config for config in map(settled, expand(command.spec()))}
    return {
        key: run_trial(config, directory=folder / key, runtime=command.runtime()).metrics
        for key, config in configs.items()
    }


def test_a_sweep_survives_the_loss_of_each_of_its_parts(tmp_path: Path, cache_dir: Path) -> None:
    scale = Scale(capacities=(4, 16), seeds=(0, 1), epochs=12)
    others = dict.fromkeys(("term", "hup", "interrupt", "stop", "memory", "damage", "move", "upgrade"), 0)
    faults = Faults(worker=1, node=1, driver=1, tracking=1, disk=1, **others, away_seconds=10)
    reference = alone(scale, tmp_path, cache_dir)
    outcome = run_seed(0, faults, scale, cache_dir, reference, tmp_path / "logs")
    logs = {path.name: path.read_text()[-2000:] for path in (tmp_path / "logs").glob("*dr*.log")}
    assert not outcome.problems, (outcome.problems, logs)
