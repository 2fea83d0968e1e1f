"""Times and progress in words."""

from __future__ import annotations

import math
from dataclasses import replace

from sweeps.driver.console import PROGRESS_COLUMNS, duration, progress_cells
from sweeps.folder.progress import RunningTrial


def test_duration() -> None:
    shown = {0: "0 s", 0.4: "0 s", 59.6: "60 s", 119.4: "119 s", 119.5: "2 min", 3599: "60 min", 7169: "119 min"}
    shown |= {7170: "2.0 h", 11520: "3.2 h", 360000: "100.0 h"}
    assert {seconds: duration(seconds) for seconds in shown} == shown


def test_a_running_trial_in_cells_leaves_out_what_is_not_known() -> None:
    known = RunningTrial("capacity=8", "phase2", 5, 10, "", 0.123456, 1234.5, 2.5e9)
    assert progress_cells(known) == ("capacity=8", "phase2", "5/10", "0.123", "1,234", "2.5 GB")
    assert len(progress_cells(known)) == len(PROGRESS_COLUMNS)
    seen = replace(known, held_out_psnr=24.567)
    assert progress_cells(seen)[2] == "5/10, PSNR 24.57"
    assert progress_cells(replace(seen, total_steps=0, note="measuring"))[2] == "measuring", "not while it is measured"
    noted = RunningTrial("capacity=8", "prepare", 0, 0, "encoding 3 of 10", math.nan)
    assert progress_cells(noted) == ("capacity=8", "prepare", "encoding 3 of 10", "nan", "", "")
