"""How a trial is run."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from tiny import tiny_config, tiny_images

from drorae.config import PRESETS, Runtime, config_hash, to_dict
from drorae.storage.files import json_rows, write_json
from drorae.training import rows
from drorae.trial.folder import TrialStatus, write_tree
from drorae.trial.result import TrialResult
from drorae.trial.run import run_trial


def test_a_trial_that_an_older_version_called_unconverged_is_not_run_again(tmp_path: Path) -> None:
    config = PRESETS["smoke"]
    old = TrialResult(config_hash(config), TrialStatus.UNCONVERGED, "energy", 8, 12, 0, 1, 2, {"psnr": 20.0})
    write_json(tmp_path / "config.json", to_dict(config))
    write_tree(tmp_path, "result.json", asdict(old) | {"loss_tail_drop": 0.3})
    assert run_trial(config, directory=tmp_path) == old


def test_the_history_of_a_long_trial_is_bounded_and_its_progress_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "MOST_ROWS", 2)
    config, heard = tiny_config(tiny_images(tmp_path / "images.npz")), list[dict[str, Any]]()
    runtime = Runtime(device="cpu", threads=1, cache_dir=str(tmp_path / "cache"), log_steps=1)
    run_trial(config, heard.append, directory=tmp_path / "trial", runtime=runtime)
    for phase in ("phase1", "phase2"):
        assert [row["step"] for row in heard if row["phase"] == phase and "loss" in row] == [1, 2, 3, 4]
    history = json_rows((tmp_path / "trial" / "history.jsonl").read_bytes())
    assert [(row["phase"], row["step"]) for row in history] == [("phase2", 2), ("phase2", 4)]
    assert history == [row for row in heard if row["phase"] == "phase2" and rows.is_kept(row) and "loss" in row]
    (decoder,) = (tmp_path / "cache").rglob("history.json")
    logs = [json.loads((tmp_path / "trial" / "phase2.json").read_text())["rows"], json.loads(decoder.read_text())]
    assert [[row["step"] for row in log] for log in logs] == [[2, 4], [2, 4]]
