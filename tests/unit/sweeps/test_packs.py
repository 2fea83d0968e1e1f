"""Which trials of a sweep train phase 2 together, and in which order they run."""

from __future__ import annotations

from dataclasses import replace

import pytest

from drorae.config import PRESETS, Runtime, TrialConfig, config_hash, override
from drorae.errors import UserError
from sweeps.checks import all_trials
from sweeps.packs import check_packs, in_order, packs_of
from sweeps.presets import PACKED, SWEEPS
from sweeps.resources import Resources, Share
from sweeps.settings import PREPARE, RUN_TRIAL, Settings
from sweeps.spec import Axis, Range, Search, SweepSpec

SETTINGS = Settings(Runtime(), Resources(), 3, None, 0.0, RUN_TRIAL, PREPARE, pack=4)


def trials(*axes: Axis, base: TrialConfig = PRESETS["smoke"]) -> dict[str, TrialConfig]:
    return all_trials(SweepSpec("sweep", base, axes))


def alone(config: TrialConfig) -> Share:
    return Share()


def test_the_quickstart_s_packs_are_its_seeds_and_decoders_and_its_checks() -> None:
    configs = all_trials(SWEEPS["quickstart"])
    packs = packs_of(configs, PACKED["quickstart"], alone)
    assert sorted(len(others) + 1 for others in packs.values()) == [2, 6, 6, 6, 6]
    for first, others in packs.items():
        members = [configs[key] for key in (first, *others)]
        assert len({(config.seed, config.decoder.seed, config.phase2.epochs) for config in members}) == 1
    order = in_order(list(configs), packs)
    assert sorted(order) == sorted(configs) and order[: len(packs)] == list(packs)
    assert order[len(packs) :] == [key for others in packs.values() for key in others]


def test_packs_are_as_equal_as_can_be() -> None:
    configs = trials(Axis("capacity", (1, 2, 3, 4, 5, 6, 7)))
    assert [len(others) + 1 for others in packs_of(configs, 3, alone).values()] == [2, 2, 3]
    assert packs_of(configs, 0, alone) == packs_of(configs, 1, alone) == {}
    assert packs_of(configs, 7, lambda config: Share(2, 0, 2)) == {}


def test_only_fusions_and_how_they_are_optimised_may_differ() -> None:
    together = [
        Axis("variant", ("energy", "softmax", "cross_attention")),
        Axis("layers", (1, 6, 12)),
        Axis("lr", (1e-3, 1e-4)),
    ]
    for axis in together:
        assert [len(others) for others in packs_of(trials(axis), 9, alone).values()] == [len(axis.values) - 1]
    apart = [
        Axis("seed", (0, 1)),
        Axis("decoder.seed", (0, 1)),
        Axis("phase2.epochs", (1, 2)),
        Axis("variant", ("mean", "last")),
    ]
    for axis in apart:
        assert packs_of(trials(axis), 9, alone) == {}
    adversarial = PRESETS["smoke"]
    for field, value in {"phase1.gan_start_steps": 9, "phase2.gan_start_steps": 9, "objective.gan_weight": 0.5}.items():
        adversarial = override(adversarial, field, value)
    assert packs_of(trials(Axis("capacity", (4, 8)), base=adversarial), 9, alone) == {}


def test_trials_that_fit_no_pack_run_before_those_that_only_measure() -> None:
    configs = trials(Axis("capacity", (4, 8)), Axis("variant", ("energy", "mean")))
    packs = packs_of(configs, 2, alone)
    (first,), ((second,),) = packs, packs.values()
    order = in_order(list(configs), packs)
    assert order[0] == first and order[-1] == second and len(order) == len(configs)
    assert configs[first].fusion.expert_hidden_dim == 4 and config_hash(configs[second]) == second


@pytest.mark.parametrize(
    ("settings", "search", "on_disk", "message"),
    [
        (SETTINGS, Search((Range("lr", 1e-4, 1e-2),)), True, "--pack: --tune decides"),
        (replace(SETTINGS, pruner="median"), None, True, "--pack: --pruner decides"),
        (replace(SETTINGS, run_trial="mine:run"), None, True, "pack: mine:run trains its trials one by one"),
        (replace(SETTINGS, runtime=Runtime(compile=True)), None, True, "--compile: trials that are trained together"),
        (SETTINGS, None, False, "--pack: trials of a pack need a folder on a disk"),
    ],
)
def test_where_there_can_be_no_packs(settings: Settings, search: Search | None, on_disk: bool, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_packs(settings, search, on_disk)
    check_packs(replace(settings, pack=0), search, on_disk)
    check_packs(SETTINGS, None, True)
