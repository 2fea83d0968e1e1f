"""The conductor of a call: what it says as it ends before its time."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from done_trials import begin, finish, spec_of
from hook import hook
from runs import only_run

from drorae.commands.main import main
from drorae.config import Runtime, config_hash
from drorae.errors import ClusterLostError, UserError
from drorae.runtime.signals import Interrupted, Signals
from drorae.storage.files import write_json
from drorae.storage.remote import Remote
from sweeps.driver.conductor import Conductor
from sweeps.driver.home import Home
from sweeps.driver.notify import Notifier
from sweeps.driver.output import Tail
from sweeps.driver.screen import Screen
from sweeps.driver.status import sweep_state
from sweeps.folder.lease import LeaseLostError
from sweeps.folder.sweep import RunAddress, read_record
from sweeps.resources import Resources
from sweeps.settings import PREPARE, Settings
from sweeps.spec import Range, Search, expand
from sweeps.tracking.client import Store
from sweeps.tracking.sweep import SweepTracker
from sweeps.tracking.trial import TrialTracker

GO_ON = "drorae resume mine"


def conductor(root: Path | str, people: io.StringIO | None = None) -> Conductor:
    spec, home = spec_of("mine"), Home(root, "mine")
    screen = Screen("mine", people or io.StringIO(), io.StringIO(), Tail(home.log), "", False)
    settings = Settings(Runtime(), Resources(), 3, None, 0.0, "", "")
    basis = {config_hash(config): config for config in expand(spec)}
    notifier = Notifier((), "mine", str(home.place), GO_ON, screen.line)
    return Conductor(spec, basis, settings, home, screen, Signals(), GO_ON, notifier)


def test_a_mistake_in_the_first_call_leaves_no_folder(tmp_path: Path) -> None:
    driver = conductor(tmp_path)
    with pytest.raises(UserError, match="a mistake"), driver.last_words():
        driver._open()
        assert read_record(tmp_path / "mine").trials == tuple(driver.basis)
        raise UserError("a mistake")
    assert not (tmp_path / "mine").exists()


@pytest.mark.parametrize("search", [None, Search((Range("lr", 1e-4, 1e-2),), trials=3)])
def test_the_record_comes_before_anything_that_takes_time(
    tmp_path: Path, search: Search | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = conductor(tmp_path)
    driver.spec = replace(driver.spec, search=search)

    def killed(*anything: object) -> None:
        raise SystemExit

    monkeypatch.setattr("sweeps.driver.conductor.SweepPlan", killed)
    with pytest.raises(SystemExit), driver.last_words():
        driver._open()
    record = read_record(tmp_path / "mine")
    assert record.spec == driver.spec and record.settings == driver.settings
    assert sweep_state(tmp_path / "mine").total == (0 if search else 2)
    assert main(["status", "mine", "--root", str(tmp_path)]) == 0
    monkeypatch.undo()
    again = conductor(tmp_path)
    again.spec = record.spec
    again._open()
    assert again.plan.sweep_id == record.id, "the next call goes on with it"


@pytest.mark.slow
def test_a_store_shows_the_record_from_the_first_and_none_of_a_mistake(
    store: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRORAE_LOCAL_CACHE", str(tmp_path / "machine"))
    root = store / "opened"
    driver = conductor(root.url)
    driver._open()
    assert sweep_state(f"{root}/mine").counts == {"missing": 2}
    with pytest.raises(UserError, match="a mistake"), driver.last_words():
        raise UserError("a mistake")
    assert (root / "mine").files() == {}


def test_a_lost_cluster_is_told_by_a_driver_that_hangs_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver, left = conductor(tmp_path / "runs"), []
    driver.notifier.words = hook(tmp_path / "told")
    monkeypatch.setattr("os._exit", left.append)
    driver._leave(ClusterLostError("the head node is gone"))
    with pytest.raises(ClusterLostError), driver.notifier.ending(driver.standing, lambda: driver.counts):
        raise ClusterLostError("the head node is gone")
    told = (tmp_path / "told").read_text()
    assert left == [1]
    assert told == f"error mine: error: the head node is gone; 0 of 2 trials are done; to go on: {GO_ON}\n"


def test_an_unusable_cache_is_said_once_before_anything_is_run(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    driver = conductor(tmp_path)
    driver.settings = replace(driver.settings, runtime=Runtime(cache_dir=str(tmp_path / "file")), prepare=PREPARE)
    with pytest.raises(UserError, match="cache .*file: cannot be used .it is a file"), driver.last_words():
        driver._open()
    assert not (tmp_path / "mine").exists()
    # Of a cluster's, this machine's says nothing.
    driver = conductor(tmp_path)
    elsewhere = Resources(address="10.0.0.1:6379")
    driver.settings = replace(driver.settings, runtime=Runtime(cache_dir=str(tmp_path / "file")), prepare=PREPARE)
    driver.settings = replace(driver.settings, resources=elsewhere)
    driver._open()


def test_a_folder_that_is_another_drivers_or_recorded_is_left_alone(tmp_path: Path) -> None:
    driver = conductor(tmp_path)
    with pytest.raises(LeaseLostError), driver.last_words():
        driver._open()
        raise LeaseLostError("taken over")
    driver.address = RunAddress("uri", "1", "2")
    with pytest.raises(UserError), driver.last_words():
        raise UserError("a mistake")
    assert (tmp_path / "mine" / "sweep.json").exists()


def test_an_interrupt_after_a_takeover_says_who_took_over_and_writes_nothing(
    new_store: Callable[[Path], str], tmp_path: Path
) -> None:
    people = io.StringIO()
    driver = conductor(tmp_path, people)
    tracker = SweepTracker("mine", "id", tmp_path, new_store(tmp_path), check=lambda: driver.home.lease.check())
    with driver.home.leased(lambda line: None):
        driver._open()
        driver.tracker, driver.address = tracker, tracker.open_parent("a test")
        config = next(iter(driver.basis.values()))
        trial = begin(driver.home.trials, config)
        TrialTracker(tracker.address, config, trial).start()
        before = {path: path.read_bytes() for path in driver.home.directory.rglob("*") if path.is_file()}
        heir = {"owner": "other", "host": "elsewhere", "pid": 4711, "beat": 1}
        write_json(tmp_path / "mine" / "driver.lease", heir)
        # As after a long suspension: the last look is long ago.
        driver.home.lease._looked = -math.inf
        with pytest.raises(LeaseLostError, match=r"another process \(4711 on elsewhere\) took this over"):
            tracker.settle([config], driver.home.trials, lambda line: None)
        with pytest.raises(LeaseLostError, match="4711 on elsewhere"):
            driver.session.conclude(config_hash(config), died=True)
        with pytest.raises(LeaseLostError, match="4711 on elsewhere") as raised, driver.last_words():
            try:
                raise Interrupted
            finally:
                driver._close()
    assert "\n" not in str(raised.value) and people.getvalue().count("interrupted") == 0
    after = {path: path.read_bytes() for path in driver.home.directory.rglob("*") if path.is_file()}
    assert {path for path in after if after[path] != before.get(path)} == {tmp_path / "mine" / "driver.lease"}
    run = only_run(Store(tracker.uri).client, tracker.address, config)
    assert run.info.status == "RUNNING", "it is the other's"


def test_what_ends_a_call_is_said_with_the_way_to_go_on(tmp_path: Path) -> None:
    people = io.StringIO()
    driver = conductor(tmp_path, people)
    driver._open()
    finish(driver.home.trials, next(iter(driver.basis.values())))
    with pytest.raises(ClusterLostError) as lost, driver.last_words():
        raise ClusterLostError("the head node does not answer")
    assert str(lost.value) == f"the head node does not answer; 1 of 2 trials are done; to go on: {GO_ON}"
    with pytest.raises(Interrupted) as raised, driver.last_words():
        raise Interrupted
    assert people.getvalue().endswith(f"interrupted: 1 of 2 trials are done; to go on: {GO_ON}\n")
    assert raised.value.said, "it is not said twice"


def test_opening_says_how_many_trials_there_are_and_where(tmp_path: Path) -> None:
    people = io.StringIO()
    driver = conductor(tmp_path, people)
    driver._open()
    assert people.getvalue().splitlines()[0] == f"mine: 2 trials, results in {tmp_path / 'mine'}"
    assert driver.plan.missing == list(driver.configs) and driver.session.configs == driver.configs


def test_nothing_is_written_at_the_end_of_a_call_that_recorded_nothing(tmp_path: Path) -> None:
    driver = conductor(tmp_path)
    driver._open()
    driver._close()
    assert not driver.home.table.exists() and driver.counts == {}
