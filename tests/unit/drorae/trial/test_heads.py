"""A discriminator that a later phase goes on with."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from tiny import tiny_config, tiny_images

from drorae.config import ObjectiveConfig, Runtime, TrialConfig
from drorae.errors import UserError
from drorae.models.weights import read_state
from drorae.training import adversary
from drorae.trial.folder import HEADS
from drorae.trial.heads import heads_of
from drorae.trial.run import run_trial


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Runtime:
    return Runtime(device="cpu", threads=1, cache_dir=str(tmp_path_factory.mktemp("cache")), log_steps=1)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrialConfig:
    """Phase 2 goes on with the discriminator of phase 1, phase 3 with that of phase 2; both hear it from step 0."""
    base = tiny_config(tiny_images(tmp_path_factory.mktemp("images") / "images.npz"))
    phase = dataclasses.replace(base.phase1, epochs=1, batch_size=16, gan_start_steps=1)
    later = dataclasses.replace(phase, gan_start_steps=0)
    return dataclasses.replace(
        base,
        objective=ObjectiveConfig(perceptual="none", gan_weight=0.75),
        phase1=phase,
        phase2=dataclasses.replace(later, disc_from="phase1"),
        phase3=dataclasses.replace(later, disc_from="phase2"),
    )


@pytest.mark.slow
def test_each_phase_goes_on_with_the_heads_it_names(
    config: TrialConfig, runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[dict[str, torch.Tensor]] = []
    make = adversary.Adversary.__init__

    def watched(self: adversary.Adversary, *arguments: object) -> None:
        make(self, *arguments)  # type: ignore[arg-type]
        begun.append({name: value.clone() for name, value in self.network.state_dict().items()})

    monkeypatch.setattr(adversary.Adversary, "__init__", watched)
    rows: list[dict[str, float | str]] = []
    run_trial(config, rows.append, directory=tmp_path, runtime=runtime)
    kept = [next(Path(runtime.cache_dir).glob(f"decoders/*/{HEADS}")), heads_of(tmp_path, "phase2")]
    for path, heads in zip(kept, begun[1:], strict=True):
        state = read_state(path)
        assert all(torch.equal(value, heads[name]) for name, value in state.items()) and state.keys() == heads.keys()
    assert not torch.equal(begun[0]["heads.0.2.bias"], begun[1]["heads.0.2.bias"]), "phase 1 trained them"
    heard = [row["phase"] for row in rows if row.get("step") == 1 and "gan_weight" in row]
    assert heard == ["phase2", "phase3"], "from their first step on"


@pytest.mark.slow
def test_heads_that_are_not_there_are_named_with_the_way_on(
    config: TrialConfig, runtime: Runtime, tmp_path: Path
) -> None:
    """As of a phase-1 decoder that an older drorae trained."""
    own = dataclasses.replace(runtime, cache_dir=str(tmp_path / "cache"))
    config = dataclasses.replace(config, phase3=dataclasses.replace(config.phase3, epochs=0))
    run_trial(config, directory=tmp_path / "first", runtime=own)
    heads = next((tmp_path / "cache").glob(f"decoders/*/{HEADS}"))
    heads.rename(tmp_path / "away")
    with pytest.raises(UserError, match=r"phase2\.disc_from=phase1: .* rename .*decoders"):
        run_trial(config, directory=tmp_path / "second", runtime=own)
