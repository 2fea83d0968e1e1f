"""Options that several commands share: what they stand for, and how mistakes in them are refused."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from drorae.commands.options import (
    ConfigOptions,
    JsonOption,
    RuntimeOptions,
    TrialOptions,
    assignments,
    by_field,
    choose,
    read_sweep,
    write_new,
)
from drorae.config import PRESETS, to_dict
from drorae.errors import UserError
from sweeps.spec import Axis, SweepSpec


def test_values_may_be_empty_and_hold_further_equals_signs() -> None:
    given = (("images.path=", "label=a=b"), ("seed=1",))
    assert assignments("--set", given, "") == [("images.path", ""), ("label", "a=b"), ("seed", "1")]
    for word in ("seed", "=1"):
        with pytest.raises(UserError, match=f"^--set {word}: expected NAME=VALUE, such as seed=1$"):
            assignments("--set", [[word]], ", such as seed=1")


def test_a_field_goes_by_one_name_and_is_given_once() -> None:
    assert by_field("--axis", [("capacity", 1), ("seed", 2)], "") == {"fusion.expert_hidden_dim": 1, "seed": 2}
    with pytest.raises(UserError, match=r"^--axis fusion\.expert_hidden_dim: given twice; give all values at once$"):
        by_field("--axis", [("capacity", 1), ("fusion.expert_hidden_dim", 2)], "give all values at once")


def test_a_name_that_a_table_lacks_is_answered_with_its_names() -> None:
    assert choose({"a": 1}, "a", "--preset", "preset") == 1
    with pytest.raises(UserError, match="^--preset c: no such preset; choose one of a, b$"):
        choose({"a": 1, "b": 2}, "c", "--preset", "preset")


def test_a_sweep_is_read_from_its_own_file_or_from_a_trial_s_config(tmp_path: Path) -> None:
    spec = SweepSpec("mine", PRESETS["smoke"], (Axis("capacity", (4, 8)),))
    path = write_new(tmp_path / "a" / "folder" / "sweep.json", {"spec": spec.to_dict()})
    assert read_sweep(path) == spec
    assert ConfigOptions(config=path, overrides=(("seed=3",),)).sweep_spec() == spec
    config = write_new(tmp_path / "trial" / "config.json", to_dict(PRESETS["smoke"]))
    assert read_sweep(config) == SweepSpec("trial", PRESETS["smoke"])
    with pytest.raises(UserError, match="expected a folder to write to"):
        write_new(path / "sweep.json", {})


def test_every_runtime_option_reaches_the_runtime(tmp_path: Path) -> None:
    options = RuntimeOptions(
        device="cpu",
        threads=3,
        features="online",
        loader_workers=2,
        cache_dir=str(tmp_path),
        cache_limit_gb=2.5,
        cache_evict=True,
        micro_batch=4,
        activation_checkpointing=True,
        fast_kernels=True,
        compile=True,
        checkpoint_seconds=7.0,
        evaluate_every=8,
        evaluate_images=9,
    )
    runtime = options.runtime()
    assert {name: getattr(runtime, name) for name in vars(options)} == vars(options)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("threads", -1),
        ("micro_batch", -1),
        ("checkpoint_seconds", float("nan")),
        ("cache_limit_gb", 0.0),
        ("evaluate_every", -1),
        ("evaluate_images", 0),
    ],
)
def test_a_runtime_that_makes_no_sense_is_refused_by_its_option(name: str, value: float) -> None:
    with pytest.raises(UserError, match=f"^--{name.replace('_', '-')}: expected .*, got {value}$"):
        RuntimeOptions(**{name: value}).runtime()  # type: ignore[arg-type]


def test_a_trial_is_its_folder_or_a_sweep_s_only_one(tmp_path: Path) -> None:
    def trial(place: Path) -> Path:
        return TrialOptions(run_dir=place).trial()

    with pytest.raises(UserError, match="no finished trial here"):
        trial(tmp_path)
    first = write_new(tmp_path / "trials" / "one" / "result.json", {}).parent
    assert trial(first) == trial(tmp_path) == first
    write_new(tmp_path / "trials" / "two" / "result.json", {})
    with pytest.raises(UserError, match="no finished trial here"):
        trial(tmp_path)


@dataclass(kw_only=True)
class Answer(JsonOption):
    """A command's outcome."""


def test_an_outcome_is_words_or_json(capsys: pytest.CaptureFixture[str]) -> None:
    Answer().answer({"n": 1}, "one")
    Answer().answer({"n": 1}, lambda: print("a table"))
    Answer(as_json=True).answer({"n": 1}, "one")
    words, table, *tree = capsys.readouterr().out.splitlines()
    assert (words, table) == ("one", "a table") and json.loads("\n".join(tree)) == {"n": 1}
