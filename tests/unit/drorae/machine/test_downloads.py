"""Which pretrained weights a trial reads that come with no package."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from drorae.config import PRESETS, override
from drorae.machine.downloads import NeededWeights, downloaded, needed_weights


def test_downloads_are_where_torch_keeps_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    for home in ("", str(tmp_path / "torch")):
        monkeypatch.setenv("TORCH_HOME", home) if home else monkeypatch.delenv("TORCH_HOME", raising=False)
        assert downloaded("x.pth") == Path(torch.hub.get_dir()) / "checkpoints" / "x.pth"


def test_the_default_preset_downloads_nothing() -> None:
    assert needed_weights(PRESETS["quickstart"]) == []


def test_files_that_a_config_names_are_looked_for(tmp_path: Path) -> None:
    config = override(PRESETS["quickstart"], "decoder.weights", str(tmp_path / "decoder.pt"))
    config = override(override(config, "encoder.weights", "file"), "encoder.path", str(tmp_path / "vit.pth"))
    (tmp_path / "vit.pth").touch()
    assert needed_weights(config) == [
        NeededWeights("encoder", str(tmp_path / "vit.pth"), True),
        NeededWeights("decoder", str(tmp_path / "decoder.pt"), False),
    ]


def test_a_text_encoder_is_looked_for_where_a_generator_is_told_captions(tmp_path: Path) -> None:
    config = override(PRESETS["quickstart"], "generator.text_encoder", str(tmp_path))
    assert needed_weights(config) == []
    config = override(override(config, "generator.condition", "text"), "generator.epochs", 1)
    assert needed_weights(config) == [NeededWeights("text encoder", str(tmp_path), True)]
    for name, where in (("nobody/no-encoder", "hub nobody/no-encoder"), ("/no/such/folder", "/no/such/folder")):
        missing = override(config, "generator.text_encoder", name)
        assert needed_weights(missing) == [NeededWeights("text encoder", where, False)]
