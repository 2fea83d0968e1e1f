"""The view of a sweep that the MLflow UI opens."""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from typing import Any

from sweeps.tracking.charts import shared_view, view_address


def state(content: str) -> tuple[str, Any]:
    """What the UI makes of a tag's content."""
    kind, _, packed = content.partition(";")
    assert kind == "deflate"
    text = zlib.decompress(base64.b64decode(packed)).decode()
    return text, json.loads(text)


def test_each_metric_has_a_chart_against_the_size_and_a_column() -> None:
    key, content = shared_view(["psnr", "rfd_dinov2"])
    text, view = state(content)
    assert key == hashlib.sha256(text.encode()).hexdigest()
    axes = [(chart["xaxis"]["key"], chart["yaxis"]["key"]) for chart in view["compareRunCharts"]]
    assert axes == [("log10_params", "psnr"), ("log10_params", "rfd_dinov2")]
    (section,) = view["compareRunSections"]
    assert {chart["metricSectionId"] for chart in view["compareRunCharts"]} == {section["uuid"]}
    assert len({chart["uuid"] for chart in view["compareRunCharts"]}) == 2
    assert {"metrics.`psnr`", "metrics.`rfd_dinov2`"} <= set(view["selectedColumns"])


def test_the_same_metrics_have_the_same_view_and_others_another() -> None:
    assert shared_view(["psnr"]) == shared_view(["psnr"]) and shared_view(["psnr"])[0] != shared_view(["ssim"])[0]
    assert view_address("7", "abc") == "#/experiments/7/runs?viewStateShareKey=abc&compareRunsMode=CHART"
