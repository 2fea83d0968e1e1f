"""The usage statistics of libraries, and how they are turned off."""

from __future__ import annotations

import os

TELEMETRY = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
}
"""Environment variables that keep libraries from phoning home, and the values the command line gives them."""


def set_telemetry_defaults() -> None:
    """Turns usage statistics off unless the environment says otherwise."""
    for name, value in TELEMETRY.items():
        os.environ.setdefault(name, value)
