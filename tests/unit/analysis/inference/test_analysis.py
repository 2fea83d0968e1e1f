"""Everything that is said of one metric against one size, of the paper's points and of four."""

from __future__ import annotations

import doctest
import json

import pandas as pd
import pytest

import analysis.inference.analysis
import analysis.laws.curves
import analysis.laws.intervals
from analysis.inference.analysis import Analysis, analyse
from analysis.inference.cautions import fit_flags
from analysis.report.trees import fit_tree


@pytest.mark.parametrize("module", [analysis.laws.curves, analysis.inference.analysis, analysis.laws.intervals])
def test_examples_in_the_documentation(module: object) -> None:
    done = doctest.testmod(module)  # type: ignore[arg-type]
    assert done.attempted > 0 and done.failed == 0


def test_the_papers_points(paper: Analysis) -> None:
    words = {item.claim.split(":")[0]: item for item in paper.verdicts}
    assert words["log-linear"].verdict == "supported"
    assert words["no saturation"].verdict == "undecided" and words["no saturation"].would_decide
    assert "the 5 smallest predict the 3 largest" in words
    envelope = paper.back_tests[0]
    assert (envelope.trained, len(envelope.held_out), envelope.hits) == (5, 3, 3)
    # The power law with offset runs to the end of its search, where it is the logarithm.
    offset = paper.comparison.find("power-offset")
    assert offset is not None and offset.at_bound == ("b",)
    assert "at-bound" in [item.code for item in fit_flags(offset)]


def test_four_configurations_carry_a_line_and_say_little() -> None:
    frame = pd.DataFrame({"params": [1e5, 1e6, 1e7, 1e8], "rfid": [0.6, 0.52, 0.49, 0.41]})
    found = analyse(frame, "params", "rfid")
    assert [fit.name for fit in found.comparison.fits] == ["log-linear", "power"]
    assert found.back_tests == () and found.verdicts[1].verdict == "undecided"
    json.dumps(fit_tree(found), allow_nan=False)
