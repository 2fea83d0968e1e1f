"""Studies of a search: what they ask for, and what they make of answers."""

from __future__ import annotations

import contextlib
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
from done_trials import finish

from drorae.config import PRESETS, override
from drorae.errors import UserError
from drorae.trial.folder import read_outcome
from sweeps.driver.search import Studies, direction
from sweeps.spec import Axis, Range, Search, SweepSpec

BASE = override(override(PRESETS["smoke"], "encoder.path", "peak=1"), "phase2.lr", "0.0005")


TUNED = SweepSpec(
    "tuned",
    BASE,
    (Axis("capacity", (4, 16)), Axis("seed", (0, 1))),
    search=Search((Range("lr", 1e-4, 1e-1, log=True),), ("psnr",), trials=10),
)


def test_studies_survive_their_driver(tmp_path: Path) -> None:
    studies = Studies(tmp_path / "studies.db", TUNED, tmp_path / "trials")
    asked = {studies.ask() for _ in range(4)}
    assert len(asked) == 4 and None not in asked
    later = Studies(tmp_path / "studies.db", TUNED, tmp_path / "trials")
    assert {later.ask() for _ in range(4)} == asked, "what the first driver had asked for comes first"


def run_all(studies: Studies, trials: Path) -> list[str]:
    """Runs what the studies ask for, one by one, with the stand-in."""
    keys = []
    while (key := studies.ask()) is not None:
        finish(trials, studies.configs[key])
        studies.tell(key)
        keys.append(key)
    return keys


def test_a_study_tries_the_base_first_and_repeats_best_and_base_with_the_other_seeds(tmp_path: Path) -> None:
    spec = replace(TUNED, base=override(BASE, "encoder.path", "peak=1&sleep=0"), axes=TUNED.axes[1:])
    spec = replace(spec, search=replace(spec.search, trials=4))
    studies = Studies(tmp_path / "studies.db", spec, tmp_path / "trials")
    keys = run_all(studies, tmp_path / "trials")
    assert studies.finished and len(keys) == len(set(keys)) == studies.total
    tried, repeated = keys[:4], keys[4:]
    assert studies.configs[tried[0]].phase2.lr == 5e-4 and {studies.configs[key].seed for key in tried} == {0}
    assert {studies.configs[key].seed for key in repeated} == {1}
    roles = studies.roles()
    psnr = {key: read_outcome(tmp_path / "trials" / key)["metrics"]["psnr"] for key in tried}
    best = max(psnr, key=lambda key: psnr[key])
    assert "best" in roles[best] and "fixed" in roles[tried[0]]
    assert {studies.configs[key].phase2.lr for key, role in roles.items() if "best" in role} == {
        studies.configs[best].phase2.lr
    }
    assert Studies(tmp_path / "studies.db", spec, tmp_path / "trials").finished, "as a later driver sees it"


def test_a_grid_of_few_values_ends_when_all_are_tried(tmp_path: Path) -> None:
    base = override(BASE, "encoder.path", "sleep=0")
    search = Search((Range("capacity", values=(4, 8, 16)),), ("psnr",), trials=9, sampler="random")
    studies = Studies(tmp_path / "studies.db", SweepSpec("grid", base, search=search), tmp_path / "trials")
    keys = run_all(studies, tmp_path / "trials")
    assert sorted(studies.configs[key].fusion.expert_hidden_dim for key in keys) == [4, 8, 16]
    assert studies.finished and studies.total == 3


def test_several_objectives_have_no_single_best(tmp_path: Path) -> None:
    search = Search((Range("capacity", values=(4, 8)),), ("psnr", "fusion_params"), trials=2, sampler="random")
    spec = SweepSpec("both", override(BASE, "encoder.path", "sleep=0"), (Axis("seed", (0, 1)),), search=search)
    studies = Studies(tmp_path / "studies.db", spec, tmp_path / "trials")
    assert len(run_all(studies, tmp_path / "trials")) == 2 and studies.roles() == {}


def test_what_no_trial_measures_is_no_objective(tmp_path: Path) -> None:
    search = Search((Range("capacity", values=(4, 8)),), ("beauty",), trials=2)
    studies = Studies(tmp_path / "studies.db", SweepSpec("x", BASE, search=search), tmp_path / "trials")
    key = studies.ask()
    assert key is not None
    finish(tmp_path / "trials", studies.configs[key])
    with pytest.raises(UserError, match="--objective beauty: no trial measures it; expected one of psnr"):
        studies.tell(key)


def test_a_sweep_without_a_search_has_no_studies(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a search"):
        Studies(tmp_path / "studies.db", replace(TUNED, search=None), tmp_path / "trials")
    assert not (tmp_path / "studies.db").exists()


def test_which_way_an_objective_goes() -> None:
    assert [direction(name) for name in ("psnr", "rfd_dinov2", "fusion_params")] == ["maximize", "minimize", "minimize"]


def test_studies_of_another_search_or_damaged_ones_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "studies.db"
    Studies(path, TUNED, tmp_path / "trials")
    for objectives in (("rfd_dinov2",), ("psnr", "ssim")):
        other = replace(TUNED, search=replace(TUNED.search, objectives=objectives))
        with pytest.raises(UserError, match="holds another search .*--name"):
            Studies(path, other, tmp_path / "trials")
    with contextlib.closing(sqlite3.connect(path)) as tables:
        tables.execute("update alembic_version set version_num='v9.0.0'")
        tables.commit()
    with pytest.raises(UserError, match=r"studies.db: not read, and not changed .*updating optuna") as newer:
        Studies(path, TUNED, tmp_path / "trials")
    assert "\n" not in str(newer.value)
    path.write_bytes(b"no database " * 100)
    with pytest.raises(UserError, match="not readable .*rename it"):
        Studies(path, TUNED, tmp_path / "trials")
