"""GenEval's score of text-to-image models (arXiv 2310.11513), from the results of its own evaluator.

`evaluation/evaluate_images.py` of github.com/djghosh13/geneval writes an object per image in a line of JSON. Imports
nothing but the standard library.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drorae.errors import UserError
from drorae.metrics.registry import COUNT

NAME = "geneval"
TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
"""Of what kind a prompt is."""
_FIELDS = {"filename": str, "tag": str, "correct": bool, "metadata": str}
"""What is read of an image, and what kind of value it has."""
_WORDS = {str: "text", bool: "true or false"}
_REMEDY = "give the file that GenEval's evaluate_images.py wrote, whole and as it is"


@dataclass(frozen=True)
class GenEval:
    """What a file of results says."""

    metrics: dict[str, float]
    """The score (`geneval`) and the shares of the tags (`geneval_counting`, ...), each with its standard error (`_se`)
    and number of images (`_images`)."""
    images: int
    prompts: int
    sha256: str
    """Of the file."""


@dataclass
class _Prompt:
    images: int = 0
    correct: int = 0


def read_geneval(path: str | Path) -> GenEval:
    """Reads the results of GenEval's evaluator, line by line, and scores them as its summary_scores.py does.

    A tag's share is that of its images that are correct; the score is the plain mean of the six shares. Images are
    told to be of one prompt by `metadata`, as there.

    Raises:
        UserError: the file cannot be read or is empty; a line is damaged, lacks a field, has another tag than GenEval's
            or an image that another line has; a tag without images.
    """
    digest = hashlib.sha256()
    tags: dict[str, dict[str, _Prompt]] = {tag: defaultdict(_Prompt) for tag in TAGS}
    lines: dict[str, int] = {}
    try:
        with Path(path).open("rb") as stream:
            for number, row in _rows(path, stream, digest.update):
                first = lines.setdefault(row["filename"], number)
                if first < number:
                    raise UserError(
                        f"{path}, line {number}: {row['filename']!r} again, the image of line {first}; {_REMEDY}"
                    )
                prompt = tags[row["tag"]][row["metadata"]]
                prompt.images += 1
                prompt.correct += row["correct"]
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); {_REMEDY}") from None
    if not lines:
        raise UserError(f"{path}: no results in it; {_REMEDY}")
    if missing := [tag for tag in TAGS if not tags[tag]]:
        raise UserError(
            f"{path}: no images of {', '.join(missing)}, and the score is of all six tags; evaluate images of all of "
            "GenEval's prompts"
        )
    return GenEval(_metrics(tags), len(lines), sum(map(len, tags.values())), digest.hexdigest())


def _rows(
    path: str | Path, stream: Iterable[bytes], seen: Callable[[bytes], object]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields the number of every line that is not blank, and its object; `seen` takes all lines."""
    for number, line in enumerate(stream, 1):
        seen(line)
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            raise UserError(f"{path}, line {number}: damaged, not JSON; {_REMEDY}") from None
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {number}: not a JSON object; {_REMEDY}")
        for name, kind in _FIELDS.items():
            if not isinstance(row.get(name), kind):
                found = f"{name} is {json.dumps(row[name])[:40]}" if name in row else f"no {name}"
                raise UserError(f"{path}, line {number}: {found}, expected {_WORDS[kind]}; {_REMEDY}")
        if row["tag"] not in TAGS:
            raise UserError(
                f"{path}, line {number}: tag {row['tag']!r} is none of GenEval's ({', '.join(TAGS)}); {_REMEDY}"
            )
        yield number, row


def _metrics(tags: Mapping[str, Mapping[str, _Prompt]]) -> dict[str, float]:
    """The metrics of a `GenEval`.

    The standard error is over other prompts of the kind and other images of each: images of one prompt are not
    independent, prompts are. With n_i images of prompt i of m, k_i of them correct, N = sum n_i and the share
    p = sum k_i / N, the ratio estimator's variance (Cochran, Sampling Techniques, 3rd ed., chapter 6) is

        var(p) = m / (m - 1) * sum (k_i - p n_i)^2 / N^2,

    the cluster-robust one of arXiv 2411.00640 with m / (m - 1) for few clusters. Where all n_i are equal it is that of
    the mean of the prompts' shares. Tags share no prompt, so the score's is sum var(p) / 36. Of a tag with a single
    prompt there is none, nor of the score then.
    """
    metrics: dict[str, float] = {}
    shares, variances = [], []
    for tag, found in tags.items():
        prompts, count = found.values(), sum(prompt.images for prompt in found.values())
        share, m = sum(prompt.correct for prompt in prompts) / count, len(found)
        squares = math.fsum((prompt.correct - share * prompt.images) ** 2 for prompt in prompts)
        variance = m / (m - 1) * squares / count**2 if m > 1 else math.nan
        metrics |= _described(f"{NAME}_{tag}", share, variance, count)
        shares.append(share)
        variances.append(variance)
    images = sum(prompt.images for found in tags.values() for prompt in found.values())
    score = math.fsum(shares) / len(TAGS)
    return _described(NAME, score, math.fsum(variances) / len(TAGS) ** 2, images) | metrics


def _described(name: str, value: float, variance: float, images: int) -> dict[str, float]:
    error = {} if math.isnan(variance) else {f"{name}_se": math.sqrt(variance)}
    return {name: value, **error, f"{name}{COUNT}": float(images)}
