"""How a trial is run."""

from __future__ import annotations

import pytest

from drorae.trial.run import loss_tail_drop


def test_loss_tail_drop() -> None:
    assert loss_tail_drop([1.0] * 50) == 0
    assert loss_tail_drop([1.0] * 40 + [0.9] * 10) == pytest.approx(0.1)
    assert loss_tail_drop([3.0, 2.0, 1.0]) == 0
