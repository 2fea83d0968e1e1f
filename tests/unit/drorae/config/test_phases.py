"""The phases of a trial as one list."""

from __future__ import annotations

import pytest

from drorae.config import PRESETS, TrialConfig, config_hash, override, phase1_key
from drorae.errors import UserError


def changed(**fields: object) -> TrialConfig:
    config = TrialConfig()
    for name, value in fields.items():
        config = override(config, name.replace("__", "."), value)
    return config


@pytest.mark.parametrize("preset", PRESETS)
def test_the_three_phases_are_numbered_and_have_their_settings(preset: str) -> None:
    config = PRESETS[preset]
    assert [phase.name for phase in config.phases] == ["phase1", "phase2", "phase3"]
    assert [phase.number for phase in config.phases] == [1, 2, 3]
    assert [phase.settings for phase in config.phases] == [config.phase1, config.phase2, config.phase3]


def test_the_usual_phases_are_the_published_ones() -> None:
    assert [(phase.trains, phase.latent, phase.fresh) for phase in TrialConfig().phases] == [
        (("decoder",), "base", False),
        (("fusion",), "fused", False),
        (("decoder",), "fused", False),
    ]
    assert TrialConfig().trained_parts == ("fusion",) and not TrialConfig().trains_encoder
    assert changed(phase3__epochs=1).trained_parts == ("fusion", "decoder")


def test_a_config_gives_another_list() -> None:
    joint = changed(phase2__trains="decoder,fusion", phase2__start="fresh", phase1__epochs=0)
    assert joint.phases[1].trains == ("fusion", "decoder") and joint.phases[1].fresh
    assert joint.trained_parts == ("fusion", "decoder")
    tuned = changed(phase2__trains=("encoder", "decoder"), phase2__latent="base")
    assert tuned.trains_encoder and tuned.phases[1].latent == "base"
    # A phase of no epochs trains nothing.
    assert not changed(phase3__trains=("encoder",)).trains_encoder
    for config in (joint, tuned):
        config.check()


def test_what_is_as_usual_changes_no_identity() -> None:
    assert config_hash(changed(phase2__trains=(), phase2__latent="auto")) == config_hash(TrialConfig())
    assert config_hash(changed(phase2__trains=("fusion", "decoder"))) != config_hash(TrialConfig())


def test_a_decoder_that_reads_a_fusion_is_known_by_it() -> None:
    mean = changed(fusion__variant="mean", phase1__latent="fused", fusion__incremental=False)
    deeper = override(mean, "fusion.num_layers", 4)
    assert phase1_key(mean) != phase1_key(deeper)
    base = override(mean, "phase1.latent", "auto")
    assert phase1_key(base) == phase1_key(override(base, "fusion.num_layers", 4))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"phase1__trains": ("fusion", "decoder")}, "phase1.trains: all trials of a sweep share phase 1"),
        ({"phase1__trains": ("encoder",)}, "set phase1.epochs=0 and phase2.trains=encoder"),
        ({"phase1__latent": "fused"}, "phase1.latent: the fusion energy has learned nothing yet"),
        ({"phase1__start": "fresh"}, "phase1.start: phase 1 begins with a new decoder"),
        ({"phase2__latent": "base"}, "phase2.latent: a fusion that the decoder does not read learns nothing"),
        ({"phase3__trains": ("decoder", "decoder")}, "phase3.trains: decoder,decoder names one twice"),
    ],
)
def test_phases_that_cannot_be_trained_are_refused_before_anything_is_loaded(
    fields: dict[str, object], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        changed(**fields).check()


def test_an_unknown_part_is_refused_by_name() -> None:
    with pytest.raises(
        UserError, match=r"phase2.trains: 'router' is not known; choose one of fusion, decoder, encoder"
    ):
        changed(phase2__trains="fusion,router")


def test_wider_experts_learn_at_lower_rates_where_a_phase_says_so() -> None:
    config = changed(phase2__lr=4e-3, phase2__lr_width=40)
    for hidden, rate in ((40, 4e-3), (4, 4e-3 * 10**0.3), (400, 4e-3 / 10**0.3)):
        rates = [phase.settings.lr for phase in override(config, "fusion.expert_hidden_dim", hidden).phases]
        assert rates == pytest.approx([1e-3, rate, 1e-3])
    assert override(config, "phase2.trains", "decoder").phases[1].settings.lr == 4e-3
    assert config_hash(config) != config_hash(override(config, "phase2.lr_width", 0))
