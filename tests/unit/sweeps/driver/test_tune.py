"""The adapter to Ray Tune: what it hands over, asks and tells."""

from __future__ import annotations

import pickle
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cloudpickle
import pytest
from pickles import reached
from ray.tune.search import Searcher

from drorae.config import Runtime, TrialConfig
from drorae.storage.files import write_json
from drorae.trial.folder import read_outcome
from sweeps.driver.pruning import Pruning
from sweeps.driver.queue import Listed
from sweeps.driver.search import Studies
from sweeps.driver.session import Session
from sweeps.driver.tune import (
    WAITING_BYTES,
    Here,
    TunePlan,
    _Asking,
    _End,
    _Pruner,
    _request,
    _Watcher,
    make_tuner,
)
from sweeps.folder.lease import LeaseLostError
from sweeps.folder.sweep import RunAddress
from sweeps.parsing import parse_range
from sweeps.resources import Resources, Share
from sweeps.settings import Asha, Settings
from sweeps.spec import Axis, Search, SweepSpec
from sweeps.worker.attempt import Work


@pytest.mark.parametrize("pruner", ["none", "asha", "median"])
def test_tune_is_given_nothing_of_the_drivers(pruner: str, session: Any, tmp_path: Path) -> None:
    asker: Any = Listed(list(session.configs))
    if pruner == "median":
        search = Search((parse_range("lr", TrialConfig()),), ("psnr",), 2, "tpe", "median")
        spec = SweepSpec("smoke", TrialConfig(), (Axis("capacity", (4, 8)),), (), search)
        asker = Studies(tmp_path / "studies.db", spec, tmp_path)
    lock = threading.Lock()
    pruning = None
    if pruner != "none":
        pruning = Pruning(tmp_path / "studies.db", tmp_path, lambda key: "smoke", pruner, Asha())
    settings = Settings(Runtime(), Resources(), 3, None, 0.0, "", "")
    plan = TunePlan(asker, lambda config: Share(1.0), settings, pruning, lambda: lock.release())
    work = Work(str(tmp_path), Runtime(), RunAddress("uri", "1", "2"), "fake_trial:run_trial", True)
    tuner = make_tuner(session, plan, work, tmp_path / "ray")
    inside = vars(tuner._local_tuner)
    given = {name: inside[f"_{name}"] for name in ("tune_config", "run_config", "trainable")}
    assert given["tune_config"].search_alg and given["tune_config"].scheduler and given["run_config"].callbacks
    assert reached(given) == []
    assert cloudpickle.loads(cloudpickle.dumps(given))
    assert {"sweeps.driver.session.Session", "sweeps.driver.screen.Screen"} <= set(reached(session)), (
        "the check sees nothing"
    )
    assert reached(plan.check) and reached(session.screen._painter), "the check sees nothing"


def test_what_stays_in_the_driver_is_not_in_a_copy() -> None:
    here = Here([1])
    assert here() == [1]
    copy = pickle.loads(pickle.dumps(here))
    with pytest.raises(RuntimeError, match="holds nothing of the driver's"):
        copy()


def test_trials_are_asked_for_until_the_budget_is_spent(session: Session, tmp_path: Path) -> None:
    (key,) = session.configs
    settings = Settings(Runtime(), Resources(), 3, None, 1.0, "", "")
    asking = _Asking(session, TunePlan(Listed([key, "second"]), lambda config: Share(2.0), settings, None))
    asked = asking.suggest("a")
    assert asked == {"trial": {"config_hash": key, "share": {"cpus": 2.0, "gpus": 0.0, "processes": 1}}}
    session.begin(key, None)
    write_json(tmp_path / key / "progress.json", {"cpu_hours": 1.5})
    assert asking.suggest("b") is None, "the first still runs"
    asking.on_trial_complete("a", error=True)
    assert read_outcome(tmp_path / key)["status"] == "failed"
    assert asking.suggest("c") == Searcher.FINISHED


def test_around_a_trial_of_several_processes_is_one_that_only_waits() -> None:
    alone = {"trial": {"config_hash": "a", "share": {"cpus": 2.0, "gpus": 1.0, "processes": 1}}}
    assert _request(alone).bundles == [{"CPU": 2.0, "GPU": 1.0}]
    together = {"trial": {"config_hash": "a", "share": {"cpus": 2.0, "gpus": 2.0, "processes": 2}}}
    assert _request(together).bundles == [{"memory": WAITING_BYTES}]


def test_every_word_of_tunes_is_heard_only_while_the_sweep_is_this_drivers(session: Session, tmp_path: Path) -> None:
    (key,) = session.configs

    def lost() -> None:
        raise LeaseLostError("taken over")

    settings = Settings(Runtime(), Resources(), 3, None, 0.0, "", "")
    plan = TunePlan(Listed([key]), lambda config: Share(1.0), settings, None, lost)
    trial = SimpleNamespace(config={"trial": {"config_hash": key}})
    watcher, asking = _Watcher(session, plan), _Asking(session, plan)
    asking._keys["a"] = key
    for heard in (
        lambda: watcher.on_trial_start(1, [], trial),
        lambda: watcher.on_trial_recover(1, [], trial),
        lambda: watcher.on_trial_complete(1, [], trial),
        lambda: watcher.on_trial_error(1, [], trial),
        lambda: asking.suggest("b"),
        lambda: asking.on_trial_complete("a", error=True),
        lambda: _Pruner(session, plan).on_trial_result(None, trial, {"loss": 1.0, "epoch": 1}),
    ):
        with pytest.raises(_End) as ended:
            heard()
        assert isinstance(ended.value.error, LeaseLostError)
    assert not (tmp_path / key).exists() and session.started == {}
