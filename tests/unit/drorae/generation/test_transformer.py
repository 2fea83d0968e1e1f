"""DiT^DH against an independent plain one in float64, its gradients, and its published sizes."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from drorae.config import GENERATORS, GeneratorConfig
from drorae.errors import UserError
from drorae.generation.transformer import DiTDH, Prediction

Weights = dict[str, Tensor]
CONFIG = GeneratorConfig(width=24, depth=3, heads=2, head_width=40, head_depth=2, head_heads=5)
OPTIONS: dict[str, dict[str, Any]] = {
    "class": {},
    "none": {"condition": "none"},
    "early": {"early_depth": 2},
    "first": {"early_depth": 1, "condition": "none"},
    "one width": {"head_width": 24, "head_heads": 3},
    "deep head": {"depth": 1, "head_depth": 3},
}
TEXT = replace(CONFIG, condition="text", text_encoder="any", text_tokens=4)
CHANNELS, GRID, CLASSES, TEXT_WIDTH = 5, 3, 4, 6


def silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def linear(weights: Weights, name: str, x: Tensor) -> Tensor:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def rms(weights: Weights, name: str, x: Tensor) -> Tensor:
    return x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * weights[f"{name}.weight"]


def turned(head: Tensor, place: int) -> Tensor:
    """A head's vector [W], its first half turned by the row and its second by the column, pair by pair.

    Tokens that are none of the image's have places below 0, and are not turned.
    """
    if place < 0:
        return head
    half = len(head) // 2
    found = head.clone()
    for start, where in ((0, place // GRID), (half, place % GRID)):
        for pair in range(half // 2):
            # Tables are float32.
            angle = torch.tensor(where * 10000.0 ** (-2 * pair / half), dtype=torch.float64)
            cosine, sine = (part.float().double() for part in (angle.cos(), angle.sin()))
            left, right = head[start + 2 * pair], head[start + 2 * pair + 1]
            found[start + 2 * pair] = left * cosine - right * sine
            found[start + 2 * pair + 1] = right * cosine + left * sine
    return found


def attention(weights: Weights, name: str, x: Tensor, heads: int) -> Tensor:
    """Over the tokens [N, W] of one image, head by head; what is more than its places stands before them."""
    count, width = x.shape
    first = GRID**2 - count
    queries, keys, values = linear(weights, f"{name}.qkv", x).chunk(3, dim=-1)
    found = []
    for head in range(heads):
        part = slice(head * width // heads, (head + 1) * width // heads)
        q = torch.stack([turned(queries[place, part], place + first) for place in range(count)])
        k = torch.stack([turned(keys[place, part], place + first) for place in range(count)])
        found.append((q @ k.T / math.sqrt(width / heads)).softmax(-1) @ values[:, part])
    return linear(weights, f"{name}.proj", torch.cat(found, dim=-1))


def block(weights: Weights, name: str, x: Tensor, condition: Tensor, heads: int) -> Tensor:
    parts = linear(weights, f"{name}.modulation.1", silu(condition)).chunk(6, dim=-1)
    x = x + parts[2] * attention(
        weights, f"{name}.attention", rms(weights, f"{name}.norm1", x) * (1 + parts[1]) + parts[0], heads
    )
    y = rms(weights, f"{name}.norm2", x) * (1 + parts[4]) + parts[3]
    hidden = silu(linear(weights, f"{name}.mlp.fc1_g", y)) * linear(weights, f"{name}.mlp.fc1_x", y)
    return x + parts[5] * linear(weights, f"{name}.mlp.fc2", hidden)


def last(weights: Weights, name: str, x: Tensor, condition: Tensor) -> Tensor:
    shift, scale = linear(weights, f"{name}.modulation.1", silu(condition)).chunk(2, dim=-1)
    return linear(weights, f"{name}.linear", rms(weights, f"{name}.norm", x) * (1 + scale) + shift)


def places(width: int) -> Tensor:
    """Sines and cosines of the column, then of the row."""
    table = torch.zeros(GRID**2, width, dtype=torch.float64)
    quarter = width // 4
    for place in range(GRID**2):
        for half, where in enumerate((place % GRID, place // GRID)):
            for i in range(quarter):
                angle = where / 10000 ** (i / quarter)
                table[place, 2 * half * quarter + i] = math.sin(angle)
                table[place, (2 * half + 1) * quarter + i] = math.cos(angle)
    return table.float().double()


def told(weights: Weights, given: int | Tensor) -> tuple[Tensor, Tensor]:
    """What a label, or the states of a text, make: y, and the tokens before those of the image."""
    if isinstance(given, int):
        y = weights["condition.embedding.weight"][given]
        return y, y.new_zeros(0, len(y))
    tokens, said = [], []
    for state in given:
        if state.any():
            said.append(linear(weights, "condition.project", state))
        tokens.append(said[-1] if state.any() else weights["condition.nothing"])
    y = sum(said, torch.zeros_like(tokens[0])) / max(len(said), 1)
    return y, torch.stack(tokens)


def plain(
    model: DiTDH, config: GeneratorConfig, noisy: Tensor, t: float, given: int | Tensor
) -> tuple[Tensor, Tensor | None]:
    """One image [C, S, S], of a label or the states [L, D] of a text."""
    weights: Weights = dict(model.state_dict())
    tokens = torch.stack([noisy[:, row, column] for row in range(GRID) for column in range(GRID)])
    angles = 2 * math.pi * t * weights["time.frequencies"]
    features = torch.cat([angles.sin(), angles.cos()])
    time = linear(weights, "time.layers.2", silu(linear(weights, "time.layers.0", features)))
    y, before = told(weights, given)
    condition = silu(time + y)[None]
    s, early = torch.cat([before, linear(weights, "embed", tokens) + places(config.width)]), None
    for depth in range(config.depth):
        s = block(weights, f"blocks.{depth}", s, condition, config.heads)
        if depth + 1 == config.early_depth:
            early = last(weights, "early", silu(time + s[len(before) :]), silu(time + s[len(before) :]))
    s = silu(time + s[len(before) :])
    if config.width != config.head_width:
        s = linear(weights, "widen", s)
    x = linear(weights, "head_embed", tokens)
    for depth in range(config.head_depth):
        x = block(weights, f"head.{depth}", x, s, config.head_heads)
    found = last(weights, "last", x, s)
    return found.T.reshape(noisy.shape), None if early is None else early.T.reshape(noisy.shape)


def random_model(config: GeneratorConfig, classes: int = CLASSES) -> DiTDH:
    """In float64, with nothing left at zero or one."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = DiTDH(config, CHANNELS, GRID, classes, TEXT_WIDTH).double()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def batch(count: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    chance = torch.Generator().manual_seed(1)
    noisy = torch.randn(count, CHANNELS, GRID, GRID, generator=chance, dtype=torch.float64)
    return noisy, torch.linspace(0, 1, count, dtype=torch.float64), torch.arange(count) % CLASSES


@pytest.mark.parametrize("name", OPTIONS)
def test_forward_is_that_of_a_plain_transformer(name: str) -> None:
    config = replace(CONFIG, **OPTIONS[name])
    model, (noisy, t, labels) = random_model(config), batch()
    given = None if config.condition == "none" else labels
    found: Prediction = model(noisy, t, given)
    assert (found.early is not None) == (config.early_depth > 0)
    for image in range(len(noisy)):
        label = int(labels[image]) if given is not None else 0
        final, early = plain(model, config, noisy[image], float(t[image]), label)
        torch.testing.assert_close(found.final[image], final, rtol=1e-10, atol=1e-10)
        if found.early is not None and early is not None:
            torch.testing.assert_close(found.early[image], early, rtol=1e-10, atol=1e-10)


def texts(lengths: tuple[int, ...] = (4, 2, 0)) -> Tensor:
    """States of texts with so many tokens."""
    states = torch.randn(len(lengths), 4, TEXT_WIDTH, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for text, length in enumerate(lengths):
        states[text, length:] = 0
    return states


@pytest.mark.parametrize("fields", [{}, {"early_depth": 2}, {"depth": 1, "head_depth": 3}])
def test_a_text_s_tokens_are_read_beside_the_image_s(fields: dict[str, Any]) -> None:
    config = replace(TEXT, **fields)
    model, (noisy, t, _), given = random_model(config), batch(), texts()
    found: Prediction = model(noisy, t, given)
    for image in range(len(noisy)):
        final, early = plain(model, config, noisy[image], float(t[image]), given[image])
        torch.testing.assert_close(found.final[image], final, rtol=1e-10, atol=1e-10)
        assert (found.early is None) == (early is None)
        if found.early is not None and early is not None:
            torch.testing.assert_close(found.early[image], early, rtol=1e-10, atol=1e-10)


def test_what_an_image_gets_of_its_text_does_not_depend_on_longer_ones_beside_it() -> None:
    model, (noisy, t, _), given = random_model(TEXT), batch(), texts()
    together = model(noisy, t, given).final
    for image in range(len(noisy)):
        one = slice(image, image + 1)
        torch.testing.assert_close(model(noisy[one], t[one], given[one]).final, together[one], rtol=1e-12, atol=1e-12)
    # A text of no tokens is no text.
    torch.testing.assert_close(model(noisy, t).final[2], together[2], rtol=1e-12, atol=1e-12)
    assert torch.equal(model(noisy, t).final, model(noisy, t, model.condition.null(3)).final)
    assert not torch.allclose(model(noisy, t).final[:2], together[:2])


def test_all_weights_of_a_text_s_condition_have_gradients() -> None:
    model, (noisy, t, _) = random_model(TEXT), batch()
    torch.autograd.backward(model(noisy, t, texts()).final.square().sum())
    assert all(weight.grad is not None and weight.grad.any() for weight in model.parameters())


def test_no_label_is_the_last_one() -> None:
    model, (noisy, t, labels) = random_model(CONFIG), batch()
    nothing = model(noisy, t).final
    assert torch.equal(nothing, model(noisy, t, torch.full((3,), CLASSES)).final)
    assert not torch.allclose(nothing, model(noisy, t, labels).final)


def test_gradients_are_those_of_finite_differences() -> None:
    config = replace(CONFIG, width=8, depth=2, heads=1, head_width=8, head_depth=1, head_heads=2, early_depth=1)
    model, (noisy, t, labels) = random_model(config), batch(1)

    def outputs(noisy: Tensor, t: Tensor) -> tuple[Tensor, ...]:
        found = model(noisy, t, labels)
        return found.final.sum((2, 3)), found.early.sum((2, 3))

    assert torch.autograd.gradcheck(outputs, (noisy.requires_grad_(), t.requires_grad_()))
    torch.autograd.backward([part.square().sum() for part in outputs(noisy, t)])
    unused = [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert unused == []


def test_it_starts_at_zero_and_learns_from_there() -> None:
    model = DiTDH(replace(GENERATORS["tiny"], early_depth=1), CHANNELS, GRID, CLASSES)
    noisy, t, labels = batch()
    found = model(noisy.float(), t.float(), labels)
    assert not found.final.any() and not found.early.any()
    torch.autograd.backward((found.final - 1).square().mean() + (found.early - 1).square().mean())
    assert model.last.linear.weight.grad is not None and model.last.linear.weight.grad.any()
    assert (
        model.early is not None and model.early.linear.weight.grad is not None and model.early.linear.weight.grad.any()
    )


@pytest.mark.parametrize(("name", "count"), [("dit_dh_xl", 838_380_628), ("dit_dh_s", 196_357_204)])
def test_published_sizes(name: str, count: int) -> None:
    """The trained weights of RAE's own code at these sizes; it counts its fixed tables too, 0.3 M and 0.1 M."""
    with torch.device("meta"):
        model = DiTDH(GENERATORS[name], 768, 16, 1000)
    assert sum(weight.numel() for weight in model.parameters()) == count
    table = model.state_dict()["condition.embedding.weight"]
    assert len(table) == 1001
    # What follows from the sizes is not saved with the weights.
    assert {"positions", "turns", "head_turns"}.isdisjoint(model.state_dict())


def test_classes_are_asked_for_where_there_are_none() -> None:
    with pytest.raises(UserError, match=r"generator\.condition=none"):
        DiTDH(CONFIG, CHANNELS, GRID)
    with pytest.raises(UserError, match=r"generator\.early_depth"):
        DiTDH(replace(CONFIG, early_depth=3), CHANNELS, GRID, CLASSES)
    with pytest.raises(UserError, match=r"generator\.condition=text needs a text encoder"):
        DiTDH(TEXT, CHANNELS, GRID)
