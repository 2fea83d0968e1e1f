"""A sweep that is given credentials wherever it takes them, and told more by errors, writes none of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from records import empty_records

from drorae.config import PRESETS, Runtime, override
from drorae.storage.remote import Remote, copies
from sweeps.driver.run import run_sweep
from sweeps.spec import Axis, SweepSpec

ROOT = Path(__file__).resolve().parents[2]
SECRET = "s3cret"
SPEC = SweepSpec("mine", override(PRESETS["smoke"], "encoder.path", "leak=4&user=16"), (Axis("capacity", (4, 8, 16)),))


def start(root: str) -> None:
    """A driver that is called in a process of its own."""
    run_sweep(
        SPEC,
        root=root,
        runtime=Runtime(cache_dir=f"{root}-cache"),
        max_failures=0,
        run_trial="fake_trial:run_trial",
        prepare="fake_trial:prepare",
    )


def test_no_text_that_a_sweep_writes_holds_a_credential(
    store: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [str(ROOT), str(ROOT / "tests" / "support"), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    own = {
        "PYTHONPATH": os.pathsep.join(paths),
        "DRORAE_LOCAL_CACHE": str(tmp_path / "local"),
        "AWS_SECRET_ACCESS_KEY": f"{SECRET}/of+the/store",
        "AWS_SESSION_TOKEN": f"{SECRET}-token",
        "MLFLOW_TRACKING_USERNAME": "alice",
        "MLFLOW_TRACKING_PASSWORD": SECRET,
        "MLFLOW_TRACKING_TOKEN": SECRET,
    }
    root = store / "runs"
    monkeypatch.setenv("DRORAE_LOCAL_CACHE", own["DRORAE_LOCAL_CACHE"])
    empty_records(copies(root, "driver"))
    code = f"import test_secrets; test_secrets.start({str(root)!r})"
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | own, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr
    written = {str(path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    written |= {name: (root / name).read() or b"" for name in root.files()}
    written |= {"stdout": done.stdout, "stderr": done.stderr}
    # What went wrong is said all the same.
    assert b"no answer from postgresql://" in done.stderr
    assert any(name.endswith("mlflow.db") for name in written) and any("error-" in name for name in written)
    assert [name for name, content in written.items() if SECRET.encode() in content] == []
