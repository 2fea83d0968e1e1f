"""A view of a sweep in the MLflow UI: its trials by size, and a chart of every metric against log10 of the parameters.

MLflow keeps a shared view in a tag of the experiment and opens it by the key in its address (as of MLflow 3.17).
"""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections.abc import Sequence
from typing import Any

TAG = "mlflow.sharedViewState."
SIZE = "log10_params"


def shared_view(metrics: Sequence[str]) -> tuple[str, str]:
    """Returns the key and the content of the tag that holds the view."""

    def chart(metric: str) -> dict[str, Any]:
        return {
            "type": "SCATTER",
            "uuid": f"drorae-{metric}",
            "metricSectionId": "drorae",
            "runsCountToCompare": 100,
            "deleted": False,
            "isGenerated": False,
            "xaxis": {"key": SIZE, "type": "METRIC"},
            "yaxis": {"key": metric, "type": "METRIC"},
        }

    state = {
        "searchFilter": "tags.`drorae.kind` = 'trial'",
        # MLflow hides trials below their sweep as long as runs are sorted by time.
        "orderByKey": f"metrics.`{SIZE}`",
        "orderByAsc": True,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": [
            f"metrics.`{SIZE}`",
            *(f"metrics.`{metric}`" for metric in metrics),
            "params.`fusion.expert_hidden_dim`",
            "params.`seed`",
        ],
        "runsExpanded": {},
        "runsPinned": [],
        "runsHidden": [],
        "runsVisibilityMap": {},
        "runsHiddenMode": "SHOWALL",
        "compareRunCharts": [chart(metric) for metric in metrics],
        "compareRunSections": [{"uuid": "drorae", "name": "Scaling law", "display": True, "isReordered": False}],
        "isAccordionReordered": True,
        "viewMaximized": False,
        "runListHidden": False,
        "groupBy": None,
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": False,
        "globalLineChartConfig": {},
        "chartsSearchFilter": "",
        "autoRefreshEnabled": False,
    }
    text = json.dumps(state, sort_keys=True)
    content = "deflate;" + base64.b64encode(zlib.compress(text.encode())).decode()
    return hashlib.sha256(text.encode()).hexdigest(), content


def view_address(experiment_id: str, key: str) -> str:
    """Returns the view's page, to be put behind the UI's own address."""
    return f"#/experiments/{experiment_id}/runs?viewStateShareKey={key}&compareRunsMode=CHART"
