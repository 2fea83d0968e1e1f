"""The trials that check whether a sweep's others are trained to the end: its two ends again, for twice the epochs."""

from __future__ import annotations

import functools
import types
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from drorae.config import FusionConfig, TrialConfig, config_hash
from drorae.machine.needs import encoder_shape, guessed_shape
from drorae.trial.folder import CHECKS_CONVERGENCE
from sweeps.spec import SweepSpec, expand, field_name, read_field, varied_fields

LONGER = 2
"""A check has so many times the epochs of the trial that it repeats."""
SIZES = ("fusion.expert_hidden_dim", "fusion.num_layers", "fusion.layers")
"""Fields that make a fusion larger; any other field that a sweep varies makes another of the same size, or none."""


def convergence_checks(spec: SweepSpec, trials: Sequence[TrialConfig] | None = None) -> list[TrialConfig]:
    """The checks of a sweep that asks for them: its smallest and its largest trial with twice the epochs.

    Axes beside the size are at their first values, and where nothing varies the size there is one check. The shared
    phase 1 stays as it is. A search has no checks, and neither has a trial without a phase of its own. What is a trial
    of the sweep anyway, as where it varies the epochs, is no check.

    trials: what `expand` makes of the sweep, where that is known already.
    """
    if not spec.check_convergence or spec.search is not None:
        return []
    own = {config_hash(config): config for config in (expand(spec) if trials is None else trials)}
    longer = {config_hash(config): config for config in map(_longer, _ends(spec, list(own.values())))}
    return [config for key, config in longer.items() if key not in own]


def all_trials(spec: SweepSpec) -> dict[str, TrialConfig]:
    """What a sweep is to run by config hash: the trials of its law, then its checks; of a search, where it starts."""
    own = expand(spec)
    return {config_hash(config): config for config in [*own, *convergence_checks(spec, own)]}


def roles(spec: SweepSpec) -> Mapping[str, str]:
    """What the trials that are no points of the law are there for, by config hash."""
    return types.MappingProxyType({config_hash(config): CHECKS_CONVERGENCE for config in convergence_checks(spec)})


def _ends(spec: SweepSpec, own: Sequence[TrialConfig]) -> list[TrialConfig]:
    """The smallest and the largest trial among those that have the first trial's values beside their size."""
    points = {field_name(name) for point in spec.listed for name in point}
    # Points that list sizes set other numbers with them, such as the learning rate of each.
    free = {*SIZES, *_numeric(points, own[0])} if points & {*SIZES} else {*SIZES}
    fixed = [name for name in varied_fields(own) if name not in free]
    alike = [config for config in own if all(read_field(config, name) == read_field(own[0], name) for name in fixed)]
    sizes = [fusion_size(config) for config in alike] if len(alike) > 1 else [0]
    ends = dict.fromkeys((sizes.index(min(sizes)), sizes.index(max(sizes))))
    return [alike[i] for i in ends]


def _numeric(names: set[str], config: TrialConfig) -> set[str]:
    """The fields among these that hold a number, other than a seed."""

    def number(value: Any) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool)

    return {name for name in names if number(read_field(config, name)) and not name.endswith("seed")}


def fusion_size(config: TrialConfig) -> int:
    """Returns the number of a trial's fusion parameters, which says how large it is beside the others of a sweep."""
    return _size(config.fusion, config.encoder.name)


@functools.lru_cache(maxsize=4096)
def _size(fusion: FusionConfig, encoder: str) -> int:
    """The exact number of the fusion's parameters, on an encoder that its name alone tells where timm is missing."""
    from drorae.models.fusion.size import fusion_params

    try:
        shape = encoder_shape(encoder) or guessed_shape(encoder)
    except ImportError:
        shape = guessed_shape(encoder)
    return fusion_params(fusion, shape.depth, shape.width)


def _longer(config: TrialConfig) -> TrialConfig:
    """The trial with twice the epochs in both of its own phases; one that is left out stays so."""
    second, third = (replace(phase, epochs=LONGER * phase.epochs) for phase in (config.phase2, config.phase3))
    return replace(config, phase2=second, phase3=third)
