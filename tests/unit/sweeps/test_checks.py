"""The trials that check convergence: which there are, and what they are not."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from drorae.config import PRESETS, config_hash, override, shared_key
from sweeps.checks import all_trials, convergence_checks, roles
from sweeps.presets import SWEEPS
from sweeps.spec import Axis, Range, Search, SweepSpec, expand

BASE = override(PRESETS["smoke"], "phase2.epochs", 3)


def checked(*axes: Axis, listed: tuple[dict, ...] = (), base=BASE) -> SweepSpec:
    return SweepSpec("s", base, axes, listed, check_convergence=True)


def test_both_ends_are_run_again_with_twice_the_epochs_of_their_own_phases() -> None:
    base = replace(override(BASE, "phase3.epochs", 5), label="kept")
    spec = checked(Axis("capacity", (16, 8, 32)), Axis("lr", (1e-2, 1e-3)), Axis("seed", (3, 0)), base=base)
    small, large = convergence_checks(spec)
    own = {(config.fusion.expert_hidden_dim, config.phase2.lr, config.seed): config for config in expand(spec)}
    for check, width in ((small, 8), (large, 32)):
        twin = own[width, 1e-2, 3]
        assert (check.phase2.epochs, check.phase3.epochs) == (6, 10)
        assert replace(check, phase2=twin.phase2, phase3=twin.phase3) == twin
        assert shared_key(check) == shared_key(twin), "phase 1 is the one that all share"
    assert list(all_trials(spec)) == [config_hash(config) for config in [*expand(spec), small, large]]
    assert set(roles(spec)) == {config_hash(small), config_hash(large)} and set(roles(spec).values()) == {"convergence"}


def test_a_phase_that_is_left_out_stays_so_and_a_trial_without_any_has_no_check() -> None:
    (check,) = convergence_checks(checked())
    assert (check.phase2.epochs, check.phase3.epochs) == (6, 0)
    nothing = override(override(BASE, "fusion.variant", "last"), "phase2.epochs", 0)
    assert convergence_checks(checked(Axis("seed", (0, 1)), base=nothing)) == []


def test_size_is_the_number_of_parameters_and_not_one_axis() -> None:
    # 2 layers of width 64 are fewer parameters than 12 of 16.
    spec = checked(listed=({"capacity": 64, "layers": 2}, {"capacity": 16, "layers": 12}, {"capacity": 8, "layers": 1}))
    found = [(check.fusion.expert_hidden_dim, check.fusion.num_layers) for check in convergence_checks(spec)]
    assert found == [(8, 1), (16, 12)]


@pytest.mark.parametrize(
    ("axes", "listed", "widths"),
    [
        # Nothing varies the size: the first trial alone.
        ((Axis("seed", (2, 1)),), (), [BASE.fusion.expert_hidden_dim]),
        ((Axis("variant", ("softmax", "energy")),), (), [BASE.fusion.expert_hidden_dim]),
        # The size of a fusion without experts is the same whatever they are said to be.
        ((Axis("capacity", (8, 16)),), ({"variant": "last"}, {"variant": "energy"}), [8]),
        # Points that list a size with the learning rate that suits it.
        ((Axis("seed", (0, 1)),), ({"capacity": 8, "lr": 1e-2}, {"capacity": 32, "lr": 1e-3}), [8, 32]),
    ],
)
def test_other_axes_stay_at_their_first_values(axes: tuple, listed: tuple, widths: list[int]) -> None:
    found = convergence_checks(checked(*axes, listed=listed))
    first = expand(checked(*axes, listed=listed))[0]
    assert [check.fusion.expert_hidden_dim for check in found] == widths
    assert all((check.seed, check.fusion.variant) == (first.seed, first.fusion.variant) for check in found)


def test_what_is_a_trial_of_the_sweep_is_no_check() -> None:
    spec = checked(Axis("phase2.epochs", (3, 6)))
    assert convergence_checks(spec) == [] and len(all_trials(spec)) == 2 and not roles(spec)


def test_a_search_has_none_and_a_sweep_that_does_not_ask_has_none() -> None:
    spec = checked(Axis("capacity", (8, 16)))
    search = Search((Range("lr", 1e-4, 1e-2),))
    assert convergence_checks(replace(spec, search=search)) == []
    assert convergence_checks(replace(spec, check_convergence=False)) == []


def test_the_ends_stay_the_same_as_seeds_are_added() -> None:
    few, more = (checked(Axis("capacity", (8, 16)), *seeds) for seeds in ((), (Axis("seed", (0, 1, 2)),)))
    assert convergence_checks(few) == convergence_checks(more)


def test_a_spec_keeps_the_wish_and_one_of_before_had_none() -> None:
    spec = checked(Axis("capacity", (8, 16)))
    tree = json.loads(json.dumps(spec.to_dict()))
    assert SweepSpec.from_dict(tree) == spec
    del tree["check_convergence"]
    assert SweepSpec.from_dict(tree) == replace(spec, check_convergence=False)


def test_presets_that_a_newcomer_runs_check_it() -> None:
    assert {name for name, spec in SWEEPS.items() if spec.check_convergence} == {"quickstart", "smoke"}
