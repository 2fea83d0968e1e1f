"""A preparation that Ray tries again: its log has every row once, as the last attempt reported it."""

from __future__ import annotations

import functools
import json
import sys
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pickles import reached

from drorae.config import Runtime, TrialConfig, canonical_json, config_hash, override
from drorae.errors import UserError
from drorae.storage.remote import Remote
from sweeps.driver import preparation
from sweeps.driver.home import Home
from sweeps.driver.preparation import Preparation, _PreparationLog
from sweeps.resources import Share
from sweeps.worker import entry

Rows = list[dict[str, float | str]]
SHARE, RUNTIME = Share(1.0), Runtime()


def of(
    trials: Mapping[str, TrialConfig], session: Any, folder: Path, share: Share = SHARE, runtime: Runtime = RUNTIME
) -> Preparation:
    """A preparation of some trials of a sweep `smoke` in a folder, each with this share."""
    home = Home(folder, "smoke")
    return Preparation(
        trials, session.screen, runtime, lambda config: share, "fake_trial:prepare", home, lambda: None, {}
    )


def by_hash(*configs: TrialConfig) -> dict[str, TrialConfig]:
    return {config_hash(config): config for config in configs}


def fake_ray(
    patch: pytest.MonkeyPatch,
    send: Callable[..., Any],
    *,
    wait: Callable[..., Any] = lambda jobs, timeout: (jobs, []),
    get: Callable[[Any], Any] = lambda job: None,
    asked: Callable[..., object] = lambda **given: None,
    nodes: Sequence[float] = (),
) -> None:
    """In place of Ray: what is sent to it, how it answers, which resources it hears of, and the CPUs of its nodes."""
    import ray

    def options(**given: Any) -> Any:
        asked(**given)
        return remote

    remote = SimpleNamespace(remote=send, options=options)
    patch.setattr(ray, "remote", lambda function: remote)
    patch.setattr(ray, "wait", wait)
    patch.setattr(ray, "get", get)
    patch.setattr(preparation, "alive_nodes", lambda: [{"Resources": {"CPU": float(cpus)}} for cpus in nodes])


def rows(steps: range, attempt: int) -> Rows:
    return [{"phase": "phase1", "step": float(step), "loss": attempt + 1 / step} for step in steps]


@pytest.mark.parametrize("where", ["disk", "store"])
def test_an_attempt_that_follows_a_killed_one_loses_and_doubles_no_row(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    local = tmp_path / "prepare-x.jsonl"
    place: Path | Remote = local if where == "disk" else request.getfixturevalue("store") / "sweep" / local.name
    tail = _PreparationLog(local, "prepare")

    def look() -> Rows:
        if isinstance(place, Remote):
            local.write_bytes(place.read() or b"")
        return [row for row in tail.read() if row["phase"] == "phase1"]

    def attempt(number: int, steps: range) -> None:
        def prepare(config: TrialConfig, runtime: Runtime, report: Callable[[dict[str, float | str]], None]) -> None:
            report({"phase": "prepare", "note": "encoding", "done": float(number), "total": 2.0})
            for row in rows(steps, number):
                report(row)
            assert tail.running().label == "prepare"
            raise UserError("killed")

        monkeypatch.setitem(sys.modules, "stand_in", SimpleNamespace(prepare=prepare))
        entry.prepare(canonical_json(TrialConfig()), Runtime(), str(place), "stand_in:prepare", {})

    attempt(0, range(1, 7))
    assert look() == rows(range(1, 7), 0)
    with local.open("ab") as file:
        file.write(b'{"phase": "phase1", "st')  # killed while it wrote
    # From the checkpoint of step 3; what the first did after it is done again.
    attempt(1, range(4, 6))
    assert look() == rows(range(1, 4), 0) + rows(range(6, 7), 0) + rows(range(4, 6), 1)
    attempt(2, range(4, 9))
    assert look() == rows(range(1, 4), 0) + rows(range(4, 9), 2)


@pytest.mark.parametrize(
    ("nodes", "groups", "gpus", "cpus"),
    [((16,), 1, 0, 16), ((16,), 2, 0, 8), ((16, 16), 2, 0, 16), ((2,), 5, 0, 1), ((16,), 3, 1, 16), ((), 3, 0, 1)],
)
def test_preparations_share_out_a_node_without_gpus(
    nodes: tuple[int, ...], groups: int, gpus: int, cpus: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [{"Resources": {"CPU": float(count), "GPU": float(gpus)}} for count in nodes]
    monkeypatch.setattr("sweeps.driver.preparation.alive_nodes", lambda: found)
    asked = SimpleNamespace(groups=dict.fromkeys(range(groups)))
    assert Preparation._node_share(asked, [Share(1, gpus)]) == Share(cpus, gpus)  # type: ignore[arg-type]
    largest = Share(4, 2 * gpus, 2)
    assert Preparation._node_share(asked, [Share(1, gpus), largest]) == largest  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("nodes", "threads", "encoders", "expected"),
    [
        ((16,), 0, (224, 224), [(8, 16), (8, 16)]),
        ((16,), 0, (224, 448), [(8, 8), (8, 8)]),
        ((16,), 0, (224, 224, 448, 448), [(4, 8)] * 4),
        ((16, 16), 0, (224, 224, 224, 224), [(8, 16)] * 4),
        ((2,), 0, (224,) * 5, [(1, 2)] * 5),
        ((16,), 0, (224,), [(16, 16)]),
        ((16,), 3, (224, 224), [(3, 0), (3, 0)]),
        ((), 0, (224, 224), [(1, 1), (1, 1)]),
    ],
)
def test_who_makes_features_has_the_threads_of_those_that_wait_for_the_same(
    nodes: tuple[int, ...],
    threads: int,
    encoders: tuple[int, ...],
    expected: list[tuple[int, int]],
    session: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: list[Runtime] = []
    fake_ray(monkeypatch, lambda *sent: given.append(sent[1]), nodes=nodes)
    trials = [
        override(override(TrialConfig(), "decoder.seed", str(seed)), "encoder.input_size", str(size))
        for seed, size in enumerate(encoders)
    ]
    of(by_hash(*trials), session, tmp_path, runtime=Runtime(threads=threads)).start()
    assert [(runtime.threads, runtime.encoding_threads) for runtime in given] == expected


@pytest.mark.parametrize(("layers", "deepest"), [("1 6 3", 1), ("3 0 12", 1), ("2 2", 0)])
def test_a_sweep_is_prepared_for_the_trial_that_reads_most_layers(
    layers: str, deepest: int, session: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its entry of the feature cache serves the others."""
    given: list[str] = []
    fake_ray(monkeypatch, lambda *sent: given.append(sent[0]), nodes=[2])
    trials = [
        override(override(TrialConfig(), "fusion.num_layers", count), "seed", str(seed))
        for seed, count in enumerate(layers.split())
    ]
    of(by_hash(*trials), session, tmp_path).start()
    assert given == [canonical_json(trials[deepest])]


def test_a_log_that_became_shorter_is_read_from_its_start(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    tail = _PreparationLog(log, "prepare")
    assert tail.read() == [] and tail.running().phase == "starting"
    log.write_text('{"phase": "phase1", "step": 1, "loss": 1}\n' * 5)
    assert len(tail.read()) == 1
    log.write_text('{"phase": "phase1", "step": 2, "loss": 1}\n{"phase": "phase1", "st')
    assert [row["step"] for row in tail.read()] == [1, 2]


def test_what_phase_1_measures_beside_its_steps_takes_the_place_of_none(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    rows = [
        {"phase": "phase1", "step": 4, "total_steps": 8, "loss": 0.5},
        {"phase": "phase1", "step": 4, "held_out.psnr": 20.5, "held_out.images": 9},
    ]
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tail = _PreparationLog(log, "prepare")
    assert tail.read() == rows
    running = tail.running()
    assert (running.step, running.total_steps, running.loss, running.held_out_psnr) == (4, 8, 0.5, 20.5)


def test_one_that_waits_for_another_hides_none_of_what_that_does(
    session: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = session.configs[min(session.configs)]
    second = override(first, "decoder.seed", 1)
    shown: list[list[tuple[str, str, str]]] = []

    def wait(jobs: list[Any], timeout: float) -> tuple[list[Any], list[Any]]:
        row = {"phase": "prepare", "note": "encoding images", "done": 3.0, "total": 9.0}
        made._log(list(made.groups)[1]).write_text(json.dumps(row) + "\n")
        shown.append([(item.label, item.phase, item.note) for item in made.running()])
        return jobs, []

    fake_ray(monkeypatch, lambda *given: None, wait=wait)
    made = of(by_hash(first, second), session, tmp_path)
    made.start()
    assert made.finish() == ({}, [])
    other = ("prepare 2/2", "prepare", "encoding images 3 of 9")
    assert shown == [[("prepare 1/2", "starting", ""), other], [other]]
    assert made.running() == []


def test_one_that_is_over_holds_no_task_of_rays(session: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever holds the preparation, such as the screen's thread, may outlive the session."""

    class Task:
        """Like Ray's reference to one."""

    tasks: list[weakref.ref[Task]] = []

    def send(*given: object) -> Task:
        tasks.append(weakref.ref(task := Task()))
        return task

    fake_ray(monkeypatch, send)
    made = of(session.configs, session, tmp_path)
    made.start()
    assert tasks and all(task() is not None for task in tasks)
    made.finish()
    assert all(task() is None for task in tasks)


def test_a_preparation_is_given_nothing_of_the_drivers(
    session: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import cloudpickle
    import ray

    sent: list[Any] = []

    class Remote:
        def __init__(self, function: Any) -> None:
            sent.append(function)

        def options(self, **given: Any) -> Remote:
            sent.append(given)
            return self

        def remote(self, *given: Any) -> None:
            sent.append(given)

    monkeypatch.setattr(ray, "remote", Remote)
    monkeypatch.setattr(preparation, "alive_nodes", list)
    share = functools.partial(lambda config: Share(1.0))
    preparation.Preparation(
        session.configs, session.screen, Runtime(), share, "fake_trial:prepare", Home(tmp_path, "smoke"),
        session.screen.close, {},
    ).start()  # fmt: skip
    assert len(sent) == 3 and reached(sent) == []
    assert cloudpickle.loads(cloudpickle.dumps(sent))


@pytest.mark.parametrize("processes", [1, 2])
def test_a_preparation_whose_worker_dies_is_made_again_three_times_and_the_reason_named(
    session: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: int
) -> None:
    from ray.exceptions import OutOfMemoryError

    from sweeps.driver.deaths import OUT_OF_MEMORY

    sent: list[object] = []

    def get(job: object) -> dict[str, Any]:
        if processes > 1:
            return {"reason": OUT_OF_MEMORY, "user": False, "again": True}
        raise OutOfMemoryError("low on memory\nmuch else")

    fake_ray(monkeypatch, lambda *given: sent.append(given), get=get)
    made = of(session.configs, session, tmp_path, Share(2.0, 0.0, processes))
    made.start()
    failed, _ = made.finish()
    assert set(failed.values()) == {f"preparation failed: {OUT_OF_MEMORY}"} and len(sent) == 4


@pytest.mark.parametrize(
    ("cpus", "free", "processes", "asked"),
    [(8, 7, 1, [8, 4]), (8, 1, 1, [8, 4, 2, 1]), (8, 8, 1, [8]), (8, 0, 1, [8]), (1, 0.5, 1, [1]), (4, 1, 2, [0])],
    ids=["others hold one", "nearly all", "its worker begins", "it may run", "no more than a trial", "processes"],
)
def test_one_that_no_node_has_room_for_asks_for_less_each_time(
    cpus: int,
    free: float,
    processes: int,
    asked: list[int],
    session: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import ray

    now, looks = [0.0], 0
    sent: list[tuple[float, int]] = []
    held: list[float] = []
    cancelled: list[object] = []

    def asked_for(num_cpus: float, **given: object) -> None:
        held.append(num_cpus)

    def send(*given: Any) -> int:
        sent.append((held[-1], given[1].threads))
        return len(sent)

    def wait(jobs: list[int], timeout: float) -> tuple[list[int], list[int]]:
        nonlocal looks
        looks += 1
        now[0] += 10.0
        return (jobs if looks > 60 else [], [])

    fake_ray(monkeypatch, send, wait=wait, asked=asked_for, nodes=[cpus])
    monkeypatch.setattr(ray, "cancel", cancelled.append)
    # Others hold as much however little it asks for.
    monkeypatch.setattr(preparation, "free_cpus", lambda: free)
    monkeypatch.setattr(preparation.time, "monotonic", lambda: now[0])
    made = of(session.configs, session, tmp_path, Share(float(processes), 0.0, processes))
    made.start()
    assert made.finish() == ({}, [])
    assert [count for count, _ in sent] == asked and cancelled == list(range(1, len(sent)))
    if processes == 1:
        assert [count for _, count in sent] == asked


def test_one_that_waits_behind_another_of_its_own_has_patience(
    session: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as anything is heard of either, and for a while from then on."""
    first = session.configs[min(session.configs)]
    second = override(first, "decoder.seed", 1)
    now = [0.0]
    sent: list[float] = []

    def wait(jobs: list[Any], timeout: float) -> tuple[list[Any], list[Any]]:
        now[0] += 10.0
        if now[0] < 400:
            with made._log(list(made.groups)[1]).open("a") as log:
                log.write(json.dumps({"phase": "phase1", "step": now[0], "loss": 1.0}) + "\n")
        return (jobs if now[0] >= 500 else [], [])

    fake_ray(monkeypatch, lambda *given: sent.append(now[0]), wait=wait, nodes=[8])
    monkeypatch.setattr(preparation, "free_cpus", lambda: 1.0)
    monkeypatch.setattr(preparation.time, "monotonic", lambda: now[0])
    made = of(by_hash(first, second), session, tmp_path)
    made.start()
    assert made.finish() == ({}, []) and sent == [0.0, 0.0]
