"""Sets of images tell how many of them have been looked at, one set after the other."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from drorae.training.loop import Row
from drorae.trial.image_sets import ImageSet, Progress, in_parts


def black(count: int) -> ImageSet:
    """So many images of 2 px, four at once."""

    def part(items: range, size: int) -> Iterator[torch.Tensor]:
        for batch in in_parts(items, size):
            yield torch.zeros(len(batch), 3, 2, 2, dtype=torch.uint8)

    return ImageSet(count, 4, part)


def test_progress_grows_over_all_sets_whether_looked_at_or_not() -> None:
    rows: list[Row] = []
    progress = Progress(rows.append, "controls", "measuring", 10 + 20 + 8)
    first = progress.watch(black(10))
    assert [len(batch) for batch in first.part(range(10), 4)] == [4, 4, 2]
    # Its features were at hand.
    progress.watch(black(20))
    last = progress.watch(black(8))
    # One of two processes, whose part is the second half.
    assert [len(batch) for batch in last.part(range(4, 8), 2)] == [2, 2]
    assert [row["done"] for row in rows] == [0, 0, 4, 8, 30, 34]
    assert {(row["phase"], row["note"], row["total"]) for row in rows} == {("controls", "measuring", 38.0)}
