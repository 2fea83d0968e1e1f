"""What a driver makes of trials that run and that have ended."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
from done_trials import begin, finish, spec_of

from drorae.config import config_hash, override
from drorae.errors import OF_IMAGES
from drorae.machine.extent import trial_flops
from drorae.storage.files import write_json
from drorae.trial.folder import TrialStatus, error_file, read_outcome, write_ending
from sweeps.driver.deaths import DIED
from sweeps.driver.output import Tail
from sweeps.driver.plan import is_done
from sweeps.driver.screen import Screen
from sweeps.driver.session import Session
from sweeps.spec import expand


def session_of(trials: Path, people: io.StringIO | None = None, capacities: Sequence[int] = (4, 8)) -> Session:
    log = trials / "driver.log"
    screen = Screen("mine", people or io.StringIO(), io.StringIO(), Tail(log), "", False)
    screen.total = len(capacities)
    configs = {config_hash(config): config for config in expand(spec_of("mine", capacities))}
    return Session(configs, trials, ["fusion.expert_hidden_dim"], screen, None)


def test_a_finished_trial_is_said_with_its_metrics_and_its_warnings(tmp_path: Path) -> None:
    people = io.StringIO()
    made = session_of(tmp_path, people)
    first, second = made.configs
    made.expect([first, second])
    assert list(made.waiting) == [first, second]
    made.begin(first, None)
    finish(tmp_path, made.configs[first], seconds=10.0)
    (tmp_path / first / "warnings.txt").write_text("slow disk\nslow disk\n")
    made.end(first, died=False)
    said = people.getvalue().splitlines()
    expected = "[1/2] capacity=4 psnr=10.6 rfd_dinov2=96 (in the tokenizer's own features) gain_psnr=+1.602 ± 0.32 0 s"
    assert said[0].startswith(expected)
    assert said[1:] == ["capacity=4: slow disk"]
    assert not (tmp_path / first / "warnings.txt").exists() and list(made.waiting) == [second]
    # Half of what the first took, and a second trial of the same size or larger.
    assert made.seconds_left() is not None and made.started == {}


def test_a_trial_that_failed_for_good_is_handed_on_and_no_other(tmp_path: Path) -> None:
    made, failed = session_of(tmp_path, capacities=(4, 8, 16, 32)), []
    made.failed = failed.append
    broken, pruned, diverged, done = made.configs
    for key in made.configs:
        made.begin(key, None)
    finish(tmp_path, made.configs[done])
    write_ending(tmp_path / broken, TrialStatus.FAILED, "it never works")
    write_ending(tmp_path / pruned, TrialStatus.PRUNED, "bad")
    write_ending(tmp_path / diverged, TrialStatus.DIVERGED, "step 3")
    for key in made.configs:
        made.end(key, died=False)
    assert failed == ["capacity=4 failed: it never works"]


def test_an_ended_trial_is_handed_on_and_what_is_wrong_with_a_store_is_said_once(tmp_path: Path) -> None:
    people, ended = io.StringIO(), []
    made = session_of(tmp_path, people)
    made.record = ended.append
    for number, key in enumerate(made.configs):
        made.begin(key, None)
        finish(tmp_path, made.configs[key])
        line = f"MLflow at http://there:5000 does not answer (HTTP 500, request {number}); kept for later"
        images = f"{OF_IMAGES}skipped 1 of 20 image files (1 truncated): /a.png (truncated)"
        (tmp_path / key / "warnings.txt").write_text(f"{line}\nslow disk\n{images}\n")
        made.end(key, died=False)
    assert ended == list(made.configs)
    said = people.getvalue().splitlines()
    assert sum("does not answer" in line for line in said) == 1 and sum("slow disk" in line for line in said) == 2
    assert said.count(images) == 1
    assert "MLflow at http://there:5000 does not answer (HTTP 500, request 0); kept for later" in said


def test_what_ended_before_this_call_tells_how_long_the_rest_takes(tmp_path: Path) -> None:
    made = session_of(tmp_path)
    first, second = made.configs
    assert made.seconds_left() is None
    finish(tmp_path, made.configs[first], seconds=10.0)
    made.expect([second])
    assert len(made.ended) == 1 and (made.seconds_left() or 0) >= 10.0


def test_a_trial_that_died_is_failed_for_the_reason_of_its_last_attempt(tmp_path: Path) -> None:
    made = session_of(tmp_path)
    key = next(iter(made.configs))
    directory = begin(tmp_path, made.configs[key])
    for attempt, text in enumerate(("ValueError: first", "Traceback\nRuntimeError: it never works\n")):
        error_file(directory, attempt).write_text(text)
    made.begin(key, None)
    made.end(key, died=True)
    assert read_outcome(directory) == {"status": "failed", "reason": "RuntimeError: it never works"}


def test_an_attempt_without_a_word_was_killed_or_kept_from_its_folder(tmp_path: Path) -> None:
    made = session_of(tmp_path)
    first, second = made.configs
    for key in made.configs:
        begin(tmp_path, made.configs[key])
    assert made.reason(first) == DIED
    (tmp_path / "told.txt").write_text("Traceback\ndrorae.storage.remote.RemoteError: s3://b: away\n\n")
    made.begin(second, SimpleNamespace(error_file=str(tmp_path / "told.txt")))
    assert made.reason(second) == "s3://b: away"


def test_a_trial_that_returned_without_a_result_was_not_stopped_by_anybody(tmp_path: Path) -> None:
    people = io.StringIO()
    made = session_of(tmp_path, people)
    key = next(iter(made.configs))
    begin(tmp_path, made.configs[key])
    made.end(key, died=False)
    outcome = read_outcome(tmp_path / key)
    assert outcome["status"] == "no_result" and "left no result.json" in outcome["reason"]
    assert "no_result: the trial's function returned" in people.getvalue() and not is_done(tmp_path / key)


def test_a_trial_that_was_stopped_is_pruned_and_a_result_is_left_alone(tmp_path: Path) -> None:
    made = session_of(tmp_path)
    first, second = made.configs
    begin(tmp_path, made.configs[first])
    made.stopped.add(first)
    made.conclude(first, died=False)
    outcome = read_outcome(tmp_path / first)
    assert outcome["status"] == "pruned" and "stopped early" in outcome["reason"]
    finish(tmp_path, made.configs[second])
    made.conclude(second, died=True)
    assert read_outcome(tmp_path / second)["status"] == "finished"


def test_the_budget_counts_gpus_and_only_without_them_cpus(tmp_path: Path) -> None:
    made = session_of(tmp_path)
    first, second = made.configs
    write_json(tmp_path / first / "progress.json", {"seconds": 3600, "cpu_hours": 2.0})
    assert not made.over_budget(0) and not made.over_budget(2.5) and made.over_budget(2.0)
    made.begin(second, None)
    write_json(tmp_path / second / "progress.json", {"seconds": 3600, "cpu_hours": 2.0, "gpu_hours": 0.5})
    assert not made.over_budget(1.0) and made.over_budget(0.5)


def test_trials_that_run_are_shown_as_their_workers_left_word(tmp_path: Path) -> None:
    made = session_of(tmp_path)
    first, second = made.configs
    made.begin(first, None)
    made.begin(second, None)
    write_json(tmp_path / first / "progress.json", {"phase": "phase2", "step": 5, "total_steps": 10})
    assert [(item.label, item.phase, item.step) for item in made.running()] == [
        ("capacity=4", "phase2", 5), ("capacity=8", "starting", 0),
    ]  # fmt: skip
    assert made.at_once == 2


@pytest.mark.parametrize("varied", [[], ["fusion.expert_hidden_dim", "seed"]])
def test_trials_are_named_by_what_varies(tmp_path: Path, varied: list[str]) -> None:
    made = session_of(tmp_path)
    made.varied = varied
    assert made.label(next(iter(made.configs))) == ("capacity=4 seed=0" if varied else "capacity=4")


def test_a_trial_that_gets_no_further_is_given_up_with_the_reason_of_its_last_attempt(tmp_path: Path) -> None:
    people = io.StringIO()
    made = session_of(tmp_path, people)
    key = next(iter(made.configs))
    directory = begin(tmp_path, made.configs[key])
    made.begin(key, None)
    for step in (2, 3, 4, 4, 4):
        write_json(directory / "reached.json", {"phase2": step})
        assert made.goes_on(key)
    (directory / "last_words.txt").write_text("Fatal Python error: Segmentation fault\n\nCurrent thread ...\n")
    assert not made.goes_on(key)
    assert read_outcome(directory) == {"status": "failed", "reason": "the worker process died: Segmentation fault"}
    assert people.getvalue().count("tried again") == 5


def test_a_trial_that_stalls_is_tried_again_and_then_recorded_as_stalled(tmp_path: Path) -> None:
    people = io.StringIO()
    made = session_of(tmp_path, people)
    made.stalls.minutes, made.retries.allowed = 1e-9, 1
    key = next(iter(made.configs))
    directory, trial = begin(tmp_path, made.configs[key]), SimpleNamespace()
    made.begin(key, trial)
    write_json(directory / "progress.json", {"running": True, "phase": "phase2", "step": 5, "total_steps": 10})
    for attempt in range(2):
        made.running()
        assert made.find_stalled() == [] and made.find_stalled() == [trial]
        assert made.goes_on(key) is (attempt == 0)
    made.end(key, died=False)
    outcome = read_outcome(directory)
    assert outcome["status"] == "stalled" and re.search(r"no step for \d+ s \(at phase2 5\)", outcome["reason"])
    assert "capacity=4: tried again (no step" in people.getvalue() and not is_done(directory)


def test_every_trial_of_a_pack_has_its_own_generator_to_train(tmp_path: Path) -> None:
    made = session_of(tmp_path)
    plain = list(made.configs.values())
    made.configs = {key: override(config, "generator.epochs", 20) for key, config in made.configs.items()}
    first, second = made.configs
    made.packs = {first: (second,)}
    generators = [
        trial_flops(made.configs[key]) - trial_flops(config) for key, config in zip(made.configs, plain, strict=True)
    ]
    assert made.size(second) == pytest.approx(generators[1]) and generators[1] > 0
    # Phase 2 of both.
    assert made.size(first) == pytest.approx(sum(map(trial_flops, plain)) + generators[0])
