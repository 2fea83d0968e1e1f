"""Sweeps from Python: what is refused before anything runs."""

from __future__ import annotations

import errno
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from done_trials import finish, spec_of
from hook import hook

from drorae.commands.main import main
from drorae.config import TrialConfig
from drorae.errors import DiskFullError, UserError
from sweeps.driver import run
from sweeps.driver.run import resume_sweep, run_sweep
from sweeps.folder.sweep import read_record
from sweeps.spec import Axis, SweepSpec, expand

FULL = OSError(errno.ENOSPC, "No space left on device")


def test_a_driver_on_a_full_disk_names_the_sweeps_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, content: bytes) -> int:
        self.touch()
        raise FULL

    monkeypatch.setattr(Path, "write_bytes", full)
    spec = SweepSpec("mine", TrialConfig(), (Axis("capacity", (8,)),))
    with pytest.raises(DiskFullError, match=f"^{tmp_path}/mine: the disk is full"):
        run_sweep(spec, root=tmp_path, quiet=True)
    assert not any(path.is_file() for path in tmp_path.rglob("*"))


def test_where_no_sweep_is_nothing_is_resumed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no sweep here"):
        resume_sweep(tmp_path / "mine", quiet=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_failures": -1}, "max_failures"),
        ({"budget_hours": -1.0}, "budget_hours"),
        ({"pruner": "hope"}, "none, median, hyperband, asha"),
        ({"notify": "no-such-program --token abc"}, "^notify: no-such-program: no such program; [^\\n]*$"),
    ],
)
def test_settings_are_checked_before_a_folder_is_made(tmp_path: Path, settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        run_sweep(spec_of("mine"), root=tmp_path / "runs", quiet=True, **settings)
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_sweep_that_is_done_needs_no_cluster(new_store: Callable[[Path], str], tmp_path: Path) -> None:
    spec = spec_of("mine")
    for config in expand(spec):
        finish(tmp_path / "mine" / "trials", config)
    outcome = run_sweep(spec, root=tmp_path, tracking_uri=new_store(tmp_path), quiet=True)
    assert outcome.counts == {"finished": 2} and outcome.place == str(tmp_path / "mine")
    assert outcome.trials_csv.read_text().count("finished") == 2
    record = read_record(tmp_path / "mine")
    assert record.spec == spec and record.tracking and record.tracking.parent_run_id == outcome.parent_run_id
    again = resume_sweep(tmp_path / "mine", tracking_uri=outcome.tracking_uri, quiet=True)
    assert again == outcome


@pytest.mark.slow
def test_a_command_is_told_of_the_end_by_every_call_that_names_it_and_is_kept_nowhere(
    new_store: Callable[[Path], str], tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, told = tmp_path / "runs", tmp_path / "told"
    notify = shlex.join(hook(told, "s3cret"))
    spec = spec_of("mine")
    for config in expand(spec):
        finish(root / "mine" / "trials", config)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", new_store(root))
    outcome = run_sweep(spec, root=root, quiet=True, notify=notify)
    line = f"finished mine: 2 finished; results in {outcome.place}\n"
    assert told.read_text() == line
    assert resume_sweep(root / "mine", quiet=True) == outcome and told.read_text() == line
    words = ["resume", "mine", "--root", str(root), "--no-fit", "--notify"]
    assert main([*words, notify]) == 0 and told.read_text() == line + line
    # One that fails is said, without its arguments, and takes nothing from the sweep.
    capfd.readouterr()
    assert main([*words, f"{sys.executable} -c 'raise SystemExit(3)' s3cret"]) == 0
    said = [text for text in capfd.readouterr().err.splitlines() if text.startswith("notify: ")]
    assert len(said) == 1 and "ended with exit code 3 when told of finished" in said[0]
    kept = [path for path in root.rglob("*") if path.is_file() and b"s3cret" in path.read_bytes()]
    assert kept == []


def test_a_second_sweep_in_one_process_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    with run._ONE, pytest.raises(UserError, match="mine: another sweep is running in this process") as refused:
        run_sweep(spec_of("mine"), root=tmp_path / "runs", quiet=True)
    assert "\n" not in str(refused.value) and not (tmp_path / "runs").exists()
    with pytest.raises(UserError, match="max_failures"):
        run_sweep(spec_of("mine"), root=tmp_path / "runs", quiet=True, max_failures=-1)
