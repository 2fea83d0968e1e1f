"""What a trial is known by: the hash of its identity, which outlives new fields and files that move.

An identity lists every field that `FIELDS` names, so that hashes stay what they were when that list was made, and of
younger fields those that differ from their default. Where data and weights lie is no part of it: their fingerprints,
kept with every trial, tell whether they are the same.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from drorae.config.convert import canonical_json, override, to_dict
from drorae.config.generator import GeneratorRun
from drorae.config.phases import WITHOUT_WEIGHTS
from drorae.config.schema import TrialConfig

VERSION = 1
"""Of the meaning of a config. To be raised by whoever changes what a field means, or the default of a field that is not
in `FIELDS`: results from before are then no longer found under the same hash."""

_PHASE = (
    "epochs batch_size lr final_lr warmup_steps betas weight_decay clip_norm ema_decay latent_noise disc_start_steps "
    "gan_start_steps precision"
)
FIELDS = {
    "images": "source path val_path val_fraction size resize train_images val_images views seed",
    "encoder": "name weights path input_size norm_affine feature_dtype",
    "fusion": "variant incremental expert_hidden_dim num_layers beta eps activation expert_norm router_input",
    "decoder": "width depth heads mlp_dim seed weights",
    "objective": "perceptual perceptual_weight perceptual_size lpips_path gan_weight max_adaptive_weight",
    "discriminator": "name weights path input_size lr final_lr betas weight_decay",
    "phase1": _PHASE,
    "phase2": _PHASE,
    "phase3": _PHASE,
    "evaluation": "extractors batch_size dinov2_size effnet_size inception_path quantise lpips lpips_path reference "
    "bootstrap",
    "probe": "steps scale width depth heads batch_size lr warmup clip_norm levels draws train_images val_images seed",
    "": "seed",
}
"""The fields that are always listed, by group. Nothing is added to them, nor taken away."""

PROBE = "dit_dh"
"""The network of the probe: its metrics are of another trial than those of an earlier network's."""

YOUNGER = ("text_encoder", "text_tokens")
"""Fields of a `GeneratorConfig` that its identity lists only where they differ from their default. Every field that is
added to one is added here."""

LOCATIONS: Mapping[str, str] = {
    "images.path": "given",
    "images.val_path": "given",
    "encoder.path": "given",
    "decoder.weights": "given",
    "discriminator.path": "given",
    "evaluation.reference": "given",
    "evaluation.inception_path": "",
    "evaluation.lpips_path": "",
    "objective.lpips_path": "",
    "generator.text_encoder": "given",
}
"""Fields that say where something lies, and what stands for any such place: where one with and one without compute the
same, because known weights are merely looked for elsewhere, nothing."""


def _listed(config: Any, usual: Any, group: str = "") -> dict[str, Any]:
    """The fields of a config, or a group of it, that its identity lists; `usual` is one with all the defaults."""
    known = FIELDS.get(group, "").split()
    tree = {}
    for item in dataclasses.fields(config):
        value, default = getattr(config, item.name), getattr(usual, item.name, item.default)
        if dataclasses.is_dataclass(value):
            if inner := _listed(value, default, f"{group}.{item.name}".lstrip(".")):
                tree[item.name] = inner
        elif item.name in known or value != default:
            tree[item.name] = value
    return tree


def identity(config: TrialConfig, located: bool = False) -> dict[str, Any]:
    """What makes a trial the one it is, as plain nested dictionaries; `located`: with the places themselves."""
    tree = _listed(config, type(config)())
    if config.probe.steps:
        tree["probe"]["network"] = PROBE
    for name, mark in LOCATIONS.items() if not located else ():
        group, _, field = name.partition(".")
        # A group of younger fields is listed where it has one in use.
        if field in tree.get(group, {}):
            tree[group][field] = mark if tree[group][field] else ""
    return tree if VERSION == 1 else tree | {"version": VERSION}


def config_hash(tree: TrialConfig | Mapping[str, Any]) -> str:
    """First 12 hexadecimal digits of the SHA-256 of the canonical JSON of a config's identity, or of a tree."""
    plain = identity(tree) if isinstance(tree, TrialConfig) else tree
    return hashlib.sha256(canonical_json(plain).encode()).hexdigest()[:12]


def generator_identity(run: GeneratorRun) -> dict[str, Any]:
    """What makes a generator the one it is, beside its trial: all fields, the younger ones where they are in use."""
    tree = to_dict(run)
    for name in YOUNGER:
        if getattr(run.model, name) == getattr(type(run.model), name):
            del tree["model"][name]
    return tree


def former_hash(config: TrialConfig) -> str:
    """The hash that drorae 0.1.0 gave a trial, which had its places in it."""
    return config_hash(_listed(replace(config, label=""), type(config)()))


def phase1_key(config: TrialConfig) -> dict[str, Any]:
    """What a phase-1 decoder depends on, places and all: everything but later phases, evaluation and seed.

    The fusion is among it only where the decoder reads the fusion's latent.
    """
    tree = identity(config, located=True)
    names = ("images", "encoder", "decoder", "objective", "discriminator", "phase1")
    return {name: tree[name] for name in (*names, *(("fusion",) if config.phases[0].fused else ()))}


def shared_key(config: TrialConfig) -> dict[str, Any]:
    """What trials have in common that share phase 1 and the reference statistics, at the same places."""
    return phase1_key(config) | {"evaluation": identity(config, located=True)["evaluation"]}


def pack_key(config: TrialConfig) -> dict[str, Any] | None:
    """What trials have in common whose phase 2 can be trained in one pack, before one decoder, on the same batches.

    Fusions and the ways of optimising them may differ. None for a trial that trains alone: its phase 2 trains no
    fusion, or more than the fusion, or has an adversarial term.
    """
    phase = config.phases[1]
    alone = phase.trains != ("fusion",) or config.fusion.variant in WITHOUT_WEIGHTS or config.trains_encoder
    if alone or not phase.settings.epochs or config.objective.gan_weight:
        return None
    settings = {name: getattr(phase.settings, name) for name in ("epochs", "batch_size", "latent_noise", "precision")}
    return shared_key(config) | {"seed": config.seed, "phase2": settings}


def relocated(config: TrialConfig, like: TrialConfig) -> TrialConfig:
    """`config` with the places of another."""
    for name in LOCATIONS:
        group, _, field = name.partition(".")
        config = override(config, name, getattr(getattr(like, group), field))
    return config


def is_moved(config: TrialConfig, other: TrialConfig) -> bool:
    """Whether two configs name other places."""
    return relocated(config, other) != config
