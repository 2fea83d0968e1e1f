"""Two processes on one trial: the same losses and weights as one, and a discriminator that stays one."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_config, tiny_images

from drorae.config import ObjectiveConfig, Runtime, TrialConfig
from drorae.models.weights import read_state


def trials(config: TrialConfig) -> dict[str, TrialConfig]:
    """A plain trial, one with an adversary from its second step on, and two whose parts are trained together.

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
    return {"plain": config, **together, "gan": gan}


def work(rank: int, world: int, folder: Path, config: TrialConfig) -> None:
    """One process of `world` on all trials."""
    import torch.distributed as dist

    from drorae.training import adversary
    from drorae.trial.run import run_trial

    torch.set_num_threads(1)
    if world > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    runtime = Runtime(device="cpu", threads=1, cache_dir=str(folder / "cache"), log_steps=1)
    learn = adversary.Adversary.learn
    kept = {}

    def watched(self: adversary.Adversary, *arguments: Any) -> dict[str, torch.Tensor]:
        kept["heads"] = self.network.state_dict()
        return learn(self, *arguments)

    adversary.Adversary.learn = watched  # type: ignore[method-assign]
    for name, trial in trials(config).items():
        run_trial(trial, directory=folder / name, runtime=runtime)
    torch.save(kept["heads"], folder / f"heads{rank}.pt")
    if world > 1:
        dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_train_like_one(tmp_path: Path) -> None:
    config = tiny_config(tiny_images(tmp_path / "images.npz"))
    context = multiprocessing.get_context("spawn")
    running = []
    for world in (1, 2):
        folder = tmp_path / str(world)
        folder.mkdir()
        for rank in range(world):
            running.append(context.Process(target=work, args=(rank, world, folder, config)))
    for process in running:
        process.start()
    for process in running:
        process.join(240)
        assert process.exitcode == 0
    for name in trials(config):
        rows = [
            [json.loads(line) for line in (tmp_path / world / name / "history.jsonl").read_text().splitlines()]
            for world in ("1", "2")
        ]
        curves = [[row["loss"] for row in found if "loss" in row] for found in rows]
        assert len(curves[0]) == 4
        assert curves[1] == pytest.approx(curves[0], rel=1e-5), name
        for part in trials(config)[name].trained_parts:
            one, two = (read_state(tmp_path / world / name / f"{part}.safetensors") for world in ("1", "2"))
            # Adam divides by the gradient's size, so that where it is all rounding the weights may part by a step.
            apart = {key: float((one[key] - two[key]).norm() / one[key].norm().clamp_min(1e-3)) for key in one}
            assert max(apart.values()) < 1e-3, (part, apart)
    weights = [[row["gan_weight"] for row in found if "gan_weight" in row] for found in rows]
    assert len(weights[0]) == 3 and weights[1][0] == pytest.approx(weights[0][0], rel=1e-3)
    # Later ones are ratios of gradients of networks that rounding has parted.
    assert weights[1] == pytest.approx(weights[0], rel=2e-2)
    heads = [torch.load(tmp_path / name, weights_only=True) for name in ("1/heads0.pt", "2/heads0.pt", "2/heads1.pt")]
    assert all(torch.equal(value, heads[2][key]) for key, value in heads[1].items()), "two processes, one discriminator"
    one, two = (torch.cat([value.flatten() for value in state.values()]) for state in heads[:2])
    assert (one - two).norm() < 1e-2 * one.norm(), "and that of one process"
