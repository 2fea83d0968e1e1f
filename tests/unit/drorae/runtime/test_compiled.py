"""Compiled functions compute the same, and go on uncompiled where nothing can be compiled."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch._inductor.config

from drorae.errors import Notice
from drorae.runtime import compiled as room
from drorae.runtime.compiled import compiled


@pytest.fixture
def no_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A C++ compiler that fails, and nothing compiled before."""
    monkeypatch.setenv("CXX", "/bin/false")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(room, "_SAID", set())
    torch._dynamo.reset()
    with torch._inductor.config.patch({"cpp.cxx": (None, "/bin/false"), "fx_graph_cache": False}):
        yield
    torch._dynamo.reset()


@pytest.mark.slow
def test_without_a_compiler_one_line_says_so_and_the_numbers_are_the_same(no_compiler: None) -> None:
    weight = torch.randn(6, 6, requires_grad=True)

    def squared(x: torch.Tensor) -> torch.Tensor:
        return (torch.nn.functional.gelu(x @ weight) ** 2).sum()

    def mean(x: torch.Tensor) -> torch.Tensor:
        return torch.sin(x @ weight).mean()

    x = torch.randn(3, 6)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = [compiled(function)(x) for function in (squared, mean)]
    torch.testing.assert_close(found, [squared(x), mean(x)], rtol=0, atol=0)
    notices = [str(item.message) for item in caught if isinstance(item.message, Notice)]
    assert len(notices) == 1 and "\n" not in notices[0]
    assert notices[0].startswith("not compiled, and goes on as it is: ") and "C++ compiler" in notices[0]


def test_what_a_function_raises_is_raised() -> None:
    calls: list[int] = []

    @torch.compiler.disable
    def full(x: torch.Tensor) -> torch.Tensor:
        calls.append(len(x))
        raise torch.OutOfMemoryError("no room")

    with warnings.catch_warnings():
        warnings.simplefilter("error", Notice)
        with pytest.raises(torch.OutOfMemoryError, match="no room"):
            compiled(full)(torch.ones(2))
    assert calls == [2], "a smaller batch may fit: the caller decides"
