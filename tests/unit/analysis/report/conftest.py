"""A fit of two metrics with its report."""

from __future__ import annotations

import pytest
from PIL import Image
from tables import sweep

from analysis.report.outcome import FitOutcome, fit_table


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> FitOutcome:
    folder = tmp_path_factory.mktemp("report")
    Image.new("RGB", (4, 4), (200, 30, 30)).save(folder / "grid.png")
    return fit_table(
        sweep(), "params", ["psnr", "rfd_dinov2"], out=folder / "out", title="A <script>alert(1)</script> sweep",
        images={"original / phase 1 / fused": folder / "grid.png"}, command="drorae fit trials.csv --x params",
    )  # fmt: skip
