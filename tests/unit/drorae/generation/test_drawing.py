"""Which latents are drawn, of which classes, and that any part of them is drawn again."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from drorae.config import GENERATORS
from drorae.errors import UserError
from drorae.generation.drawing import Drawing, check_drawing, draw_latents
from drorae.generation.guidance import Guidance, Network
from drorae.generation.transformer import DiTDH

CONFIG = replace(GENERATORS["tiny"], early_depth=1)


def network(seed: int) -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = DiTDH(CONFIG, 3, 2, 4).eval()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    return Network(model.requires_grad_(False), CONFIG)


def drawn(drawing: Drawing, images: range) -> torch.Tensor:
    return draw_latents(drawing, images, (3, 2, 2), network(0), network(1), torch.device("cpu"))


def test_classes_come_by_turns_in_any_part() -> None:
    drawing = Drawing(10, (0, 3, 2), batch_size=4)
    assert [list(batch) for batch in drawing.batches()] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    labels = drawing.labels(range(4, 8))
    assert labels is not None and labels.tolist() == [3, 2, 0, 3]
    assert Drawing().labels(range(3)) is None


def test_a_batch_is_drawn_again_to_the_bit_and_other_seeds_draw_others() -> None:
    drawing = Drawing(8, (0, 1), steps=3, method="heun", batch_size=4)
    assert torch.equal(drawn(drawing, range(4, 8)), drawn(drawing, range(4, 8)))
    torch.testing.assert_close(drawn(drawing, range(2, 6))[2:], drawn(drawing, range(4, 8))[:2])
    assert not torch.equal(drawn(replace(drawing, seed=1), range(4)), drawn(drawing, range(4)))


@pytest.mark.parametrize("kind", ["cfg", "autoguidance", "internal"])
def test_every_guidance_leads_elsewhere_and_at_scale_1_nowhere(kind: str) -> None:
    plain = Drawing(4, (0, 1), steps=3)
    led, not_led = (replace(plain, guidance=Guidance.parse(f"{kind}={scale}")) for scale in (2, 1))
    torch.testing.assert_close(drawn(not_led, range(4)), drawn(plain, range(4)), rtol=1e-4, atol=1e-4)
    assert (drawn(led, range(4)) - drawn(plain, range(4))).abs().max() > 1e-2
    # Euler's only step is at t = 1.
    late = replace(led, steps=1, guidance=replace(led.guidance, interval=(0.0, 0.5)))
    torch.testing.assert_close(drawn(late, range(4)), drawn(replace(plain, steps=1), range(4)))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("magic=2", "no such guidance"),
        ("cfg", "expected none, or NAME=W"),
        ("none=1", "expected none, or NAME=W"),
        ("cfg=much", "expected a number after cfg="),
    ],
)
def test_a_guidance_is_a_name_and_a_number(text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        Guidance.parse(text)
    assert str(Guidance.parse("internal=1.78")) == "internal=1.78" and str(Guidance()) == "none"


def test_what_cannot_be_drawn_is_refused() -> None:
    good = network(0)
    with pytest.raises(UserError, match=r"^--classes 4: the generator knows 0 to 3$"):
        check_drawing(Drawing(4, (0, 4)), good, None, 4)
    with pytest.raises(UserError, match=r"^--classes 0: the generator knows none"):
        check_drawing(Drawing(4, (0,)), good, None, 0)
    with pytest.raises(UserError, match="there is no worse generator"):
        check_drawing(Drawing(4, (0,), guidance=Guidance.parse("autoguidance=2")), good, None, 4)
    with pytest.raises(UserError, match="no class is given"):
        check_drawing(Drawing(4, guidance=Guidance.parse("cfg=2")), good, None, 0)
    with pytest.raises(UserError, match=r"^--steps 0: expected 1 or more"):
        Drawing(steps=0)
    with pytest.raises(UserError, match="holds no time"):
        Guidance.parse("cfg=2", (0.5, 0.5))
