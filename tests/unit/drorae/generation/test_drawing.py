"""Which latents are drawn, of which classes, and that any part of them is drawn again."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from drorae.config import GENERATORS, GeneratorConfig
from drorae.errors import UserError
from drorae.generation.drawing import Drawing, check_drawing, draw_latents
from drorae.generation.guidance import Guidance, Network
from drorae.generation.transformer import DiTDH

CONFIG = replace(GENERATORS["tiny"], early_depth=1)


def network(seed: int, config: GeneratorConfig = CONFIG) -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = DiTDH(config, 3, 2, 4, 6).eval()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    return Network(model.requires_grad_(False), config)


def drawn(drawing: Drawing, images: range) -> torch.Tensor:
    return draw_latents(drawing, images, (3, 2, 2), network(0), network(1), torch.device("cpu"))


def test_classes_come_by_turns_in_any_part() -> None:
    drawing = Drawing(10, (0, 3, 2), batch_size=4)
    assert [list(batch) for batch in drawing.batches()] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    labels = drawing.given(range(4, 8))
    assert labels is not None and labels.tolist() == [3, 2, 0, 3]
    assert Drawing().given(range(3)) is None


def test_prompts_have_as_many_images_each_and_their_states_are_given() -> None:
    drawing = Drawing(7, prompts=("a", "b"), per_prompt=3, batch_size=4)
    said = torch.arange(2.0).view(2, 1, 1).expand(2, 5, 6)
    given = drawing.given(range(7), said)
    assert given is not None and given.shape == (7, 5, 6) and given[:, 0, 0].tolist() == [0, 0, 0, 1, 1, 1, 0]
    assert Drawing(7).given(range(7), said[:0]) is None
    with pytest.raises(UserError, match=r"^--classes: expected none with --prompts"):
        Drawing(7, (0,), prompts=("a",))
    with pytest.raises(UserError, match=r"^--n-per-prompt 0: expected 1 or more"):
        Drawing(7, prompts=("a",), per_prompt=0)


def test_a_prompt_leads_and_leads_further_without_a_classifier() -> None:
    config = replace(CONFIG, condition="text", text_encoder="any", text_tokens=5)
    good = network(0, config)
    said = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0))

    def latents(guidance: str, said: torch.Tensor, bad: Network | None = None) -> torch.Tensor:
        drawing = Drawing(4, steps=3, guidance=Guidance.parse(guidance), prompts=("a", "b"), per_prompt=2)
        check_drawing(drawing, good, bad, 0, said)
        return draw_latents(drawing, range(4), (3, 2, 2), good, bad, torch.device("cpu"), said)

    plain = latents("none", said)
    torch.testing.assert_close(latents("none", said.flip(0))[:2], draw_swapped(good, said), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(latents("cfg=1", said), plain, rtol=1e-4, atol=1e-4)
    # Led by no more than the text: bad + 0 (good - bad) is what is drawn where nothing is said.
    nothing = draw_latents(Drawing(4, steps=3), range(4), (3, 2, 2), good, None, torch.device("cpu"))
    torch.testing.assert_close(latents("cfg=0", said), nothing, rtol=1e-4, atol=1e-4)
    for led in (latents("cfg=3", said), latents("autoguidance=2", said, network(1, config)), nothing):
        assert (led - plain).abs().max() > 1e-2
    # A worse model that is told classes has no use for a text; one that reads another encoder's states is none.
    latents("autoguidance=2", said, network(1))
    with pytest.raises(UserError, match="the worse generator reads texts in another way"):
        latents("autoguidance=2", said, Network(network(1, config).model, replace(config, text_encoder="other")))
    with pytest.raises(UserError, match=r"trained without a hidden text \(generator.condition=text"):
        good = Network(good.model, replace(config, class_dropout=0.0))
        latents("cfg=2", said)


def draw_swapped(good: Network, said: torch.Tensor) -> torch.Tensor:
    """The first two images of the second prompt, in a drawing of it alone."""
    drawing = Drawing(2, steps=3, prompts=("b",), per_prompt=2)
    return draw_latents(drawing, range(2), (3, 2, 2), good, None, torch.device("cpu"), said[1:])


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
    with pytest.raises(UserError, match="no class or prompt is given"):
        check_drawing(Drawing(4, guidance=Guidance.parse("cfg=2")), good, None, 0)
    with pytest.raises(UserError, match=r"^--steps 0: expected 1 or more"):
        Drawing(steps=0)
    with pytest.raises(UserError, match="holds no time"):
        Guidance.parse("cfg=2", (0.5, 0.5))
