"""Figures are ours, whatever a user's matplotlibrc says, and drawing them is silent."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import matplotlib
import pytest

from analysis.inference.analysis import analyse
from analysis.report.figures import law_figure, save
from drorae.runtime.figures import plain_figures

SETTINGS = {
    "text.usetex": True, "savefig.dpi": 1000, "figure.dpi": 1000, "axes.facecolor": "black", "font.family": "fantasy",
    "font.size": 60, "axes.prop_cycle": "cycler('color', ['ff0000'])", "svg.fonttype": "none",
}  # fmt: skip


def _frame(metric: str) -> object:
    from tables import sweep

    return sweep().rename(columns={"psnr": metric})


@pytest.mark.filterwarnings("error")
def test_a_figure_is_the_same_under_any_settings(tmp_path: Path) -> None:
    made = []
    for name, settings in (("plain", {}), ("theirs", SETTINGS)):
        with matplotlib.rc_context(settings):
            before = dict(matplotlib.rcParams)
            paths = save(law_figure([analyse(_frame("psnr"), "params", "psnr")]), tmp_path / name, "law")  # type: ignore[arg-type]
            assert dict(matplotlib.rcParams) == before
        made.append([path.read_bytes() for path in paths.values()])
    assert made[0] == made[1]


SCRIPTS = ["\u5b57\u5f62", "\u0645\u0642\u064a\u0627\u0633", "\U0001f600 loss", "\u0928\u092e"]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("metric", SCRIPTS)
def test_a_column_in_any_script_is_drawn_without_a_word(
    tmp_path: Path, metric: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert save(law_figure([analyse(_frame(metric), "params", metric)]), tmp_path, "law")["png"].is_file()  # type: ignore[arg-type]
    assert caplog.text == ""


def test_settings_come_back_after_an_error() -> None:
    with matplotlib.rc_context({"font.size": 60}):
        with pytest.raises(ValueError, match="ours"), plain_figures(), plain_figures():
            assert matplotlib.rcParams["font.size"] == 10
            raise ValueError("ours")
        assert matplotlib.rcParams["font.size"] == 60


def test_a_matplotlibrc_and_a_backend_that_are_not_there_do_no_harm(tmp_path: Path) -> None:
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\nsavefig.dpi: 9999\nbackend: qtagg\n")
    (tmp_path / "t.csv").write_text("params,\u5b57\n" + "".join(f"{10**k},{k % 3 + k}\n" for k in range(3, 9)))
    environment = os.environ | {"MPLBACKEND": "module://nowhere", "MATPLOTLIBRC": str(tmp_path)}
    words = ["fit", "t.csv", "--y", "\u5b57", "--out", "law"]
    ended = subprocess.run(
        [sys.executable, "-m", "drorae", *words],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    said = [line for line in ended.stderr.splitlines() if "fitting t.csv" not in line]
    assert ended.returncode == 0 and len(said) == 1 and said[0].startswith("report: ")
