"""What a reader is told beside the numbers of a law."""

from __future__ import annotations

import numpy as np
import pandas as pd
from tables import codes, fit, replicated

from analysis.inference.cautions import cautions
from analysis.laws.line import fit_line
from analysis.table.selection import select


def test_warnings_name_what_is_wrong() -> None:
    x = np.geomspace(1e5, 1e8, 8)
    flat = pd.DataFrame({"params": x, "rfid": [1.0, -1, 1, -1, -1, 1, -1, 1]})
    assert {"slope-includes-zero", "sign-change"} <= set(codes(fit(flat)))
    bent = pd.DataFrame({"params": x, "rfid": 1 / np.log10(x) ** 3})
    assert "curvature" in codes(fit(bent))
    short = pd.DataFrame({"params": [1e6, 2e6, 3e6, 4e6], "rfid": [4, 3.1, 2.2, 1.0]})
    assert {"short-span", "few-configurations"} <= set(codes(fit(short)))
    seeds = replicated(np.random.default_rng(5), seeds=4)
    assert "lack-of-fit" not in codes(fit(seeds, y="psnr"))
    seeds["psnr"] += np.where(seeds["expert_hidden_dim"] == 128, 2.0, 0.0)
    assert "lack-of-fit" in codes(fit(seeds, y="psnr"))


def test_a_line_in_large_sizes_can_show_a_bend() -> None:
    x = np.linspace(1e5, 1e8, 12)
    frame = pd.DataFrame({"params": x, "rfid": 1 - 1e-9 * x + 1e-17 * x**2})
    line = fit_line(select(frame, "params", "rfid", log=False), "linear")
    assert "curvature" in [item.code for item in cautions(line)]


def test_image_files_that_were_left_out_are_a_caution() -> None:
    x = np.geomspace(1e5, 1e8, 8)
    left_out = "2 image files left out: a.png: truncated, b.png: CMYK"
    frame = pd.DataFrame({"params": x, "psnr": np.log10(x), "images_skipped": [left_out] * 8})
    found = cautions(fit(frame, y="psnr"))
    assert [item.message for item in found if item.code == "images-skipped"] == [
        f"the runs were made without some of their images ({left_out})"
    ]
    assert "images-skipped" not in codes(fit(frame.assign(images_skipped=None), y="psnr"))
