"""Weights are the trial's own, or refused: in its folder, in the cache, and in a sweep."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from records import empty_records
from tiny import at_the_end, tiny_config, tiny_images

from analysis.table.files import read_table
from analysis.table.mlflow import read_mlflow
from drorae.commands.main import main
from drorae.config import FusionConfig, PhaseConfig, Runtime, TrialConfig
from drorae.errors import Notice, UserError
from drorae.models.weights import read_state, save_sealed, state_sha256
from drorae.trial import shared
from drorae.trial.reload import load_trained, reevaluate
from drorae.trial.result import TrialResult, read_result
from drorae.trial.run import prepare as prepare_trials
from drorae.trial.run import run_trial
from drorae.trial.shared import open_workshop
from sweeps.driver.run import run_sweep
from sweeps.spec import Axis, SweepSpec


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrialConfig:
    """Phases 2 and 3 of four steps each."""
    config = tiny_config(tiny_images(tmp_path_factory.mktemp("images") / "images.npz"))
    return dataclasses.replace(config, phase3=config.phase1)


@pytest.fixture(scope="module")
def shared_cache(config: TrialConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    prepare_trials(config, Runtime(device="cpu", threads=1, cache_dir=str(folder)))
    return folder


@pytest.fixture
def runtime(shared_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runtime:
    """A copy of the cache, opened anew, as a new process does; other commands find it, too."""
    shutil.copytree(shared_cache, tmp_path / "cache")
    monkeypatch.setenv("DRORAE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(shared, "_last", None)
    return Runtime(device="cpu", threads=1, cache_dir=str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def finished(config: TrialConfig, shared_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("trial")
    run_trial(config, directory=directory, runtime=Runtime(device="cpu", threads=1, cache_dir=str(shared_cache)))
    return directory


@pytest.fixture
def trial(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "trial"))


def result_of(directory: Path) -> TrialResult:
    result = read_result(directory)
    assert result is not None
    return result


def other_weights(path: Path) -> None:
    """Weights of the same names and shapes, whole by their seal, as another GPU would have made them."""
    save_sealed(path, {name: tensor + 1e-6 for name, tensor in read_state(path).items()})


def other_decoder(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    (path,) = Path(runtime.cache_dir).glob("decoders/*/decoder.safetensors")
    other_weights(path)
    monkeypatch.setattr(shared, "_last", None)


@pytest.mark.parametrize("part", ["fusion", "decoder"])
def test_a_trial_without_its_weights_is_not_measured(
    trial: Path, runtime: Runtime, tmp_path: Path, capsys: pytest.CaptureFixture[str], part: str
) -> None:
    (trial / f"{part}.safetensors").unlink()
    for command in ("eval", "probe", "inspect", "export"):
        target = [str(tmp_path / "exported")] if command == "export" else []
        assert main([command, str(trial), *target, "--device", "cpu"]) == 2
        said = capsys.readouterr().err
        assert f"{part}.safetensors: missing" in " ".join(said.split()).replace(" .", ".") and "again" in said
    assert not (tmp_path / "exported").exists() and not (trial / "inspection").exists()
    with pytest.raises(UserError, match=f"{part}.safetensors: missing.*run the trial again"):
        reevaluate(trial, runtime=runtime)


@pytest.mark.parametrize(
    "fields",
    [{"fusion": FusionConfig(variant=name)} for name in ("last", "mean", "mean_dc")]
    + [{"phase2": PhaseConfig(epochs=0), "phase3": PhaseConfig(epochs=0)}],
)
def test_what_trained_nothing_needs_no_file(
    config: TrialConfig, runtime: Runtime, tmp_path: Path, fields: dict[str, Any]
) -> None:
    result = run_trial(dataclasses.replace(config, **fields), directory=tmp_path / "own", runtime=runtime)
    assert not (tmp_path / "own" / "fusion.safetensors").exists()
    assert reevaluate(tmp_path / "own", runtime=runtime) == at_the_end(result.metrics)


def test_the_result_keeps_the_digest_of_its_weights(trial: Path, config: TrialConfig, runtime: Runtime) -> None:
    result, workshop = result_of(trial), open_workshop(config, runtime)
    assert result.weights == {
        "phase1_decoder": state_sha256(workshop.decoder),
        "fusion": state_sha256(read_state(trial / "fusion.safetensors")),
        "decoder": state_sha256(read_state(trial / "decoder.safetensors")),
    }
    assert all(len(digest) == 64 for digest in result.weights.values())
    assert result.provenance["fingerprint.phase1_weights"] == result.weights["phase1_decoder"]
    # An older version's result.
    tree = json.loads((trial / "result.json").read_text())
    del tree["weights"]
    (trial / "result.json").write_text(json.dumps(tree))
    with pytest.warns(Notice, match="keeps no SHA-256"):
        assert reevaluate(trial, runtime=runtime) == at_the_end(result.metrics)


@pytest.mark.parametrize("part", ["fusion", "decoder"])
def test_weights_put_in_place_of_a_trials_own_are_refused(trial: Path, runtime: Runtime, part: str) -> None:
    other_weights(trial / f"{part}.safetensors")
    with pytest.raises(UserError, match=f"{part}.safetensors: .*not those that the trial was measured with"):
        load_trained(trial, runtime)


def test_a_trial_is_measured_on_its_own_phase_one_decoder_only(
    trial: Path, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = result_of(trial)
    shutil.rmtree(Path(runtime.cache_dir) / "decoders")
    assert reevaluate(trial, runtime=runtime) == at_the_end(result.metrics), "made again as it was"
    other_decoder(runtime, monkeypatch)
    with pytest.raises(UserError, match="started from another phase-1 decoder .*decoders/.*put that one back"):
        reevaluate(trial, runtime=runtime)


def test_a_decoder_that_was_exchanged_under_an_open_workshop_is_noticed(
    trial: Path, config: TrialConfig, runtime: Runtime
) -> None:
    before = open_workshop(config, runtime)
    assert open_workshop(config, runtime).encoder is before.encoder, "the next trial gets it again"
    (path,) = Path(runtime.cache_dir).glob("decoders/*/decoder.safetensors")
    other_weights(path)
    with pytest.raises(UserError, match="started from another phase-1 decoder"):
        load_trained(trial, runtime)
    exchanged = open_workshop(config, runtime)
    assert exchanged.fingerprints["phase1_weights"] != before.fingerprints["phase1_weights"]
    assert exchanged.baseline != before.baseline
    # What it has in memory serves on where the file is gone.
    path.unlink()
    assert open_workshop(config, runtime).encoder is exchanged.encoder


def test_a_trial_is_measured_on_its_own_encoder_only(trial: Path, runtime: Runtime) -> None:
    tree = json.loads((trial / "result.json").read_text())
    tree["provenance"]["fingerprint.encoder"] = "another"
    (trial / "result.json").write_text(json.dumps(tree))
    with pytest.raises(UserError, match="trained on the encoder another, found vit_tiny"):
        load_trained(trial, runtime)


def test_a_half_done_trial_goes_on_with_its_own_decoder_only(
    trial: Path, config: TrialConfig, runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = result_of(trial)
    (trial / "result.json").unlink()
    other_decoder(runtime, monkeypatch)
    # One that begins now was prepared with the decoder of then.
    for directory, since in ((trial, "began"), (tmp_path / "new", "was prepared")):
        with pytest.raises(UserError, match=f"phase1_weights .*decoders/.*changed since this trial {since}"):
            run_trial(config, directory=directory, runtime=runtime)
    # What an older version noted of its inputs says nothing of the decoder's contents.
    inputs = json.loads((trial / "inputs.json").read_text())
    del inputs["phase1_weights"]
    (trial / "inputs.json").write_text(json.dumps(inputs))
    again = run_trial(config, directory=trial, runtime=runtime)
    assert again.weights["phase1_decoder"] != result.weights["phase1_decoder"]
    assert again.baseline != result.baseline, "a baseline belongs to a decoder's contents"


@pytest.mark.usefixtures("ray")
def test_a_sweep_goes_on_with_the_decoder_it_began_with(
    config: TrialConfig,
    runtime: Runtime,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    spec = SweepSpec("tiny", config, (Axis("capacity", (4, 8, 16, 32)),))
    empty_records(tmp_path / "runs")
    outcome = run_sweep(spec, root=tmp_path / "runs", runtime=runtime, quiet=True)
    digest = read_table(outcome.trials_csv)["phase1_weights"]
    assert digest.nunique() == 1 and digest.str.len().tolist() == [16] * 4
    assert read_mlflow(outcome.tracking_uri, "tiny")["phase1_weights"].tolist() == digest.tolist()
    fit = ["fit", str(outcome.directory), "--x", "capacity", "--y", "psnr"]
    assert main(fit) == 0
    # As if the cache had been emptied, and phase 1 had come out otherwise, before the last trial.
    first, *others = sorted(outcome.directory.glob("trials/*/result.json"))
    for path in others:
        tree = json.loads(path.read_text())
        path.write_text(json.dumps(tree | {"weights": tree["weights"] | {"phase1_decoder": "e" * 64}}))
    content = first.read_text()
    first.unlink()
    with pytest.raises(UserError, match="phase1_weights .*decoders/.* was eeeeeeeeeeee .*sweep's trials.*--name"):
        run_sweep(spec, root=tmp_path / "runs", runtime=runtime, quiet=True)
    assert not first.exists(), "refused before any training"
    first.write_text(content)
    assert run_sweep(spec, root=tmp_path / "runs", runtime=runtime, quiet=True).counts == {"finished": 4}
    capsys.readouterr()
    assert main(fit) == 2
    assert "eeeeeeeeeeeeeeee (3 rows)" in capsys.readouterr().err
    assert main([*fit, "--mix-decoders"]) == 0
    assert "mixed-decoders" in capsys.readouterr().out
