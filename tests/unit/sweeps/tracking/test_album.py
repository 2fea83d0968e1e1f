"""Pictures of held-out images in MLflow: each once, with its step, and no harm from a store that is away."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
from fake_trial import STEPS, run_trial
from mlflow.tracking import MlflowClient
from runs import nowhere, only_run, steps

from drorae.config import PRESETS, Runtime, TrialConfig
from drorae.diagnostics.picture import write_picture
from drorae.trial.folder import HELD_OUT_PICTURE, PICTURE_SPOOL
from sweeps.folder.sweep import RunAddress
from sweeps.tracking.album import Album
from sweeps.tracking.client import Store
from sweeps.tracking.recorder import Recorder
from sweeps.tracking.sweep import SweepTracker
from sweeps.tracking.trial import TrialTracker

Row = dict[str, float | str]


def look(directory: Path, phase: str, step: int) -> Row:
    """What a trial leaves and reports where it is measured."""
    images = np.full((2, 8, 8, 8, 3), step, np.uint8)
    write_picture(directory / HELD_OUT_PICTURE.format(phase), images[0], images[1], step)
    return {"phase": phase, "step": float(step), "held_out.psnr": 20.0 + step, "held_out.images": 9.0}


def shown(client: MlflowClient, run_id: str) -> list[int]:
    """The steps of a run's pictures, as MLflow's own page reads them."""
    paths = [item.path for item in client.list_artifacts(run_id, "images") if item.path.endswith(".png")]
    return sorted(int(re.split("[+%]", path)[2]) for path in paths)


def measured(client: MlflowClient, run_id: str) -> list[tuple[int, float]]:
    return [(item.step, item.value) for item in client.get_metric_history(run_id, "train/held_out.psnr")]


@pytest.fixture
def config(request: pytest.FixtureRequest) -> TrialConfig:
    return replace(PRESETS["smoke"], seed=crc32(request.node.name.encode()))


def test_what_is_measured_goes_beside_the_losses_and_each_picture_once(
    sweep: SweepTracker, tmp_path: Path, config: TrialConfig
) -> None:
    rows: list[Row] = [{"phase": "phase2", "step": float(step), "loss": 1.0} for step in range(1, 5)]
    first = TrialTracker(sweep.address, config, tmp_path)
    for row in rows[:2]:
        first.report(row)
    assert first.flush()
    # Of a step whose loss was sent before.
    first.report(seen := look(tmp_path, "phase2", 2))
    assert first.flush()
    # Killed here; the next attempt reports all again, and goes on.
    second = TrialTracker(sweep.address, config, tmp_path)
    for row in (*rows[:2], seen, *rows[2:], look(tmp_path, "phase2", 4)):
        second.report(row)
    second.report({"phase": "phase3", "step": 1.0, "loss": 0.1})
    second.report(look(tmp_path, "phase3", 1))
    assert second.flush() and second.flush()
    run = only_run(sweep.client, sweep.address, config)
    assert steps(sweep.client, run) == [1, 2, 3, 4, 5]
    assert measured(sweep.client, run.info.run_id) == [(2, 22.0), (4, 24.0), (5, 21.0)]
    assert shown(sweep.client, run.info.run_id) == [2, 4, 5]
    assert run.data.tags["mlflow.loggedImages"] == "True"


def test_a_store_that_was_away_gets_the_measurements_and_every_picture(
    sweep: SweepTracker, tmp_path: Path, config: TrialConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    said: list[str] = []
    away = TrialTracker(RunAddress(nowhere(), "1", "parent"), config, tmp_path, said.append)
    run_trial(config, away.report, directory=tmp_path, runtime=Runtime())
    seen = []
    with Recorder(away) as recording:
        for step in (2, 4):
            seen.append(look(tmp_path, "phase2", step))
            recording.report(seen[-1])
    with (tmp_path / "history.jsonl").open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in seen)
    assert len(said) == 1 and (tmp_path / PICTURE_SPOOL).is_file()
    # The next start of the sweep, in another process, finds the store again.
    assert TrialTracker(sweep.address, config, tmp_path).finish()
    assert TrialTracker(sweep.address, config, tmp_path).finish()
    run = only_run(sweep.client, sweep.address, config)
    assert not (tmp_path / PICTURE_SPOOL).exists()
    assert steps(sweep.client, run) == list(range(1, STEPS + 1))
    assert measured(sweep.client, run.info.run_id) == [(2, 22.0), (4, 24.0)]
    assert shown(sweep.client, run.info.run_id) == [2, 4] and run.info.status == "FINISHED"


def test_few_pictures_wait_and_none_stands_for_another_step(tmp_path: Path) -> None:
    album = Album(tmp_path)
    for step in range(1, 31):
        picture = album.read(look(tmp_path, "phase2", step))
        assert picture is not None
        album.take(picture, step, 100 + step)
    row = look(tmp_path, "phase2", 40)
    assert album.read(row) and album.read(row | {"step": 39.0}) is None and album.read({"phase": "phase2"}) is None
    (tmp_path / HELD_OUT_PICTURE.format("phase2")).write_bytes(b"half a pic")
    assert album.read(row) is None
    album.save()
    assert sorted(Album(tmp_path)._waiting) == sorted(album._waiting) == list(range(111, 131))
    (tmp_path / PICTURE_SPOOL).write_bytes(b"half a zip")
    assert not Album(tmp_path)._waiting


def test_a_long_trial_of_a_study_of_twenty_stays_within_its_share_of_100_000_values(
    sweep: SweepTracker, tmp_path: Path, config: TrialConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two phases of 100,000 steps that report each, with an adversary, measured every ten; phase 1 once for all."""
    from drorae.training.rows import MOST_LOOKS, MOST_ROWS, steps_between

    sent: list[tuple[str, int]] = []
    send = Store.send

    def count(self: Store, run_id: str, metrics: object = (), **texts: object) -> None:
        found = list(metrics)  # type: ignore[call-overload]
        sent.extend((name, step) for name, _, _, step in found)
        send(self, run_id, **texts)  # type: ignore[arg-type]

    monkeypatch.setattr(Store, "send", count)
    names = ("epoch", "loss", "l1", "perceptual", "gan", "gan_weight", "disc_loss", "lr", "images_per_second")
    total = 100_000

    def rows(phase: str) -> list[Row]:
        base: Row = {"phase": phase, "total_steps": float(total), **dict.fromkeys((*names, "micro_batch"), 1.0)}
        beside: Row = {
            "phase": phase,
            **{f"held_out.{name}": 1.0 for name in ("psnr", "ssim", "l1", "images", "seconds")},
        }
        every, looks = steps_between(1, total, MOST_ROWS), steps_between(10, total, MOST_LOOKS)
        kept = [base | {"step": float(step)} for step in range(every, total + 1, every)]
        return kept + [beside | {"step": float(step)} for step in range(looks, total + 1, looks)]

    tracker = TrialTracker(sweep.address, config, tmp_path)
    for phase in ("phase2", "phase3"):
        for row in sorted(rows(phase), key=lambda row: row["step"]):
            tracker.report(row)
    assert tracker.flush()
    trial = len(sent)
    assert len({step for name, step in sent if name == "train/loss"}) == 2 * 151
    assert ("train/loss", total) in sent and ("train/loss", 2 * total) in sent
    assert len({step for name, step in sent if name == "train/held_out.psnr"}) == 2 * MOST_LOOKS
    sent.clear()
    sweep.log_preparation(rows("phase1"))
    final = 250  # metrics, baseline, gains, and the numbers of the look inside
    assert 20 * (trial + final) + len(sent) < 100_000
