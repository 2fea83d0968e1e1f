"""Hashes: equal configs have equal ones, on every machine and in every version."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from drorae.config import (
    LOCATIONS,
    PRESETS,
    FusionConfig,
    ImagesConfig,
    Runtime,
    TrialConfig,
    config_hash,
    flatten,
    former_hash,
    from_dict,
    identity,
    is_moved,
    override,
    phase1_key,
    relocated,
    shared_key,
    to_dict,
)


def test_hash_is_the_sha256_of_sorted_json() -> None:
    expected = hashlib.sha256(b'{"a":[1,2],"b":{"c":0.5,"d":"x"}}').hexdigest()[:12]
    assert config_hash({"b": {"d": "x", "c": 0.5}, "a": [1, 2]}) == expected


def test_hash_does_not_depend_on_process_or_key_order() -> None:
    config = override(PRESETS["smoke"], "fusion.beta", 0.3)
    code = "from drorae.config import *; print(config_hash(override(PRESETS['smoke'], 'fusion.beta', '0.3')))"
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
        )  # fmt: skip
        assert done.stdout.strip() == config_hash(config)

    def shuffled(tree: Any) -> Any:
        if not isinstance(tree, dict):
            return tree
        items = list(tree.items())
        random.Random(0).shuffle(items)
        return {key: shuffled(value) for key, value in items}

    tree = shuffled(to_dict(config))
    assert list(tree) != list(to_dict(config))
    assert config_hash(from_dict(TrialConfig, tree)) == config_hash(config)


def test_every_field_changes_the_hash_and_the_runtime_has_no_part_in_it() -> None:
    base = TrialConfig()
    hashes = {config_hash(base)}
    for name, value in flatten(base).items():
        tree = to_dict(base)
        *groups, last = name.split(".")
        inner = tree
        for group in groups:
            inner = inner[group]
        inner[last] = [*value, "more"] if isinstance(value, list) else f"{value} changed"
        hashes.add(config_hash(tree))
    assert len(hashes) == len(flatten(base)) + 1
    assert not set(flatten(Runtime())) & set(flatten(base))


QUICKSTART = [
    "31427d5be16a", "71bcb7a0e40a", "6936d9d1edac", "5c8b5bde160c", "0758881b917b", "bb69fc839ae6",
    "198e10ee5b29", "2575dc766b79", "22a4c036f9a9", "59e7c974d492", "f20de64ea114", "62b43d05499a",
]  # fmt: skip
"""Of drorae 0.1.0, as all hashes here."""


def test_hashes_are_those_of_the_first_version() -> None:
    from sweeps.presets import SWEEPS
    from sweeps.spec import Axis, SweepSpec, expand

    def then(config: TrialConfig) -> TrialConfig:
        """With what was measured by default then."""
        return override(config, "evaluation.extractors", ("dinov2", "effnet"))

    def hashes(spec: SweepSpec) -> list[str]:
        return [config_hash(config) for config in expand(replace(spec, base=then(spec.base)))]

    base = then(TrialConfig(images=ImagesConfig(train_images=2000, val_images=800)))
    axes = Axis("capacity", (8, 32, 64, 128, 256, 512)), Axis("seed", (0, 1))
    assert hashes(SweepSpec("quickstart", base, axes)) == QUICKSTART
    assert hashes(SWEEPS["smoke"]) == ["53ca2247e08f", "7ad4515df7da", "c473c09ecddb", "70dca137d561"]
    assert (config_hash(phase1_key(base)), config_hash(shared_key(base))) == ("c1f63027325e", "146c9f3b392f")
    placed = override(override(base, "images.source", "folder"), "images.path", "imagenet")
    assert former_hash(placed) == "be2206a00a99", "which has a place: imagenet"
    assert config_hash(override(base, "evaluation.effnet2_size", 224)) != config_hash(base)


def test_a_trial_with_a_probe_is_known_by_the_probes_network() -> None:
    probed = override(TrialConfig(), "probe.steps", 300)
    assert identity(probed)["probe"]["network"] == "dit_dh" and "network" not in identity(TrialConfig())["probe"]
    # The hash that it had when the probe was a plain DiT.
    assert config_hash(probed) != former_hash(probed)


@dataclass(frozen=True)
class WiderFusion(FusionConfig):
    gate: str = "none"


@dataclass(frozen=True)
class CodebookConfig:
    depth: int = 4
    widths: tuple[int, ...] = (1, 2)


@dataclass(frozen=True)
class LaterConfig(TrialConfig):
    """A version with a field more in an old group, one beside the groups, and a new group."""

    fusion: WiderFusion = field(default_factory=WiderFusion)
    codebook: CodebookConfig = field(default_factory=CodebookConfig)
    ema: float = 0.5


def test_a_field_that_is_added_with_a_default_leaves_hashes_and_addresses_alone() -> None:
    base = PRESETS["quickstart"]
    later = from_dict(LaterConfig, to_dict(base))
    assert to_dict(later) != to_dict(base) and identity(later) == identity(base)
    assert config_hash(later) == config_hash(base) and shared_key(later) == shared_key(base)
    hashes = {config_hash(base)}
    for name, value in (("fusion.gate", "soft"), ("codebook.depth", 5), ("ema", 0.6), ("label", "x")):
        changed = override(later, name, value)
        hashes.add(config_hash(changed))
        assert config_hash(override(changed, name, read(later, name))) == config_hash(base)
    assert len(hashes) == 5


@pytest.mark.parametrize("preset", PRESETS)
def test_a_frozen_network_s_precision_counts_where_it_is_not_fp32(preset: str) -> None:
    base = PRESETS[preset]
    precisions = {"encoder.precision": "bf16", "objective.perceptual_precision": "bf16", "evaluation.precision": "tf32"}
    # A preset's is fp32, of which a hash knows nothing.
    for name in precisions:
        group, _, field = name.partition(".")
        assert read(base, name) == "fp32" and field not in identity(base)[group]
    changed = {name: override(base, name, value) for name, value in precisions.items()}
    assert len({config_hash(config) for config in (base, *changed.values())}) == 4
    assert all(shared_key(config) != shared_key(base) for config in changed.values())
    # A phase-1 decoder does not depend on what measures it.
    assert [name for name, config in changed.items() if phase1_key(config) == phase1_key(base)] == [
        "evaluation.precision"
    ]


def read(config: Any, name: str) -> Any:
    for part in name.split("."):
        config = getattr(config, part)
    return config


@pytest.mark.parametrize("name", LOCATIONS)
def test_a_place_is_no_part_of_a_hash_but_of_what_is_shared_at_once(name: str) -> None:
    base = PRESETS["quickstart"]
    here, there = (override(base, name, place) for place in ("/here", "/there"))
    assert config_hash(here) == config_hash(there) and is_moved(here, there)
    assert (config_hash(here) == config_hash(base)) == (LOCATIONS[name] == "")
    # The text encoder is read by the generator alone.
    assert (shared_key(here) != shared_key(there)) == (name != "generator.text_encoder")
    assert former_hash(here) != former_hash(there)
    assert relocated(there, here) == here


def test_every_place_is_known_as_one() -> None:
    texts = {name for name, value in flatten(TrialConfig()).items() if isinstance(value, str)}
    others = ("decoder.weights", "evaluation.reference", "generator.text_encoder")
    assert {name for name in texts if "path" in name or name in others} == set(LOCATIONS)


def test_phase1_is_shared_by_what_differs_only_in_fusion_and_seed() -> None:
    base = TrialConfig()
    for name, value in (("fusion.expert_hidden_dim", 8), ("fusion.num_layers", 3), ("phase2.lr", 1e-2), ("seed", 7)):
        assert phase1_key(override(base, name, value)) == phase1_key(base)
    for name, value in (("phase1.epochs", 1), ("decoder.width", 64), ("images.size", 64), ("decoder.seed", 1)):
        assert phase1_key(override(base, name, value)) != phase1_key(base)
