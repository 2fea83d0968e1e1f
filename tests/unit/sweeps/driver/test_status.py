"""The state of a sweep from its folder alone."""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path

import pytest
from begun import BEGUN
from done_trials import begin, finish, spec_of

from drorae.commands.main import main
from drorae.config import config_hash
from drorae.errors import UserError
from drorae.runtime.repeat import every
from drorae.storage.files import write_json
from drorae.trial.folder import LEASE, TrialStatus, write_ending
from sweeps.driver.status import sweep_state
from sweeps.folder import lease
from sweeps.folder.lease import Lease
from sweeps.folder.sweep import SweepRecord
from sweeps.spec import expand


def test_each_trial_is_counted_once_with_what_became_of_it(tmp_path: Path) -> None:
    spec = spec_of("mine", (4, 8, 16, 32, 64, 128))
    configs, trials = expand(spec), tmp_path / "trials"
    SweepRecord("id", spec, tuple(map(config_hash, configs))).write(tmp_path)
    done, failed, here, killed, damaged, _new = configs
    finish(trials, done, seconds=60.0)
    write_ending(begin(trials, failed), TrialStatus.FAILED, "no luck")
    now = {"running": True, "updated": 0.0, "phase": "phase2", "step": 5, "total_steps": 10, "cpu_hours": 1.0}
    write_json(begin(trials, here) / "progress.json", now)
    write_json(begin(trials, killed) / "progress.json", now)
    held = Lease(trials / config_hash(here) / LEASE)
    held.acquire()
    tree = json.loads(held.path.read_text())  # type: ignore[union-attr]
    write_json(trials / config_hash(killed) / LEASE, tree | {"started": "1"})
    (begin(trials, damaged) / "result.json").write_text("{")
    state = sweep_state(tmp_path)
    held.release()
    assert state.counts == {"finished": 1, "failed": 1, "running": 1, "missing": 3} and state.total == 6
    assert [(item.label, item.step) for item in state.running] == [("capacity=16", 5)]
    assert state.failed == (("capacity=8", "no luck", "failed"),)
    assert [label for label, _ in state.damaged] == ["capacity=64"] and "damaged" in state.damaged[0][1]
    assert state.cost.cpu_hours == pytest.approx(2 + 60 / 3600) and not state.driven
    assert state.seconds_left and state.seconds_left > 0
    tree = json.loads(json.dumps(state.tree()))
    assert tree["failed"] == [{"trial": "capacity=8", "reason": "no luck", "status": "failed"}]
    assert tree["counts"] == state.counts
    with Lease(tmp_path / "driver.lease") as lease:
        lease.acquire()
        assert sweep_state(tmp_path).driven


def test_trials_that_are_not_needed_are_counted_and_said_to_be_none_to_wait_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = spec_of("mine", (4, 8))
    done, left = expand(spec)
    folder = tmp_path / "mine"
    SweepRecord("id", spec, tuple(map(config_hash, (done, left)))).write(folder)
    finish(folder / "trials", done, seconds=60.0)
    write_ending(begin(folder / "trials", left), TrialStatus.NOT_NEEDED, "decided after 1 of 2 trials: SUPPORTED")
    state = sweep_state(folder)
    assert state.counts == {"finished": 1, "not_needed": 1} and not state.seconds_left and state.failed == ()
    assert main(["status", "mine", "--root", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "decided after 1 of 2 trials: SUPPORTED\n" in said and "resume" not in said
    write_ending(folder / "trials" / config_hash(left), TrialStatus.FAILED, "no luck")
    assert sweep_state(folder).decided == ""


def test_what_held_out_images_show_of_a_running_trial_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = spec_of("mine", (4,))
    (config,) = expand(spec)
    SweepRecord("id", spec, (config_hash(config),)).write(tmp_path / "mine")
    directory = begin(tmp_path / "mine" / "trials", config)
    now = {"running": True, "updated": 0.0, "phase": "phase2", "step": 5, "total_steps": 10, "held_out.psnr": 21.234}
    write_json(directory / "progress.json", now)
    with Lease(directory / LEASE) as held:
        held.acquire()
        assert main(["status", "mine", "--root", str(tmp_path)]) == 0
        assert "5/10, PSNR 21.23" in capsys.readouterr().out
        assert main(["status", "mine", "--root", str(tmp_path), "--json"]) == 0
        (running,) = json.loads(capsys.readouterr().out)["running"]
        assert running["held_out_psnr"] == 21.234


@pytest.mark.parametrize("ahead", [7200.0, -7200.0])
def test_another_machine_is_at_work_whatever_the_time_there(
    tmp_path: Path, ahead: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its beat goes on; that of one that was switched off does not."""
    monkeypatch.setattr(lease, "WATCH_SECONDS", 1.0)
    monkeypatch.setattr(lease, "POLL_SECONDS", 0.05)
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + ahead)
    spec, trials = spec_of("mine", (4, 8)), tmp_path / "trials"
    configs = expand(spec)
    SweepRecord("id", spec, tuple(map(config_hash, configs))).write(tmp_path)
    there = {"owner": "a", "host": "elsewhere", "pid": 1, "beat": 1}
    leases = [tmp_path / "driver.lease"]
    for config in configs:
        write_json(begin(trials, config) / "progress.json", {"running": True, "updated": now()})
        leases.append(trials / config_hash(config) / LEASE)
    for path in leases:
        write_json(path, there)

    beats = itertools.count(2)

    def beat() -> None:
        number = next(beats)
        for path in leases[:2]:
            write_json(path, there | {"beat": number})

    with every(0.05, beat):
        state = sweep_state(tmp_path)
    assert state.driven and state.counts == {"running": 1, "missing": 1}
    state = sweep_state(tmp_path)
    assert not state.driven and state.counts == {"missing": 2} and state.running == ()


def test_a_trial_that_makes_no_step_is_shown_and_leaves_the_time_left_open(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = spec_of("mine", (4, 8))
    keys = {config_hash(config): config for config in expand(spec)}
    folder = tmp_path / "mine"
    first, second = (begin(folder / "trials", config) for config in keys.values())
    SweepRecord("id", spec, tuple(keys)).write(folder)
    for trial in (first, second):
        assert Lease(trial / LEASE).acquire(wait=False)
    now = {"running": True, "updated": time.time(), "phase": "phase2", "step": 9, "total_steps": 10, "seconds": 7200.0}
    write_json(first / "progress.json", now | {"trained_seconds": 3600.0, "reported": time.time() - 3600})
    write_json(second / "progress.json", now | {"trained_seconds": 7199.0, "reported": time.time()})
    state = sweep_state(folder)
    assert [item.silence for item in state.running] == ["no step for 60 min", ""] and state.seconds_left is None
    assert main(["status", "mine", "--root", str(tmp_path)]) == 0
    assert "no step for 60 min" in capsys.readouterr().out


def test_a_sweep_of_an_earlier_version_is_read() -> None:
    state = sweep_state(BEGUN)
    assert state.counts == {"finished": 2, "missing": 2} and state.running == () and state.cost.seconds > 0


def test_where_no_sweep_is_its_neighbours_are_named(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    SweepRecord("id", spec_of("theirs"), ()).write(tmp_path / "theirs")
    with pytest.raises(UserError, match=r"mine: no sweep here; .*sweeps in .*: theirs"):
        sweep_state(tmp_path / "mine")
