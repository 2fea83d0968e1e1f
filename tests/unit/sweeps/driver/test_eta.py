"""The time left of a sweep: cases computed by hand, the tables of real sweeps, and simulated ones."""

from __future__ import annotations

import csv
import heapq
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from drorae.config import PRESETS, override
from drorae.machine.extent import share_done, trial_flops
from sweeps.driver.eta import Ended, Running, ended_trial, fit, running_trial, seconds_left
from sweeps.spec import SweepSpec

SECONDS = Path(__file__).resolve().parents[3] / "data" / "seconds"
"""Tables of sweeps whose trials trained each alone, on a machine without other work."""


def test_the_trials_that_ran_at_once_are_not_counted_one_after_another() -> None:
    ended = [Ended(100.0, 1.0)] * 4
    # Two halves are left: 50 s, whether one slot is free or none.
    assert seconds_left(ended, [Running(50.0, 1.0), Running(50.0, 1.0)], [], 2) == pytest.approx(50)
    # The third starts when the first of the two ends, after 20 s.
    assert seconds_left(ended, [Running(50.0, 1.0), Running(80.0, 1.0)], [1.0], 2) == pytest.approx(120)
    assert seconds_left(ended, [Running(50.0, 1.0)], [1.0, 1.0], 3) == pytest.approx(100)
    assert seconds_left(ended, [], [1.0] * 5, 2) == pytest.approx(300)
    # One that takes longer than it should, and may end at any moment.
    assert seconds_left(ended, [Running(130.0, 1.0)], [1.0], 1) == pytest.approx(100)


def test_nothing_is_said_before_anything_is_known() -> None:
    assert seconds_left([], [], [], 2) == 0
    assert seconds_left([], [], [1.0], 2) is None
    assert seconds_left([], [Running(5.0, 1.0)], [1.0], 2) is None
    assert seconds_left([], [Running(5.0, 1.0, 0.05)], [1.0], 2) is None
    assert seconds_left([Ended(0.0, 1.0)], [Running(5.0, 1.0)], [], 1) is None
    assert seconds_left([Ended(10.0, 1.0)], [], [1.0], 0) is None


def test_a_running_trial_is_judged_by_its_own_pace_the_more_the_further_it_is() -> None:
    # A fifth in 10 s: 40 s to go, and another trial of 50 s.
    assert seconds_left([], [Running(10.0, 1.0, 0.2)], [1.0], 1) == pytest.approx(90)
    # The last step was reported 2 s ago.
    # Ten seconds of loading, then a tenth of its training in two: eight tenths are left.
    loaded = Running(14.0, 1.0, 0.2, reached=14.0, begun=(12.0, 0.1))
    assert seconds_left([], [loaded], [], 1) == pytest.approx(16)
    assert seconds_left([], [Running(12.0, 1.0, 0.2, reached=10.0)], [], 1) == pytest.approx(38)
    # Alone it would say 200 s. The fit through its 200 s, weighing half, and 100 s says 133 s, and they are averaged.
    left = seconds_left([Ended(100.0, 1.0)], [Running(100.0, 1.0, 0.5)], [], 1)
    assert left == pytest.approx((200 + 400 / 3) / 2 - 100)
    # The first of all, 6 s into an evaluation: it is taken to need 12 s, and the next trial 92 s.
    assert seconds_left([], [Running(86.0, 1.0, 1.0, reached=80.0)], [1.0], 1) == pytest.approx(6 + 92)
    # Trained in 80 s, and 4 s into an evaluation that took the others 20 s.
    ended = [Ended(100.0, 1.0, after=20.0)] * 3
    assert seconds_left(ended, [Running(84.0, 1.0, 1.0, reached=80.0)], [], 1) == pytest.approx(16)


def test_trials_that_are_only_measured_take_as_long_as_measuring() -> None:
    # Two packs are trained; two more, and twenty trials that then need 10 s each, are to come.
    packs = [Ended(240.0, 6.0, after=10.0)] * 2
    assert seconds_left(packs, [], [6.0, 6.0] + [0.0] * 20, 2) == pytest.approx(240 + 100)
    measured = [Ended(10.0, 0.0, after=10.0)] * 4
    assert seconds_left(packs + measured, [Running(5.0, 0.0)], [6.0], 2) == pytest.approx(240)
    assert seconds_left(measured, [], [0.0] * 4, 2) == pytest.approx(20)


def test_a_trial_of_unknown_size_takes_the_mean() -> None:
    ended = [Ended(60.0, 1.0), Ended(100.0, 3.0)]
    assert seconds_left(ended, [], [None], 1) == pytest.approx(80)


def test_the_fit() -> None:
    assert fit([]) is None
    one = fit([(2.0, 100.0, 1.0)])
    # 30 % of a trial's time grows with its size, until others say more.
    assert one is not None and [one.seconds(size) for size in (2.0, 4.0, 0.0)] == pytest.approx([100, 130, 70])
    same = fit([(2.0, 90.0, 1.0), (2.0, 110.0, 1.0)])
    assert same is not None and same.seconds(2.0) == pytest.approx(100) and same.seconds(4.0) == pytest.approx(130)
    sizes = np.linspace(1, 9, 50)
    many = fit([(size, 20 + 10 * size, 1.0) for size in sizes])
    assert many is not None and many.seconds(1.0) == pytest.approx(30, rel=0.03)
    assert many.seconds(9.0) == pytest.approx(110, rel=0.02)
    # Neither the fixed part nor the slope is below 0, whatever noise says.
    falling = fit([(size, 100 - 10 * size, 1.0) for size in sizes])
    assert falling is not None and falling.slope == 0 and falling.seconds(9.0) == pytest.approx(50)
    steep = fit([(size, size**3, 1.0) for size in sizes])
    assert steep is not None and steep.fixed == pytest.approx(0, abs=1e-9)
    nothing = fit([(0.0, 30.0, 1.0)])
    assert nothing is not None and nothing.seconds(0.0) == nothing.seconds(5.0) == 30


def test_the_share_of_the_training_that_is_done() -> None:
    config = PRESETS["quickstart"]
    assert [share_done(config, phase, 5, 10) for phase in ("prepare", "phase1", "", "phase2", "probe")] == [
        None, None, None, 0.5, 1.0
    ]  # fmt: skip
    assert share_done(config, "phase2", 5, 0) is None
    # Phase 3 trains the decoder: 3 passes through it to the 2 of phase 2.
    both = replace(override(config, "fusion.expert_hidden_dim", 8), phase3=config.phase2)
    half = share_done(both, "phase2", 10, 10)
    assert half is not None and 0.35 < half < 0.5 and share_done(both, "phase3", 0, 10) == half
    assert share_done(both, "phase3", 10, 10) == 1
    progress = {"seconds": 33.0, "trained_seconds": 31.5, "phase": "phase2", "step": 5.0, "total_steps": 10.0}
    assert running_trial(config, progress) == Running(33.0, trial_flops(config), 0.5, 31.5)
    assert running_trial(config, {}) == Running(0.0, trial_flops(config))


def test_a_trial_whose_phases_are_done_has_its_generator_before_it() -> None:
    plain = PRESETS["quickstart"]
    config = plain
    for name, value in (("epochs", 1), ("size", "tiny"), ("samples", 10)):
        config = override(config, f"generator.{name}", value)
    phases, total = trial_flops(plain), trial_flops(config)
    assert 2 * phases < total < 10 * phases
    ended = {"seconds": 100.0, "trained_seconds": 100.0, "phase": "phase2", "step": 10.0, "total_steps": 10.0}
    measured = {"seconds": 100.0, "trained_seconds": 100.0, "phase": "evaluation", "note": "measuring 500 images"}
    for progress in (ended, measured):
        # At the same pace the rest takes as its arithmetic says.
        left = seconds_left([], [running_trial(config, progress)], [], 1)
        assert left == pytest.approx(100 * (total / phases - 1))
        assert seconds_left([], [running_trial(plain, progress)], [], 1) == 0
    # What it goes through before the generator's first step is counted in items.
    fusing = {
        "seconds": 9.0,
        "trained_seconds": 8.0,
        "phase": "latents",
        "note": "fusing",
        "done": 50.0,
        "total": 100.0,
    }
    share = running_trial(config, fusing).share
    assert share == share_done(config, "latents", 1, 2) and phases / total < share < 1
    drawn = running_trial(config, {"seconds": 9.0, "phase": "inspection", "note": "inspecting the fusion"})
    assert drawn.share == 1


def real_sweep(name: str) -> list[Ended]:
    """The trials of a sweep, in order."""
    base = SweepSpec.from_dict(json.loads((SECONDS / name / "sweep.json").read_text())["spec"]).base
    trials = []
    with (SECONDS / name / "trials.csv").open() as file:
        for row in csv.DictReader(file):
            config = base
            fields = ("variant", "incremental", "expert_hidden_dim", "num_layers")
            for field in fields:
                config = override(config, f"fusion.{field}", row[field])
            seconds = float(row["train_seconds"]) + float(row["eval_seconds"])
            trials.append(ended_trial(config, seconds, {"eval_seconds": row["eval_seconds"]}))
    return trials


def scheduled(seconds: list[float], at_once: int) -> list[tuple[float, float]]:
    """When trials that start in order begin and end."""
    slots, spans = [0.0] * at_once, []
    for item in seconds:
        begin = heapq.heappop(slots)
        heapq.heappush(slots, begin + item)
        spans.append((begin, begin + item))
    return spans


def errors(trials: list[Ended], at_once: int, begin: float = 0.0) -> np.ndarray:
    """Relative errors of the time left, from the end of the first trial, or a share of the whole, to 95 %."""
    spans = scheduled([trial.seconds for trial in trials], at_once)
    end = max(span[1] for span in spans)
    found = []
    for now in np.linspace(max(begin * end, min(span[1] for span in spans)), 0.95 * end, 80):
        ended = [trial for trial, span in zip(trials, spans, strict=True) if span[1] <= now]
        running = []
        for trial, (begin, _) in zip(trials, spans, strict=True):
            if begin <= now < begin + trial.seconds:
                trained = trial.seconds - trial.after
                share = min((now - begin) / trained, 1.0) if trained else 1.0
                running.append(Running(now - begin, trial.size, share, min(now - begin, trained)))
        waiting = [trial.size for trial, span in zip(trials, spans, strict=True) if span[0] > now]
        left = seconds_left(ended, running, waiting, at_once)
        assert left is not None
        found.append(left / (end - now) - 1)
    return np.array(found)


@pytest.mark.parametrize("at_once", [1, 2, 3])
@pytest.mark.parametrize(
    ("name", "worst", "usual"),
    [("cifar10", 0.3, 0.12), ("imagenet-sample", 0.2, 0.1), ("tuned", 0.35, 0.2)],
)
def test_real_sweeps_whose_smallest_trials_come_first(name: str, worst: float, usual: float, at_once: int) -> None:
    trials = real_sweep(name)
    found = np.abs(errors(trials, at_once))
    assert found.max() < worst and found.mean() < usual


@pytest.mark.parametrize("at_once", [2, 3])
@pytest.mark.parametrize("seed", range(10))
def test_simulated_sweeps(seed: int, at_once: int) -> None:
    generator = np.random.default_rng(seed)
    sizes = generator.choice([1.0, 2.0, 4.0, 8.0, 16.0], 40)
    seconds = (40 + 6 * sizes) * generator.lognormal(0, 0.05, 40)
    trials = [Ended(float(took), float(size), 15.0) for took, size in zip(seconds, sizes, strict=True)]
    found = np.abs(errors(trials, at_once, 1 / 3))
    assert found.mean() < 0.06 and found.max() < 0.2
