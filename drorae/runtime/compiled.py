"""Forward passes through torch.compile, or as they are where that fails."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch

from drorae.errors import Notice, brief

_SAID: set[str] = set()
"""Why something was not compiled, as far as it was said: of one trial every network fails for the same reason."""


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function that computes the same up to rounding, compiled when it is first called.

    Where compiling raises, as it does without a C++ compiler, a `Notice` says so once for each reason, and the function
    is called as it is from then on. What the function itself raises, such as a want of memory, is raised.
    """
    # The adaptive weight takes gradients through one graph twice, which such buffers do not survive.
    torch._functorch.config.donated_buffer = False
    # Drops and noise are drawn as they are uncompiled.
    fast: Callable[..., Any] | None = torch.compile(function, options={"fallback_random": True})

    def call(*arguments: Any) -> Any:
        nonlocal fast
        if fast is not None:
            try:
                return fast(*arguments)
            except torch._dynamo.exc.TorchDynamoException as error:
                fast = None
                _say(error)
        return function(*arguments)

    return call


def _say(error: Exception) -> None:
    reason = brief(error, 160)
    if reason not in _SAID:
        _SAID.add(reason)
        warnings.warn(
            Notice(
                f"not compiled, and goes on as it is: {reason}; mend that (it needs a C++ compiler) or drop --compile"
            ),
            stacklevel=3,
        )
