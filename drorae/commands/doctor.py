"""`drorae doctor`: what is installed, which devices there are, what is missing and how to get it."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drorae.commands.options import Folder, JsonOption
from drorae.commands.terminal import show, terminal_width
from drorae.config import Runtime
from drorae.runtime.shell import command


@dataclass(kw_only=True)
class Doctor(JsonOption):
    """Say what is installed, which devices there are, where caches and weights are, and what is missing.

    Exit code 1 where the default preset lacks something it cannot run without.
    """

    root: Folder = Path("runs")
    """Folder of all sweeps."""

    def run(self) -> int:
        """Prints the findings."""
        from drorae.machine.doctor import examine

        found = examine(Runtime(), self.root)
        self.answer(found, lambda: _print(found))
        return 1 if any(item["essential"] for item in found["missing"]) else 0


def _print(found: dict[str, Any]) -> None:
    devices, cache, mlflow = found["devices"], found["cache"], found["mlflow"]
    cards = ", ".join(f"{card['name']} ({card['memory_gb']} GB)" for card in devices["cuda"])
    sizes = ", ".join(f"{name} {size:g} GB" for name, size in cache["gb"].items()) or "empty"
    state = {True: "there", False: "not there yet", None: "a server"}[mlflow["exists"]]
    rows = [
        ("drorae", f"{found['drorae']} on Python {found['python']}, {found['platform']}"),
        ("packages", _listed(found["packages"])),
        ("optional", _listed(found["optional"])),
        ("CPU", f"{devices['cpus']} cores, {devices['memory_gb']} GB of memory"),
        ("GPU", cards or "none that torch sees"),
        *((name, path or "not there") for name, path in found["weights"].items()),
        ("cache", f"{cache['directory']} ({sizes}; {cache['free_gb']} GB free)"),
        ("runs", f"{found['runs']['directory']} ({found['runs']['free_gb']} GB free)"),
        ("MLflow", f"{mlflow['uri']} ({state})"),
        ("telemetry", ", ".join(f"{name}={value}" for name, value in found["telemetry"].items())),
    ]
    width = max(len(name) for name, _ in rows) + 2
    # A narrow terminal has no room for a column beside the names.
    hang = width if (terminal_width(sys.stdout) or 0) >= 100 else 4
    kept = [cache["directory"], found["runs"]["directory"], mlflow["uri"], *filter(None, found["weights"].values())]
    for name, value in rows:
        show(f"{name:{width}}{value}", kept, hang)
    for item in found["missing"]:
        kind, remedy = "missing" if item["essential"] else "optional", item["remedy"]
        show(f"{kind}: {item['what']}\n    {remedy}", keep=[remedy] if " -m pip install " in remedy else [])
    if not any(item["essential"] for item in found["missing"]):
        start = command("sweep", "--preset", "quickstart")
        show(f"ready: {start}", keep=[start])


def _listed(versions: dict[str, str | None]) -> str:
    return ", ".join(f"{name} {version or 'MISSING'}" for name, version in versions.items())
