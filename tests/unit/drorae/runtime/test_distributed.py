"""Two processes on one trial: the same losses and weights as one, and a discriminator that stays one."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from children import forking
from gloo import in_processes
from tiny import TINY_PROBE, tiny_config, tiny_images

from drorae.config import EvaluationConfig, ObjectiveConfig, PhaseConfig, Runtime, TrialConfig
from drorae.models.weights import read_state
from drorae.runtime import distributed
from drorae.training.rows import HELD_OUT_PSNR
from drorae.trial.result import read_result


def trials(config: TrialConfig) -> dict[str, TrialConfig]:
    """A trial with a probe, one with an adversary from its second step on, and two whose parts are trained together.

    Two networks that learn from each other multiply what the order of additions leaves, and Adam's first steps are as
    long for a gradient of rounding errors as for any other: with short steps it stays below the tolerance on every CPU.
    """
    phase2 = dataclasses.replace(config.phase2, disc_start_steps=0, gan_start_steps=1, lr=1e-5)
    objective = ObjectiveConfig(perceptual="none", gan_weight=0.75)
    discriminator = dataclasses.replace(config.discriminator, lr=2e-6, fakes="repainted", power_iterations=2)
    phase1 = dataclasses.replace(config.phase1, gan_start_steps=1)
    gan = dataclasses.replace(config, phase1=phase1, phase2=phase2, objective=objective, discriminator=discriminator)
    together = {
        name: dataclasses.replace(config, phase2=dataclasses.replace(config.phase2, trains=trains, lr=1e-5))
        for name, trains in (("joint", ("fusion", "decoder")), ("all", ("fusion", "decoder", "encoder")))
    }
    return {"plain": dataclasses.replace(config, probe=TINY_PROBE), **together, "gan": gan}


def work(rank: int, world: int, folder: Path, config: TrialConfig) -> None:
    """One process of `world` on all trials."""
    import torch.distributed as dist

    from drorae.training import adversary
    from drorae.trial.run import run_trial

    if world > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    # Two are looked at on the way, by one of them, while the other waits.
    looks = 3 if world > 1 else 0
    runtime = Runtime(
        device="cpu", threads=1, cache_dir=str(folder / "cache"), log_steps=1, evaluate_every=looks, evaluate_images=4
    )
    learn = adversary.Adversary.learn
    kept: dict[str, dict[str, torch.Tensor]] = {}

    def watched(self: adversary.Adversary, *arguments: Any) -> dict[str, torch.Tensor]:
        kept["heads"] = self.network.state_dict()
        return learn(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adversary.Adversary, "learn", watched)
        for name, trial in trials(config).items():
            run_trial(trial, directory=folder / name, runtime=runtime)
    torch.save(kept["heads"], folder / f"heads{rank}.pt")
    if world > 1:
        dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_train_like_one(tmp_path: Path) -> None:
    config = tiny_config(tiny_images(tmp_path / "images.npz"), evaluation=EvaluationConfig(extractors=()))
    context = forking()
    for world in (1, 2):
        (tmp_path / str(world)).mkdir()
    running = [context.Process(target=work, args=(rank, 2, tmp_path / "2", config)) for rank in range(2)]
    for process in running:
        process.start()
    work(0, 1, tmp_path / "1", config)
    for process in running:
        process.join(300)
        assert process.exitcode == 0
    for name in trials(config):
        rows = [
            [json.loads(line) for line in (tmp_path / world / name / "history.jsonl").read_text().splitlines()]
            for world in ("1", "2")
        ]
        curves = [[row["loss"] for row in found if "loss" in row] for found in rows]
        assert len(curves[0]) == 4
        assert [[row["step"] for row in found if HELD_OUT_PSNR in row] for found in rows] == [[], [3.0]]
        assert curves[1] == pytest.approx(curves[0], rel=1e-5), name
        for part in trials(config)[name].trained_parts:
            one, two = (read_state(tmp_path / world / name / f"{part}.safetensors") for world in ("1", "2"))
            # Adam divides by the gradient's size, so that where it is all rounding the weights may part by a step.
            apart = {key: float((one[key] - two[key]).norm() / one[key].norm().clamp_min(1e-3)) for key in one}
            assert max(apart.values()) < 1e-3, (part, apart)
    results = [read_result(tmp_path / world / "plain") for world in ("1", "2")]
    probed = [
        {} if result is None else {name: result.metrics[name] for name in result.metrics if "probe" in name}
        for result in results
    ]
    assert "probe_loss" in probed[0] and probed[1] == pytest.approx(probed[0], rel=1e-3)
    assert not list(tmp_path.glob("*/plain/*.pt"))
    weights = [[row["gan_weight"] for row in found if "gan_weight" in row] for found in rows]
    # They are ratios of gradients of networks that rounding has parted: on an AMD CPU, one process with half the
    # micro-batch moves the first by 3e-3, later ones by more.
    assert len(weights[0]) == 3 and weights[1][0] == pytest.approx(weights[0][0], rel=1e-2)
    assert weights[1] == pytest.approx(weights[0], rel=2e-2)
    heads = [torch.load(tmp_path / name, weights_only=True) for name in ("1/heads0.pt", "2/heads0.pt", "2/heads1.pt")]
    assert all(torch.equal(value, heads[2][key]) for key, value in heads[1].items()), "two processes, one discriminator"
    one, two = (torch.cat([value.flatten() for value in state.values()]) for state in heads[:2])
    assert (one - two).norm() < 1e-2 * one.norm(), "and that of one process"


def parts(count: int, size: int) -> tuple[list[int], list[str], bool, list[str]]:
    """One process's part, what all bring the main one, and what they agree on."""
    mine = list(distributed.my_part(count, size))
    main = distributed.rank() == 0
    told = list(distributed.from_others([f"{distributed.rank()}.{number}" for number in range(distributed.rank())]))
    agreed = distributed.any_of(distributed.rank() == 1), distributed.from_main(["main"] if main else [])
    distributed.barrier()
    return mine, told, *agreed


@pytest.mark.parametrize(("count", "size"), [(10, 3), (2, 5), (12, 4)])
def test_processes_share_whole_batches_and_bring_the_main_one_theirs_in_order(
    tmp_path: Path, count: int, size: int
) -> None:
    found = in_processes(3, tmp_path, parts, count, size)
    assert [item for mine, *_ in found for item in mine] == list(range(count))
    assert all(mine[0] % size == 0 for mine, *_ in found if mine)
    assert [told for _, told, *_ in found] == [["1.0", "2.0", "2.1"], [], []]
    assert [agreed for *_, agreed, _ in found] == [True] * 3 and [said for *_, said in found] == [["main"]] * 3


def measured(config: TrialConfig, runtime: Runtime) -> tuple[dict[str, Any], dict[str, np.ndarray], np.ndarray]:
    """Metrics, image by image and references of the phase-1 decoder."""
    from drorae.trial.shared import open_workshop

    workshop = open_workshop(config, runtime)
    found = workshop.evaluate(workshop.baseline_tokenizer(), fused=False)
    assert workshop.baseline == found.metrics
    return found.metrics, found.per_image, workshop.references["rfd_effnet"].features[:]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::drorae.errors.Notice")
@pytest.mark.parametrize("size", [3, 64], ids=["five batches and a shorter one", "fewer batches than processes"])
def test_two_processes_measure_what_one_does_to_the_last_bit(tmp_path: Path, size: int) -> None:
    evaluation = EvaluationConfig(extractors=("effnet",), batch_size=size, bootstrap=3)
    config = tiny_config(tiny_images(tmp_path / "images.npz"), phase2=PhaseConfig(epochs=0), evaluation=evaluation)
    runtime = Runtime(device="cpu", threads=1, cache_dir=str(tmp_path / "one"))
    metrics, images, features = measured(config, runtime)
    # The same decoder.
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    shutil.rmtree(tmp_path / "two" / "references")
    for path in (tmp_path / "two").glob("decoders/*/baseline-*"):
        path.unlink()
    runtime = dataclasses.replace(runtime, cache_dir=str(tmp_path / "two"))
    for found, per_image, originals in in_processes(2, tmp_path / "meet", measured, config, runtime):
        assert found == metrics and "rfd_effnet_se_bootstrap" in found and found["eval_images"] == 16
        assert images.keys() == per_image.keys() == {"psnr", "ssim", "l1", "rfd_effnet_influence"}
        assert all(np.array_equal(values, per_image[name]) for name, values in images.items())
        assert np.array_equal(features, originals)


def cramped(config: TrialConfig, folder: Path, room: int, begin: int) -> dict[str, np.ndarray]:
    """A trial that begins with `begin` images at once, whose last process has room for `room`: weights at its end."""
    from drorae.models.tokenizer import Tokenizer
    from drorae.trial.run import run_trial

    decode = Tokenizer.decode

    def guarded(self: Tokenizer, latent: torch.Tensor, *more: Any) -> torch.Tensor:
        if len(latent) > room and distributed.rank() == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return decode(self, latent, *more)

    runtime = Runtime(device="cpu", threads=1, cache_dir=str(folder / "cache"), micro_batch=begin, log_steps=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tokenizer, "decode", guarded)
        result = run_trial(config, directory=folder / "trial", runtime=runtime)
    assert begin or result.provenance["micro_batch.phase2"] == str(room)
    (heads,) = folder.glob("cache/decoders/*/heads.safetensors")
    weights = read_state(folder / "trial" / "fusion.safetensors") | read_state(heads)
    return {name: value.numpy() for name, value in weights.items()}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::drorae.errors.Notice")
def test_memory_that_one_process_lacks_lowers_the_micro_batch_of_all(tmp_path: Path) -> None:
    config = tiny_config(tiny_images(tmp_path / "images.npz"), evaluation=EvaluationConfig(extractors=()))
    gan = trials(config)["gan"]
    short = in_processes(2, tmp_path / "short", cramped, gan, tmp_path / "short", 4, 0)
    begun = in_processes(2, tmp_path / "begun", cramped, gan, tmp_path / "begun", 100, 4)
    for one, other in zip(short, begun, strict=True):
        assert not isinstance(one, Exception) and not isinstance(other, Exception), (one, other)
        assert one.keys() == other.keys() and all(np.array_equal(value, other[name]) for name, value in one.items())
