"""Guidance: velocity fields, and fields made of a better and a worse one.

All guidance here is bad + w (good - bad), with a worse field `bad` of the same x_t: w = 1 is no guidance, w > 1 leads
away from what the worse one would do.

- Classifier-free (Ho and Salimans, arXiv 2207.12598): bad is the same model without the condition, so
  v_none + w (v_class - v_none).
- AutoGuidance (Karras et al., arXiv 2406.02507): bad is a worse model, smaller or less trained, or an earlier
  average of the same run, under the same condition. RAE: w = 1.42, DiT^DH-S after 14 epochs, all t; DRoRAE: w = 1.5, a
  DiT^DH-S whose epoch it does not give.
- Internal (RAEv2, arXiv 2605.18324): bad is the model's own output at an early depth. RAEv2: w = 1.78, t in [0.1, 1].

Guidance can be limited to an interval of t, both ends in it (Kynkaanniemi et al., arXiv 2404.07724); elsewhere the good
field counts alone. The times are those of x_t, shifted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from drorae.config import GeneratorConfig
from drorae.errors import UserError
from drorae.generation.transport import Model, like_images, velocity

Field = Callable[[Tensor, Tensor], Tensor]
"""x_t [B, ...], times [B] -> velocities [B, ...]."""
Interval = tuple[float, float]
ALWAYS = (0.0, 1.0)
Kind = Literal["none", "cfg", "autoguidance", "internal"]


def _check_interval(interval: Interval) -> Interval:
    low, high = interval
    if not low < high:
        raise UserError(f"guidance interval: {low:g} to {high:g} holds no time; give the lower end first, from 0 to 1")
    return interval


@dataclass(frozen=True)
class Guidance:
    """Which guidance, and how much of it.

    Raises:
        UserError: an interval that holds no time.
    """

    kind: Kind = "none"
    scale: float = 1.0
    interval: Interval = ALWAYS

    def __post_init__(self) -> None:
        _check_interval(self.interval)

    @classmethod
    def parse(cls, text: str, interval: Interval = ALWAYS) -> Guidance:
        """Returns what a text such as autoguidance=1.5 says.

        Raises:
            UserError: no such guidance, or no number where one is needed.
        """
        name, _, scale = text.partition("=")
        kinds = {kind: kind for kind in get_args(Kind)}
        if name not in kinds:
            raise UserError(f"guidance {text}: no such guidance; choose none, or one of cfg, autoguidance, internal =W")
        if (name == "none") != (not scale):
            raise UserError(f"guidance {text}: expected none, or NAME=W such as autoguidance=1.5")
        try:
            return cls(kinds[name], float(scale or 1), interval)
        except ValueError:
            raise UserError(f"guidance {text}: expected a number after {name}=, such as 1.5") from None

    def __str__(self) -> str:
        return self.kind if self.kind == "none" else f"{self.kind}={self.scale:g}"


UNGUIDED = Guidance()


class Network(NamedTuple):
    """A generator that samples."""

    model: Model
    config: GeneratorConfig


def field(model: Model, config: GeneratorConfig, given: Tensor | None) -> Field:
    """Returns a model's velocity field under a condition [B, ...], or without one (None)."""

    def found(noisy: Tensor, t: Tensor) -> Tensor:
        return velocity(config, model(noisy, t, given).final, noisy, t)

    return found


def _led(good: Tensor, bad: Tensor, scale: float) -> Tensor:
    return bad + scale * (good - bad)


def _inside(t: Tensor, interval: Interval) -> Tensor:
    """Which times [B] are in an interval. Raises UserError where it is empty."""
    low, high = _check_interval(interval)
    return (t >= low) & (t <= high)


def guided(good: Field, bad: Field, scale: float, interval: Interval = ALWAYS) -> Field:
    """Returns bad + scale (good - bad) at times within an interval and good at others, where bad is not computed.

    Classifier-free guidance and AutoGuidance, as `bad` is one or the other.

    Raises:
        UserError: when called with an interval that holds no time.
    """

    def found(noisy: Tensor, t: Tensor) -> Tensor:
        inside, velocities = _inside(t, interval), good(noisy, t)
        if not inside.any():
            return velocities
        return torch.where(like_images(inside, noisy), _led(velocities, bad(noisy, t), scale), velocities)

    return found


def classifier_free(
    model: Model, config: GeneratorConfig, given: Tensor, scale: float, interval: Interval = ALWAYS
) -> Field:
    """Returns the field of a model guided by itself without its condition.

    Raises:
        UserError: when nothing was ever hidden from the model, so that it does not know what no condition is.
    """
    if config.condition == "none" or config.class_dropout == 0:
        hidden = "text" if config.condition == "text" else "class"
        raise UserError(
            f"classifier-free guidance: the generator was trained without a hidden {hidden} "
            f"(generator.condition={config.condition}, generator.class_dropout={config.class_dropout:g}); "
            "use autoguidance, or train one with class_dropout above 0"
        )
    return guided(field(model, config, given), field(model, config, None), scale, interval)


def internal(
    model: Model, config: GeneratorConfig, given: Tensor | None, scale: float, interval: Interval = ALWAYS
) -> Field:
    """Returns the field of a model guided by its own second output, in one pass.

    Raises:
        UserError: when the model has none.
    """
    if not config.early_depth:
        raise UserError(
            "internal guidance: the generator has no second output; train one with generator.early_depth above 0"
        )

    def found(noisy: Tensor, t: Tensor) -> Tensor:
        inside, (final, early) = _inside(t, interval), model(noisy, t, given)
        good = velocity(config, final, noisy, t)
        if early is None or not inside.any():
            return good
        bad = velocity(config, early, noisy, t)
        return torch.where(like_images(inside, noisy), _led(good, bad, scale), good)

    return found


def _reading(config: GeneratorConfig) -> tuple[str, int]:
    """How a generator reads texts."""
    return config.text_encoder, config.text_tokens


def lead(guidance: Guidance, good: Network, bad: Network | None, given: Tensor | None) -> Field:
    """Returns the field that a guidance makes of a generator.

    Args:
        guidance: which, and how much.
        good: the generator.
        bad: the worse one of AutoGuidance; others need none.
        given: labels [B], or states of texts [B, L, D]; None: nothing is said.

    Raises:
        UserError: the guidance needs what the generator lacks: a hidden class or text, a second output, a worse
            generator, or one that reads texts through the same encoder.
    """
    scale, interval = guidance.scale, guidance.interval
    if guidance.kind == "cfg":
        if given is None:
            raise UserError(
                "classifier-free guidance: no class or prompt is given to lead towards; use autoguidance or internal"
            )
        return classifier_free(good.model, good.config, given, scale, interval)
    if guidance.kind == "internal":
        return internal(good.model, good.config, given, scale, interval)
    plain = field(good.model, good.config, given)
    if guidance.kind == "none":
        return plain
    if bad is None:
        raise UserError("autoguidance: there is no worse generator; name one of the trial's with --bad")
    # One that was told something else, or nothing, has no use for it.
    told = given if bad.config.condition == good.config.condition else None
    if told is not None and _reading(bad.config) != _reading(good.config):
        raise UserError(
            "autoguidance: the worse generator reads texts in another way; name one with the same "
            "generator.text_encoder and generator.text_tokens"
        )
    return guided(plain, field(bad.model, bad.config, told), scale, interval)
