"""Running out of memory: told from other errors, and answered with fewer images at once."""

from __future__ import annotations

import pytest
import torch

from drorae.errors import Notice, UserError
from drorae.runtime.out_of_memory import as_user_error, out_of_memory, retry_smaller


def test_what_counts_as_out_of_memory() -> None:
    assert out_of_memory(MemoryError()) and out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"))
    with pytest.raises(RuntimeError, match="allocate memory") as real:
        torch.empty(2**60, dtype=torch.uint8)
    assert out_of_memory(real.value)
    assert not out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="shapes"):
        retry_smaller(8, lambda size: torch.ones(size, 2) @ torch.ones(3, 1), "work")


@pytest.mark.parametrize(("room", "fitted", "tried"), [(8, 8, [8]), (3, 2, [8, 4, 2]), (1, 1, [8, 4, 2, 1])])
@pytest.mark.filterwarnings("ignore::drorae.errors.Notice")
def test_half_as_many_until_they_fit(room: int, fitted: int, tried: list[int]) -> None:
    sizes: list[int] = []

    def work(size: int) -> str:
        sizes.append(size)
        if size > room:
            raise MemoryError("no room")
        return "done"

    assert retry_smaller(8, work, "work") == ("done", fitted)
    assert sizes == tried


def test_where_not_one_fits_or_no_size_helps_the_remedy_is_named() -> None:
    def work(size: int) -> None:
        raise MemoryError("no room")

    with pytest.warns(Notice, match="2 images at once, goes on with 1"), pytest.raises(UserError, match="give each"):
        retry_smaller(2, work, "encoding")
    said = "the optimiser: out of memory .no room.; buy more"
    with pytest.raises(UserError, match=said), as_user_error("the optimiser", "buy more"):
        work(1)
    with pytest.raises(RuntimeError, match="another"), as_user_error("the optimiser"):
        raise RuntimeError("another")
