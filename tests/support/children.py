"""Processes of tests that are forked from a server which has torch, timm, pandas, scipy and all of drorae imported.

So each costs little more than its own work: a process that is spawned imports for seconds. Ray and MLflow are not among
what is imported: they start threads, which no fork survives.
"""

from __future__ import annotations

import functools
import multiprocessing
import multiprocessing.forkserver
import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@functools.cache
def forking() -> multiprocessing.context.ForkServerContext:
    """Returns what makes such processes; the server is started at the first call, once in a process of tests.

    They know of this process what is sent to them, and the environment is the server's, as it was at that call.
    """
    context = multiprocessing.get_context("forkserver")
    ours = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for package in ("drorae", "analysis")
        for path in sorted((ROOT / package).rglob("*.py"))
        if not path.name.startswith("__")
    ]
    heavy = [
        *("pytest", "torch", "torchvision", "timm", "pandas", "scipy.stats", "scipy.optimize", "matplotlib.pyplot"),
        *("statsmodels.regression.linear_model", "rich.table", "rich.live", "sweeps.spec", "sweeps.folder.status"),
    ]
    context.set_forkserver_preload([*heavy, *ours])
    before = os.environ.get("PYTHONPATH")
    # The server looks for modules where a new interpreter would, not where this one does.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), str(ROOT / "tests" / "support"), before)))
    try:
        multiprocessing.forkserver.ensure_running()
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before
    return context
