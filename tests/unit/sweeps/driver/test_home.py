"""Where a sweep lives: its folder, which one driver at a time works in."""

from __future__ import annotations

from pathlib import Path

import pytest
from done_trials import finish, spec_of
from unwritable import public_folder, unwritable

from drorae.commands.main import main
from drorae.config import config_hash
from drorae.errors import UserError
from drorae.storage.files import write_json
from sweeps.driver.home import DRIVER_FILES, Home
from sweeps.driver.run import resume_sweep
from sweeps.driver.status import sweep_state
from sweeps.folder.lease import read_lease
from sweeps.folder.sweep import SweepRecord
from sweeps.spec import expand


def test_the_folder_is_made_below_that_of_all_sweeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    home = Home("runs", "mine")
    assert home.directory == home.place == tmp_path / "runs" / "mine" and home.directory.is_dir()
    assert home.trials.parent == home.record.parent == home.directory
    assert not home.existed and Home("runs", "mine").existed
    home.pull()
    assert list(home.directory.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file/mine: cannot be written to .*; choose another folder") as raised:
        Home(tmp_path / "file", "mine")
    assert "\n" not in str(raised.value)


def test_an_archived_sweep_says_what_can_still_be_done_with_it() -> None:
    with public_folder() as root:
        spec = spec_of("mine", (4, 8))
        done, _ = configs = expand(spec)
        finish(root / "mine" / "trials", done)
        SweepRecord("id", spec, tuple(map(config_hash, configs))).write(root / "mine")
        with unwritable(root):
            with pytest.raises(UserError, match="cannot be written to .*1 of 2 trials are done; .*copy") as raised:
                resume_sweep(root / "mine", quiet=True)
            said = str(raised.value)
            assert all(word in said for word in ("status", "fit", "compare", "report --out", "--root"))
            assert "\n" not in said
            assert sweep_state(root / "mine").counts == {"finished": 1, "missing": 1}
            assert main(["status", "mine", "--root", str(root)]) == 0
        # Somebody else's trials in a folder that one may write to.
        (root / "mine").chmod(0o777)
        with unwritable(root / "mine" / "trials"), pytest.raises(UserError, match="mine: cannot be written to"):
            Home(root, "mine")


def test_one_driver_works_in_it_and_a_silent_one_is_waited_for(tmp_path: Path) -> None:
    said: list[str] = []
    home = Home(tmp_path, "mine")
    with home.leased(said.append):
        assert said == []
        with pytest.raises(UserError, match="mine: another drorae sweep is running here"), home.leased(said.append):
            pass
    assert not home.lease.path.exists(), "it is given back"  # type: ignore[union-attr]


def test_a_lease_of_another_machine_is_named_before_the_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sweeps.folder import lease

    monkeypatch.setattr(lease, "EXPIRE_SECONDS", 0.0)
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.01)
    home, said = Home(tmp_path, "mine"), []
    write_json(tmp_path / "mine" / "driver.lease", {"owner": "gone", "host": "elsewhere", "pid": 1, "beat": 1})
    with home.leased(said.append):
        assert (read_lease(tmp_path / "mine" / "driver.lease") or {})["owner"] == home.lease.owner
    assert len(said) == 1 and "its last driver, on elsewhere, left no word" in said[0]


def test_a_call_that_recorded_nothing_leaves_nothing(tmp_path: Path) -> None:
    home = Home(tmp_path, "mine")
    home.record.write_text("{}")
    home.discard(new=True)
    assert not home.directory.exists()
    # What was there before stays.
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes").touch()
    home = Home(tmp_path, "mine")
    home.record.write_text("{}")
    home.discard(new=False)
    assert home.record.exists()
    home.discard(new=True)
    assert [path.name for path in home.directory.iterdir()] == ["notes"]


def test_weights_stay_in_a_store() -> None:
    assert {"sweep.json", "trials.csv", "trials/*/result.json"} <= set(DRIVER_FILES)
    assert not [name for name in DRIVER_FILES if name.endswith((".safetensors", ".pt", ".npz"))]
