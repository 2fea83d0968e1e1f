"""A sweep that ends when its law is decided: the order of its trials, the looks, and what is left."""

from __future__ import annotations

import io
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from done_trials import finish

from drorae.commands.until import decided
from drorae.config import PRESETS, Runtime, config_hash, override
from drorae.errors import Notice, UserError
from drorae.trial.folder import TrialStatus, read_outcome, write_ending
from sweeps.checks import all_trials, roles
from sweeps.driver.output import Tail
from sweeps.driver.screen import Screen
from sweeps.driver.session import Session
from sweeps.driver.until import Decided, Until, batches_of, check_until, nested
from sweeps.resources import Resources
from sweeps.settings import Settings
from sweeps.spec import Axis, Range, Search, SweepSpec, expand, point_label

WIDTHS = (4, 8, 16, 32, 64, 128, 256, 512)
VARIED = ["fusion.expert_hidden_dim", "seed"]


def spec_of(trouble: str = "noise=0.05", seeds: int = 3, check: bool = False) -> SweepSpec:
    base = override(PRESETS["smoke"], "encoder.path", f"sleep=0&{trouble}")
    axes = (Axis("capacity", WIDTHS), Axis("seed", tuple(range(seeds))))
    return SweepSpec("mine", base, axes, check_convergence=check)


def until_of(spec: SweepSpec, trials: Path, people: io.StringIO | None = None, judge: Decided = decided) -> Until:
    """As a driver begins, or goes on."""
    configs = all_trials(spec)
    screen = Screen("mine", people or io.StringIO(), io.StringIO(), Tail(trials / "driver.log"), "", False)
    screen.total = len(configs)
    session = Session(configs, trials, VARIED, screen, None, roles=roles(spec))
    missing = [key for key in configs if read_outcome(trials / key)["status"] != TrialStatus.FINISHED]
    return Until(session, missing, "log-linear", judge)


def run(until: Until, most: int = 1000, broken: Collection[str] = ()) -> list[str]:
    """Runs trials, two at once, until all have ended or so many are begun; returns their labels as they were begun."""
    begun: list[str] = []
    session, running = until._session, list[str]()
    while len(begun) < most:
        key = until.ask() if len(running) < 2 else None
        if key is not None:
            running.append(key)
            begun.append(point_label(session.configs[key], VARIED))
            continue
        if not running:
            break
        key = running.pop(0)
        if key in broken:
            write_ending(session.trials / key, TrialStatus.FAILED, "no luck")
        else:
            finish(session.trials, session.configs[key])
        until.tell(key)
    return begun


def statuses(spec: SweepSpec, trials: Path) -> dict[str, int]:
    found = pd.Series([str(read_outcome(trials / key)["status"]) for key in all_trials(spec)])
    return {str(name): int(count) for name, count in found.value_counts().items()}


@pytest.mark.parametrize(
    ("count", "order"), [(1, [0]), (2, [0, 1]), (4, [0, 3, 2, 1]), (5, [0, 4, 2, 1, 3]), (8, [0, 7, 4, 2, 5, 1, 3, 6])]
)
def test_ends_come_first_then_the_middle_then_the_quarters(count: int, order: list[int]) -> None:
    assert nested(count) == order
    assert all(sorted(nested(number)) == [*range(number)] for number in range(1, 40))


def test_batches_are_sizes_then_seeds() -> None:
    law = {config_hash(config): config for config in expand(spec_of())}
    batches = [[point_label(law[key], VARIED) for key in batch] for batch in batches_of(law)]
    assert batches[0] == [f"capacity={width} seed=0" for width in (4, 512, 64, 16, 128)]
    assert batches[1] == [f"capacity={width} seed=0" for width in (8, 32, 256)]
    assert batches[2:] == [[f"capacity={width} seed={seed}" for width in WIDTHS] for seed in (1, 2)]
    assert sorted(key for batch in batches_of(law) for key in batch) == sorted(law)


def test_a_clean_law_is_decided_early_and_the_rest_is_not_run(tmp_path: Path) -> None:
    spec, people = spec_of(check=True), io.StringIO()
    until = until_of(spec, tmp_path, people)
    begun = run(until)
    # Five trials decide; the two that check convergence run all the same.
    assert len(begun) == 7 and until.finished and until.total == 7
    assert statuses(spec, tmp_path) == {"finished": 7, "not_needed": 19}
    line = "decided after 5 of 24 trials: SUPPORTED log-linear: psnr follows log10(params) from 4000 to 5.12e+05"
    assert until.line.startswith(line) and until.line.endswith(
        "[level: 5% for slope and bend over 4 looks, 1.25% each time]"
    )
    assert people.getvalue().splitlines() == [until.line] and until._session.screen.total == 7
    left = [read_outcome(tmp_path / key) for key in all_trials(spec)]
    assert {item["reason"] for item in left if item["status"] == "not_needed"} == {until.line}
    again = until_of(spec, tmp_path)
    assert again.finished and again.line == until.line and list(again.missing) == [], "another call runs nothing"


def test_noise_runs_the_whole_grid(tmp_path: Path) -> None:
    spec = spec_of("noise=1&slope=0", seeds=2)
    until = until_of(spec, tmp_path)
    assert len(run(until)) == 16 and until.finished
    assert until.line == "not decided by all 16 trials" and statuses(spec, tmp_path) == {"finished": 16}


@pytest.mark.parametrize("killed", [1, 4, 6, 9])
def test_a_sweep_that_is_killed_goes_on_as_it_would_have(tmp_path: Path, killed: int) -> None:
    # Of two trials at once, those that ran are lost.
    spec = spec_of("noise=0.6&slope=0.5")
    undisturbed = until_of(spec, tmp_path / "one")
    whole = run(undisturbed)
    assert 8 < len(whole) < 24 and "decided after" in undisturbed.line
    before = run(until_of(spec, tmp_path / "two"), killed)
    resumed = until_of(spec, tmp_path / "two")
    after = run(resumed)
    assert list(dict.fromkeys(before + after)) == whole and resumed.line == undisturbed.line
    assert statuses(spec, tmp_path / "two") == statuses(spec, tmp_path / "one")


def test_trials_beyond_a_batch_that_are_there_already_are_not_looked_at(tmp_path: Path) -> None:
    spec = spec_of()
    finish(tmp_path, expand(spec)[1])
    seen: list[int] = []

    def judge(name: str, table: Path, looks: int) -> str | None:
        seen.append(len(pd.read_csv(table)))
        assert name == "log-linear" and looks == 4
        return None

    until = until_of(spec, tmp_path, judge=judge)
    run(until)
    assert seen == [5, 8, 16, 24] and until.line == "not decided by all 24 trials"


def test_one_that_fails_has_ended_and_one_that_cannot_run_is_not_waited_for(tmp_path: Path) -> None:
    spec = spec_of()
    law = {config_hash(config): config for config in expand(spec)}
    broken, unprepared = batches_of(law)[0][:2]
    until = until_of(spec, tmp_path)
    until.keep([key for key in law if key != unprepared])
    begun = run(until, broken=[broken])
    assert point_label(law[unprepared], VARIED) not in begun
    assert until.line.startswith("decided after 8 of 24 trials: SUPPORTED") and statuses(spec, tmp_path) == {
        "finished": 6, "not_needed": 16, "failed": 1, "missing": 1,
    }  # fmt: skip


def test_a_damaged_result_of_a_trial_that_is_not_needed_is_set_aside_and_kept(tmp_path: Path) -> None:
    spec = spec_of()
    damaged = finish(tmp_path, expand(spec)[-1])
    (damaged / "result.json").write_text("{")
    with pytest.warns(Notice, match="set aside as result.json.damaged"):
        run(until_of(spec, tmp_path))
    assert statuses(spec, tmp_path) == {"finished": 5, "not_needed": 19}
    assert (damaged / "result.json.damaged").read_text() == "{"


SETTINGS = Settings(Runtime(), Resources(), 3, None, 0.0, "", "", until="log-linear")


@pytest.mark.parametrize(
    ("settings", "search", "judge", "widths", "message"),
    [
        (SETTINGS, Search((Range("lr", 1e-4, 1e-2),)), decided, (4, 8), "--until decided: --tune says by other rules"),
        (replace(SETTINGS, pruner="median"), None, decided, (4, 8), "--until decided: --pruner says"),
        (replace(SETTINGS, pack=6), None, decided, (4, 8), "--until decided: a pack would .* use --pack 0"),
        (SETTINGS, None, decided, (4,), "--until decided: no size varies .* add --axis capacity"),
        (SETTINGS, None, None, (4, 8), r"until: log-linear has nobody to judge it; give run_sweep\(decided=\)"),
    ],
)
def test_where_a_law_cannot_end_a_sweep(
    settings: Settings, search: Search | None, judge: Decided | None, widths: tuple[int, ...], message: str
) -> None:
    law = expand(SweepSpec("mine", PRESETS["smoke"], (Axis("capacity", widths),)))
    with pytest.raises(UserError, match=message) as refused:
        check_until(settings, search, judge, law)
    assert "\n" not in str(refused.value)
    check_until(replace(settings, until=""), search, judge, law)
