"""A sweep that drorae 0.1.0 (commit 0f36692) began."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

BEGUN = Path(__file__).parent.parent / "data" / "sweep-0f36692"
"""Trials of four widths on images.npz (`tiny_images`), of which two are done; without weights and pictures."""


def read_tree(folder: Path) -> Any:
    return json.loads((folder / "sweep.json").read_text())
