"""Sweep specs: what is varied, how it expands, and what a user is told."""

from __future__ import annotations

import json
import math

import pytest

from drorae.config import PRESETS, Runtime, config_hash, from_dict, to_dict
from drorae.errors import UserError
from drorae.models.fusion.size import paper_params
from sweeps.parsing import parse_axis, parse_rule
from sweeps.presets import SWEEPS
from sweeps.resources import Resources
from sweeps.settings import Asha, Settings
from sweeps.spec import Axis, SweepSpec, expand, varied_fields

BASE = PRESETS["smoke"]


def test_axes_take_the_type_of_their_field() -> None:
    assert parse_axis("capacity=8, 32,128") == Axis("capacity", (8, 32, 128))
    assert parse_axis("lr=1e-3,3e-4").values == (1e-3, 3e-4)
    assert parse_axis("variant=mean,energy").values == ("mean", "energy")
    assert parse_axis("fusion.incremental=true,false").values == (True, False)
    assert parse_axis("phase2.betas=0.9,0.95;0.5,0.9").values == ((0.9, 0.95), (0.5, 0.9))


@pytest.mark.parametrize(
    "text",
    [
        "capacity",
        "capacity=",
        "capacity=8,,32",
        "capacity=8.5",
        "capacity=0",
        "capacity=wide",
        "width=8",
        "fusion=8",
        "fusion.width=8",
        "variant=best",
        "lr=nan",
        "lr=-1",
        "=3",
    ],
)
def test_a_bad_axis_is_one_line(text: str) -> None:
    with pytest.raises(UserError) as raised:
        parse_axis(text)
    assert "\n" not in str(raised.value)


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


def test_presets_expand() -> None:
    assert {name: len(expand(spec)) for name, spec in SWEEPS.items()} == {
        "quickstart": 12,
        "smoke": 4,
        "paper": 8,
        "capacity": 8,
        "layers": 12,
        "ablation": 6,
        "variants": 7,
    }
    sizes = [paper_params(12, 384, config.fusion.expert_hidden_dim) for config in expand(SWEEPS["quickstart"])]
    assert math.log10(max(sizes) / min(sizes)) > 1.5


def test_settings_are_read_as_they_were_written() -> None:
    rules = tuple(
        map(parse_rule, ("capacity=2048,4096:gpus=4,cpus=16", "evaluation.extractors=dinov2;effnet,dinov2:cpus=2"))
    )
    for resources in (Resources(rules=rules, gpus=0.5, reuse_workers=True), Resources()):
        for asha in (Asha(grace_epochs=2), None):
            settings = Settings(Runtime(), resources, 3, asha, 1.5, "module:run", "module:prepare", "median")
            assert from_dict(Settings, to_dict(settings)) == settings
