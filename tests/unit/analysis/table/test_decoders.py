"""Laws go through trials of one phase-1 decoder."""

from __future__ import annotations

import pandas as pd
import pytest

from analysis.inference.analysis import analyse
from analysis.inference.designs import compare_designs
from analysis.table.columns import arrange
from analysis.table.selection import select
from drorae.errors import UserError


def runs(**columns: object) -> pd.DataFrame:
    """Six sizes."""
    sizes = [1e6, 2e6, 4e6, 8e6, 1.6e7, 3.2e7]
    return pd.DataFrame({"params": sizes, "psnr": [20.0, 20.4, 20.5, 21.0, 21.2, 21.7], **columns})


MIXED = ["a", "a", "a", "a", "b", "b"]


def codes(frame: pd.DataFrame) -> set[str]:
    return {warning.code for warning in analyse(frame, "params", "psnr").cautions}


def test_a_law_goes_through_trials_of_one_decoder() -> None:
    with pytest.raises(UserError, match=r"a \(4 rows\), b \(2 rows\).*--mix-decoders"):
        analyse(runs(phase1_weights=MIXED), "params", "psnr")
    assert "mixed-decoders" in codes(arrange(runs(phase1_weights=MIXED), mix_decoders=True))
    known = arrange(runs(phase1_weights=MIXED), ["phase1_weights=a"])
    assert not {"mixed-decoders", "unknown-decoders"} & codes(known)
    # Rows of older versions are not known to differ.
    assert "unknown-decoders" in codes(runs(phase1_weights=["a", "a", None, "a", "", "a"]))
    assert not {"mixed-decoders", "unknown-decoders"} & codes(runs(phase1_weights=[None] * 6))
    # What is not fitted does not count.
    status = ["finished"] * 4 + ["diverged"] * 2
    assert len(select(runs(phase1_weights=MIXED, status=status), "params", "psnr").used) == 4


def test_decoders_that_differ_on_purpose_are_told_apart() -> None:
    depths = runs(phase1_weights=list("abcdef"), **{"decoder.depth": [2, 3, 4, 5, 6, 7]})
    assert len(analyse(depths, "decoder.depth", "psnr").selection.used) == 6
    assert "mixed-decoders" in codes(depths), "each size has its own"
    repeated = pd.concat([depths.assign(seed=0), depths.assign(seed=1)], ignore_index=True)
    assert len(analyse(repeated, "decoder.depth", "psnr").selection.used) == 12
    with pytest.raises(UserError, match="different phase-1 decoders"):
        analyse(repeated.assign(phase1_weights=list("abcdefabcdeg")), "decoder.depth", "psnr")
    # Another place of the same weights asks for no other decoder.
    with pytest.raises(UserError, match="different phase-1 decoders"):
        analyse(runs(phase1_weights=MIXED, **{"encoder.path": MIXED}), "params", "psnr")
    crossed = pd.concat([runs(phase1_weights="a"), runs(phase1_weights="b")], ignore_index=True)
    crossed["decoder.depth"] = [2] * 6 + [3] * 6
    with pytest.raises(UserError, match="where decoder.depth=2"):
        analyse(crossed, "params", "psnr")
    assert compare_designs(crossed, "params", "psnr", "decoder.depth").differences
    crossed["variant"] = ["energy"] * 6 + ["softmax"] * 6
    with pytest.raises(UserError, match="different phase-1 decoders"):
        compare_designs(crossed.drop(columns="decoder.depth"), "params", "psnr", "variant")
