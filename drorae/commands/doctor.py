"""`drorae doctor`: what is installed, which devices there are, what is missing and how to get it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import arg

from drorae.commands.options import print_json, results_console
from drorae.config import Runtime


@dataclass(kw_only=True)
class Doctor:
    """Say what is installed, which devices there are, where caches and weights are, and what is missing.

    Exit code 1 where the default preset lacks something it cannot run without.
    """

    root: Annotated[Path, arg(metavar="DIR")] = Path("runs")
    """Folder of all sweeps."""
    as_json: Annotated[bool, arg(name="json")] = False
    """Print everything as one JSON object."""

    def run(self) -> int:
        """Prints the findings."""
        from drorae.doctor import examine

        found = examine(Runtime(), self.root)
        if self.as_json:
            print_json(found)
        else:
            _print(found)
        return 1 if any(item["essential"] for item in found["missing"]) else 0


def _print(found: dict[str, Any]) -> None:
    from rich.markup import escape
    from rich.table import Table

    devices, cache, mlflow = found["devices"], found["cache"], found["mlflow"]
    cards = ", ".join(f"{card['name']} ({card['memory_gb']} GB)" for card in devices["cuda"])
    sizes = ", ".join(f"{name} {size:g} GB" for name, size in cache["gb"].items()) or "empty"
    state = {True: "there", False: "not there yet", None: "a server"}[mlflow["exists"]]
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
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
    for name, value in rows:
        table.add_row(name, escape(value))
    console = results_console()
    console.print(table)
    for item in found["missing"]:
        kind = "missing" if item["essential"] else "optional"
        console.print(f"{kind}: {item['what']}\n    {item['remedy']}", markup=False, soft_wrap=True)
    if not any(item["essential"] for item in found["missing"]):
        console.print("ready: drorae sweep --preset quickstart")


def _listed(versions: dict[str, str | None]) -> str:
    return ", ".join(f"{name} {version or 'MISSING'}" for name, version in versions.items())
