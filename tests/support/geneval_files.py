"""Files of results as GenEval's evaluator writes them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from drorae.metrics.geneval import TAGS

ABILITY = {"single_object": 0.95, "two_object": 0.5, "counting": 0.4, "colors": 0.8, "position": 0.1, "color_attr": 0.2}


def result(tag: str, prompt: int, image: int, correct: bool) -> dict[str, Any]:
    """What the evaluator says of an image."""
    said = {"tag": tag, "include": [{"class": "bench", "count": 1}], "prompt": f"a photo of {tag} {prompt}"}
    return {
        "filename": f"images/{TAGS.index(tag)}{prompt:04}/samples/{image:04}.png",
        "tag": tag,
        "prompt": said["prompt"],
        "correct": correct,
        "reason": "" if correct else "expected bench>=1, found 0",
        "metadata": json.dumps(said),
        "details": json.dumps({"bench": [[1.0, 2.0, 30.0, 40.0, 0.9]]}),
    }


def results(prompts: int, images: Sequence[int], seed: int = 0, better: float = 0.0) -> list[dict[str, Any]]:
    """Results of all tags, in the order of no tag: prompts differ in how hard they are, so that their images agree.

    Args:
        prompts: of each tag.
        images: how many images a prompt has, by turns.
        seed: of the draws.
        better: is added to the share of every tag.
    """
    draw = np.random.default_rng(seed)
    rows = []
    for tag in TAGS:
        share = min(ABILITY[tag] + better, 0.99)
        for prompt in range(prompts):
            easy = draw.beta(2 * share, 2 * (1 - share))
            rows += [
                result(tag, prompt, image, bool(draw.random() < easy)) for image in range(images[prompt % len(images)])
            ]
    return [rows[i] for i in draw.permutation(len(rows))]


def write_results(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Writes them as pandas does for the evaluator, with slashes escaped."""
    path.write_text("".join(json.dumps(row, separators=(",", ":")).replace("/", "\\/") + "\n" for row in rows))
    return path
