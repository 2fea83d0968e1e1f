"""Early stopping: Optuna's pruners judge losses, lower ones being better, in grids as in searches."""

from __future__ import annotations

from pathlib import Path

import pytest

from drorae.storage.files import write_json
from sweeps.driver.pruning import Asha, Pruning


def end(pruning: Pruning, trials: Path, key: str, status: str) -> None:
    """Leaves a trial's outcome in its folder, as a driver finds it."""
    if status == "pruned":
        write_json(trials / key / "pruned.json", {"reason": "stopped early"})
    else:
        essential = ("config_hash", "variant", "expert_hidden_dim", "num_layers", "seed", "fusion_params")
        result = dict.fromkeys([*essential, "fusion_params_paper"], 0)
        write_json(trials / key / "result.json", result | {"status": status, "reason": "", "metrics": {}})
    pruning.tell(key)


def run(pruning: Pruning, trials: Path, key: str, loss: float, epochs: int = 9) -> int:
    """Returns how many epochs a trial of a constant loss is given."""
    (trials / key).mkdir(parents=True)
    for epoch in range(1, epochs + 1):
        if pruning.prunes(key, epoch, loss):
            end(pruning, trials, key, "pruned")
            return epoch
    end(pruning, trials, key, "finished")
    return epochs


@pytest.mark.parametrize(("pruner", "rung"), [("median", 1), ("asha", 2)])
def test_of_several_trials_the_one_of_the_highest_loss_is_ended(pruner: str, rung: int, tmp_path: Path) -> None:
    pruning = Pruning(tmp_path / "studies.db", tmp_path, lambda key: "grid", pruner, Asha(2, 3))
    # From the highest loss down, so that each is the best that ASHA has seen.
    assert [run(pruning, tmp_path, f"good-{loss}", loss) for loss in (0.3, 0.2, 0.1)] == [9, 9, 9]
    assert run(pruning, tmp_path, "bad", 0.9) == rung
    assert run(pruning, tmp_path, "better", 0.01) == 9


def test_the_next_driver_goes_on_from_what_was_seen(tmp_path: Path) -> None:
    def driver() -> Pruning:
        return Pruning(tmp_path / "studies.db", tmp_path, lambda key: "grid", "asha", Asha(2, 3))

    first = driver()
    assert run(first, tmp_path, "good", 0.1) == 9
    assert not first.prunes("bad", 1, 0.9)
    # Killed here: the trial goes through its first epoch again.
    second = driver()
    assert not second.prunes("bad", 1, 0.9)
    assert second.prunes("bad", 2, 0.9)


def test_only_trials_of_a_group_are_compared(tmp_path: Path) -> None:
    groups = {"small-1": "small", "small-2": "small", "large": "large", "repeat": None}
    pruning = Pruning(tmp_path / "studies.db", tmp_path, groups.get, "asha", Asha(1, 3))
    assert run(pruning, tmp_path, "large", 0.1) == 9
    assert run(pruning, tmp_path, "small-1", 0.5) == 9
    assert run(pruning, tmp_path, "small-2", 0.6) == 1
    assert run(pruning, tmp_path, "repeat", 99.0) == 9
