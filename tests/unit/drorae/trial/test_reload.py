"""A trial's tokenizer is had from what the trial left, or not at all."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_config, tiny_images

from drorae.config import PRESETS, ObjectiveConfig, Runtime, override, to_dict
from drorae.errors import UserError
from drorae.export.tokenizer import export_trial
from drorae.models.encoder import load_encoder
from drorae.models.tokenizer import build_tokenizer
from drorae.models.weights import save_sealed, state_sha256
from drorae.storage.files import write_json
from drorae.trial import shared
from drorae.trial.folder import TrialStatus, write_tree
from drorae.trial.reload import load_trained, own_digests, reevaluate
from drorae.trial.result import TrialResult
from drorae.trial.run import run_trial

CONFIG = PRESETS["smoke"]


def write_result(folder: Path, **fields: Any) -> None:
    known = {"config_hash": "abc", "status": TrialStatus.FINISHED, "variant": "energy", "expert_hidden_dim": 32}
    known |= {"num_layers": 12, "seed": 0, "fusion_params": 1, "fusion_params_paper": 1}
    write_tree(folder, "result.json", asdict(TrialResult(**known | fields)))
    write_json(folder / "config.json", to_dict(CONFIG))


def refusal(folder: Path) -> str:
    with pytest.raises(UserError) as raised:
        load_trained(folder, Runtime(cache_dir=str(folder / "cache")))
    assert "\n" not in str(raised.value) and str(folder) in str(raised.value)
    return str(raised.value)


def test_without_a_finished_trial_there_is_no_tokenizer(tmp_path: Path) -> None:
    assert "no finished trial here; expected a folder with result.json" in refusal(tmp_path)
    write_result(tmp_path, status=TrialStatus.DIVERGED, reason="loss nan at step 3")
    assert "diverged and left no weights (loss nan at step 3)" in refusal(tmp_path)


def test_weights_that_are_missing_or_damaged_are_named_before_anything_is_loaded(tmp_path: Path) -> None:
    write_result(tmp_path)
    assert "fusion.safetensors: missing" in refusal(tmp_path)
    save_sealed(tmp_path / "fusion.safetensors", {"weight": torch.zeros(3)})
    content = bytearray((tmp_path / "fusion.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "fusion.safetensors").write_bytes(content)
    assert "fusion.safetensors: damaged" in refusal(tmp_path)
    assert not (tmp_path / "cache").exists()


def test_digests_are_of_what_the_trial_trained(tmp_path: Path) -> None:
    config = tiny_config(tmp_path / "none.npz")
    tokenizer = build_tokenizer(config, load_encoder(config.encoder, "unused"))
    fusion = state_sha256(tokenizer.fusion.state_dict())
    assert own_digests(config, tokenizer) == {"fusion": fusion}
    longer = override(config, "phase3.epochs", 1)
    decoder = state_sha256(tokenizer.decoder.state_dict())
    assert own_digests(longer, tokenizer) == {"fusion": fusion, "decoder": decoder}


@pytest.mark.slow
def test_a_trial_whose_discriminator_was_heard_too_soon_is_opened_but_not_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As drorae 0.1.0 has trained: its results are what they are, for export, evaluation and inspection alike."""
    config = tiny_config(tiny_images(tmp_path / "images.npz"), objective=ObjectiveConfig("none", gan_weight=0.75))
    runtime = Runtime(device="cpu", threads=1, cache_dir=str(tmp_path / "cache"))
    with monkeypatch.context() as former:
        former.setattr("drorae.config.schema.check_discriminators", lambda *arguments: None)
        result = run_trial(config, directory=tmp_path / "trial", runtime=runtime)
    shared._last = None
    workshop, tokenizer = load_trained(tmp_path / "trial", runtime)
    assert workshop.evaluate(tokenizer).metrics == result.metrics
    assert reevaluate(tmp_path / "trial", runtime=runtime) == result.metrics
    exported = export_trial(tmp_path / "trial", tmp_path / "export", runtime, check=True)
    assert exported.metrics and all(one == other for one, other in exported.metrics.values())
    with pytest.raises(UserError, match=r"^phase1\.gan_start_steps: 0 lets a discriminator be heard"):
        run_trial(config, directory=tmp_path / "another", runtime=runtime)
    # What else does not go together is refused, trained or not.
    with pytest.raises(UserError, match=r"^evaluation\.extractors: .* twice"):
        reevaluate(tmp_path / "trial", ("effnet", "effnet"), runtime)
