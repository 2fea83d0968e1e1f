"""Sizes of fusions against the paper's printed ones."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

from drorae.config import FusionConfig
from drorae.models.fusion.size import fusion_params, paper_params


def test_sizes_of_the_papers_twenty_configurations() -> None:
    """Tables 8 and 9 print one decimal, unevenly rounded: 113.44 M stands as 113.3."""
    for name in ("capacity.csv", "layers.csv"):
        path = Path(__file__).resolve().parents[5] / "results" / "paper" / name
        with path.open() as stream:
            rows = list(csv.DictReader(stream))
        assert len(rows) == {"capacity.csv": 8, "layers.csv": 12}[name]
        for row in rows:
            hidden, n = int(row["expert_hidden_dim"]), int(row["num_layers"])
            size = paper_params(n, 768, hidden)
            assert abs(size / 1e6 - float(row["fusion_params_printed_millions"])) < 0.15
            assert fusion_params(FusionConfig(expert_hidden_dim=hidden, num_layers=n), 12, 768) == size
    assert paper_params(12, 768, 3072) == 56_779_788


def test_affine_expert_norm_adds_its_parameters() -> None:
    plain = FusionConfig(expert_hidden_dim=32)
    affine = dataclasses.replace(plain, expert_norm="layer_affine")
    assert fusion_params(affine, 12, 64) - fusion_params(plain, 12, 64) == 2 * 12 * 32
