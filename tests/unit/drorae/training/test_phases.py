"""What trains in each phase."""

from __future__ import annotations

import pytest
from torch import nn

from drorae.config import PRESETS
from drorae.models.tokenizer import Tokenizer
from drorae.training.phases import PHASE1, PHASE2, PHASE3, Phase, freeze_all_but


@pytest.mark.parametrize(
    ("phase", "trains", "latent"),
    [(PHASE1, "decoder", "base"), (PHASE2, "fusion", "fused"), (PHASE3, "decoder", "fused")],
)
def test_one_module_learns_in_each_phase(phase: Phase, trains: str, latent: str) -> None:
    tokenizer = Tokenizer(*(nn.Linear(2, 2) for _ in range(3)))  # type: ignore[arg-type]
    module = freeze_all_but(tokenizer, phase)
    assert module is getattr(tokenizer, trains) is phase.trained(tokenizer) and phase.latent == latent
    learning = {name.partition(".")[0] for name, weight in tokenizer.named_parameters() if weight.requires_grad}
    assert learning == {trains} == {name for name, part in tokenizer.named_children() if part.training}
    config = PRESETS["paper"]
    assert phase.settings(config) is getattr(config, phase.name) and phase.name == f"phase{phase.number}"
