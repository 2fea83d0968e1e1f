"""What a sweep still has to do, from its spec and its folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from done_trials import begin, finish, spec_of

from drorae.config import config_hash, override
from drorae.errors import UserError
from drorae.storage.files import write_json
from drorae.trial.folder import TrialStatus, write_ending
from sweeps.checks import all_trials, convergence_checks
from sweeps.driver.home import Home
from sweeps.driver.plan import SweepPlan, is_done
from sweeps.folder.sweep import SweepRecord
from sweeps.spec import Axis, Range, Search, SweepSpec, expand


def plan_of(spec: SweepSpec, root: Path) -> SweepPlan:
    home = Home(root, spec.name)
    if not home.record.exists():
        record(spec, root)
    return SweepPlan(spec, all_trials(spec), home)


def record(spec: SweepSpec, root: Path) -> None:
    """As a call of the driver leaves it."""
    keys = tuple(all_trials(spec))
    SweepRecord("an id", spec, keys).write(Home(root, spec.name).directory)


def test_what_has_ended_for_good_is_not_missing(tmp_path: Path) -> None:
    spec = spec_of("mine", (4, 8, 16, 32))
    done, failed, pruned, new = expand(spec)
    trials = tmp_path / "mine" / "trials"
    finish(trials, done)
    write_ending(begin(trials, failed), TrialStatus.FAILED, "no luck")
    write_ending(begin(trials, pruned), TrialStatus.PRUNED, "too slow")
    plan = plan_of(spec, tmp_path)
    assert plan.missing == [config_hash(failed), config_hash(new)]
    assert plan.total == 4 and plan.varied == ["fusion.expert_hidden_dim"] and plan.moved == []
    assert list(plan.unprepared) == plan.missing
    assert [is_done(trials / config_hash(config)) for config in expand(spec)] == [True, False, True, False]


def test_a_sweep_keeps_its_id_and_may_grow(tmp_path: Path) -> None:
    small, large = spec_of("mine", (4, 8)), spec_of("mine", (4, 8, 16))
    record(small, tmp_path)
    for config in expand(small):
        begin(tmp_path / "mine" / "trials", config)
    assert plan_of(large, tmp_path).sweep_id == plan_of(small, tmp_path).sweep_id == "an id"
    with pytest.raises(UserError, match="holds another sweep .1 of its 2 trials are not in this one.; give this one"):
        plan_of(spec_of("mine", (4,)), tmp_path)


def test_checks_of_convergence_come_and_go_with_the_sweep(tmp_path: Path) -> None:
    plain = spec_of("mine", (4, 8))
    spec = replace(plain, check_convergence=True)
    record(plain, tmp_path)
    for config in expand(plain):
        finish(tmp_path / "mine" / "trials", config)
    assert plan_of(plain, tmp_path).missing == []
    checks = [config_hash(config) for config in convergence_checks(spec)]
    assert plan_of(spec, tmp_path).varied == ["fusion.expert_hidden_dim"] and set(plan_of(spec, tmp_path).roles) == {
        *checks
    }
    assert plan_of(spec, tmp_path).missing == checks and len(checks) == 2, "the two are added, and nothing is run again"
    record(spec, tmp_path)
    for config in convergence_checks(spec):
        finish(tmp_path / "mine" / "trials", config)
    assert plan_of(spec, tmp_path).missing == []
    assert plan_of(plain, tmp_path).total == 2, "and are left out again"
    seeds = replace(spec, axes=(*spec.axes, Axis("seed", (0, 1))))
    assert len(plan_of(seeds, tmp_path).missing) == 2, "the other seed's, no check"
    larger = plan_of(replace(spec, axes=(Axis("capacity", (4, 8, 16)),)), tmp_path)
    assert [larger.configs[key].fusion.expert_hidden_dim for key in larger.missing] == [16, 16]
    with pytest.raises(UserError, match="holds another sweep .1 of its 2 trials"):
        plan_of(replace(spec, axes=(Axis("capacity", (4,)),)), tmp_path)


def test_a_call_that_began_no_trial_binds_nobody(tmp_path: Path) -> None:
    record(spec_of("mine", (4, 8)), tmp_path)
    assert plan_of(spec_of("mine", (16,)), tmp_path).total == 1


def test_a_search_is_no_sweep_of_its_points(tmp_path: Path) -> None:
    search = Search((Range("lr", 1e-4, 1e-2, log=True),), ("psnr",), trials=3)
    spec = replace(spec_of("mine"), search=search)
    record(spec, tmp_path)
    plan = plan_of(spec, tmp_path)
    assert plan.total == 6 and len(plan.missing) == 2 and plan.varied == ["fusion.expert_hidden_dim", "phase2.lr"]
    more = replace(spec, search=replace(search, trials=5))
    assert plan_of(more, tmp_path).total == 10, "more trials of the same search go on with its studies"
    for other in (spec_of("mine"), replace(spec, search=replace(search, objectives=("ssim",)))):
        with pytest.raises(UserError, match="another search"):
            plan_of(other, tmp_path)


def test_trials_whose_images_have_moved_are_compared_again(tmp_path: Path) -> None:
    spec = spec_of("mine")
    spec = replace(spec, base=override(spec.base, "images.path", "here"))
    for config in expand(spec):
        finish(tmp_path / "mine" / "trials", config)
    moved = replace(spec, base=override(spec.base, "images.path", "elsewhere"))
    plan = plan_of(moved, tmp_path)
    assert plan.missing == [] and sorted(plan.moved) == sorted(plan.unprepared) == sorted(plan.configs)


def test_what_trials_were_made_from_is_known_without_the_decoders_address(tmp_path: Path) -> None:
    spec = spec_of("mine")
    first, _ = expand(spec)
    directory = begin(tmp_path / "mine" / "trials", first)
    write_json(directory / "inputs.json", {"images_train": "abc", "phase1_decoder": "address"})
    (shared,) = plan_of(spec, tmp_path).inputs().values()
    assert shared == {"images_train": "abc"}
