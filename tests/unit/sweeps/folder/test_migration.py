"""Trials of an earlier version are found under the hashes that they have today."""

from __future__ import annotations

import json
from pathlib import Path

from begun import read_tree

from drorae.config import config_hash, load_config
from drorae.trial.folder import read_outcome
from sweeps.folder.migration import migrate
from sweeps.spec import Axis, SweepSpec, expand


def test_a_kill_between_two_renamings_costs_nothing(begun: Path) -> None:
    spec = SweepSpec.from_dict(read_tree(begun)["spec"])
    first, second = sorted(path.name for path in begun.glob("trials/*"))[:2]
    hashes = {old: config_hash(load_config(begun / "trials" / old / "config.json")) for old in (first, second)}
    (begun / "trials" / first).rename(begun / "trials" / hashes[first])
    tree = read_tree(begun) | {"former_hashes": hashes}
    (begun / "sweep.json").write_text(json.dumps(tree))
    today = migrate(begun, None)
    assert today.items() >= hashes.items() and migrate(begun, None) == today
    assert {path.name for path in begun.glob("trials/*")} == {config_hash(config) for config in expand(spec)}


def test_a_sweep_over_places_is_known_again(begun: Path) -> None:
    """Two sets of images are two trials, whether or not an earlier version named them by their places."""
    tree = read_tree(begun)
    base = SweepSpec.from_dict(tree["spec"]).base
    spec = SweepSpec("begun", base, (Axis("images.path", ("images.npz", "more.npz")),))
    configs = expand(spec)
    assert len(configs) == 2 and [config.label for config in configs] == [
        "images.path=images.npz",
        "images.path=more.npz",
    ]
    old = "2f942799a997"
    (begun / "sweep.json").write_text(json.dumps(tree | {"spec": spec.to_dict(), "trials": [old]}))
    assert migrate(begun, None) == {old: config_hash(configs[0])}
    assert read_outcome(begun / "trials" / config_hash(configs[0]))["status"] == "finished"
