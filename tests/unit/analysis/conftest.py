"""The paper's table, analysed."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis.inference.analysis import Analysis, analyse
from analysis.table.files import read_table

PAPER = Path(__file__).resolve().parents[3] / "results" / "paper" / "capacity.csv"


@pytest.fixture(scope="module")
def paper() -> Analysis:
    return analyse(read_table(PAPER), "params", "rfid")
