"""Sweep specs: what is varied, how it expands, and what a user is told."""

from __future__ import annotations

import json

import pytest

from drorae.config import PRESETS, config_hash
from drorae.errors import UserError
from sweeps.parsing import parse_axis
from sweeps.spec import Axis, SweepSpec, expand, varied_fields

BASE = PRESETS["smoke"]


def test_a_grid_is_crossed_with_listed_points_and_free_of_duplicates() -> None:
    axes = (Axis("capacity", (8, 16, 8)), Axis("seed", (0, 1)))
    configs = expand(SweepSpec("s", BASE, axes, ({"variant": "energy"}, {"variant": "softmax", "fusion.beta": 0.5})))
    found = [(c.fusion.expert_hidden_dim, c.seed, c.fusion.variant, c.fusion.beta) for c in configs]
    assert found == [
        (h, seed, variant, beta)
        for h in (8, 16)
        for seed in (0, 1)
        for variant, beta in (("energy", BASE.fusion.beta), ("softmax", 0.5))
    ]
    assert len({config_hash(config) for config in configs}) == len(configs)
    assert varied_fields(configs) == ["fusion.variant", "fusion.expert_hidden_dim", "fusion.beta", "seed"]
    assert expand(SweepSpec("s", BASE)) == [BASE]


@pytest.mark.parametrize(
    "spec",
    [
        SweepSpec("../elsewhere", BASE),
        SweepSpec("s", BASE, (Axis("seed", (0,)), Axis("seed", (1,)))),
        SweepSpec("s", BASE, (Axis("capacity", (8,)), Axis("fusion.expert_hidden_dim", (16,)))),
        SweepSpec("s", BASE, (Axis("seed", ()),)),
    ],
)
def test_unusable_specs_are_refused(spec: SweepSpec) -> None:
    with pytest.raises(UserError):
        expand(spec)


def test_json_round_trip_keeps_the_trials() -> None:
    spec = SweepSpec("s", BASE, (parse_axis("phase2.betas=0.9,0.95;0.5,0.9"),), ({"capacity": 8}, {"lr": 1e-2}))
    again = SweepSpec.from_dict(json.loads(json.dumps(spec.to_dict())))
    assert expand(again) == expand(spec)
    with pytest.raises(UserError):
        SweepSpec.from_dict({"name": "s"})


def test_a_name_that_makes_no_folder_is_refused_in_one_line() -> None:
    for name in ("a/b", "../x", ".hidden", "a:b", "", "x" * 101):
        with pytest.raises(UserError, match="not usable as a sweep's name") as raised:
            expand(SweepSpec(name, BASE))
        assert len(str(raised.value)) < 200
