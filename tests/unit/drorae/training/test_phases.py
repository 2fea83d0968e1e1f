"""Which modules a phase trains."""

from __future__ import annotations

import pytest
from torch import nn

from drorae.config import TrialConfig, override
from drorae.models.tokenizer import Tokenizer
from drorae.training.phases import freeze_all_but, part_of, trained


class _Vit(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.vit, self.norm = nn.Linear(2, 2), nn.LayerNorm(2)


@pytest.mark.parametrize(
    ("name", "trains"),
    [
        ("phase1", ("decoder",)),
        ("phase2", ("fusion",)),
        ("phase3", ("decoder",)),
        ("phase2", ("fusion", "decoder")),
        ("phase3", ("fusion", "decoder", "encoder")),
        ("phase2", ("encoder",)),
    ],
)
def test_what_a_phase_names_learns_and_nothing_else(name: str, trains: tuple[str, ...]) -> None:
    tokenizer = Tokenizer(_Vit(), nn.Linear(2, 2), nn.Linear(2, 2))  # type: ignore[arg-type]
    config = override(TrialConfig(), f"{name}.trains", trains)
    phase = next(phase for phase in config.phases if phase.name == name)
    module = freeze_all_but(tokenizer, phase)
    assert phase.trains == trains
    wanted = {id(weight) for part in phase.trains for weight in part_of(tokenizer, part).parameters()}
    assert {id(weight) for weight in module.parameters()} == wanted
    assert {id(weight) for weight in tokenizer.parameters() if weight.requires_grad} == wanted
    training = {
        id(weight) for part in tokenizer.modules() if part.training for weight in part.parameters(recurse=False)
    }
    assert training == wanted
    # A single part is itself, as checkpoints of it have always been.
    assert (trained(tokenizer, phase) is part_of(tokenizer, phase.trains[0])) == (len(trains) == 1)
