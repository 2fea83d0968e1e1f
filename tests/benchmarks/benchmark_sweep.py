"""A sweep of 8 capacities against what a careful person writes with Ray Tune alone.

    python tests/benchmarks/benchmark_sweep.py [--images IMAGES]

The script by hand wastes nothing but shares nothing: each trial loads the encoder, encodes the images once, keeps
features and perceptual targets in memory, trains a decoder, then a fusion before it, and measures the reconstructions.
It has drorae's networks, losses, metrics, orders, rates and precision (bfloat16 products where the machine has them),
and neither checkpoints nor tracking, so that both measure the same up to rounding; the largest difference is said. Both
encode in float32: in bfloat16, twice as fast, other metrics come out (0.2 to 0.3 dB of PSNR after 9 steps). drorae's
sweep is a whole one, with an empty cache, MLflow and checkpoints, as many trials at once as the script, in two packs.

What bounds the ratio is what trials cannot share: the script's own fusion training and measuring are timed, and said.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from alternate import alternate, arguments, record
from torch import Tensor, nn

from drorae.config import PRESETS, Phase, Runtime, TrialConfig
from drorae.data.images import load_images
from drorae.data.pixels import as_images, to_uint8
from drorae.losses.objective import Objective, load_objective
from drorae.machine.precision import settled
from drorae.metrics.evaluate import evaluate
from drorae.metrics.extractors import load_extractor
from drorae.models.encoder import load_encoder
from drorae.models.tokenizer import Tokenizer, build_tokenizer
from drorae.training.schedule import epoch_order, learning_rate
from sweeps.driver.cluster import ray_session
from sweeps.driver.run import run_sweep
from sweeps.resources import Resources
from sweeps.spec import Axis, SweepSpec, expand

CAPACITIES = (1, 4, 8, 16, 32, 64, 128, 256)


def spec(images: int) -> SweepSpec:
    """The quickstart's networks and epochs on fewer images, a third as many for validation."""
    config = settled(PRESETS["quickstart"])
    split = dataclasses.replace(config.images, train_images=images, val_images=images // 3)
    return SweepSpec("benchmark", dataclasses.replace(config, images=split), (Axis("capacity", CAPACITIES),))


def by_hand(config: TrialConfig, cache: str) -> dict[str, float]:
    """One trial of the script: a config in, metrics out, and of its `seconds` those of what is the trial's `own`."""
    began, own = time.perf_counter(), 0.0
    torch.set_num_threads(1)
    images = load_images(config.images)
    encoder = load_encoder(config.encoder, cache)
    objective = load_objective(config.objective)
    train, val = (
        torch.from_numpy(split.crops(list(range(len(split))), 0)).permute(0, 3, 1, 2)
        for split in (images.train, images.val)
    )
    with torch.no_grad():
        layers, val_layers = (
            torch.cat([encoder(as_images(part)).layers.bfloat16() for part in crops.split(64)])
            for crops in (train, val)
        )
        assert objective.cached is not None
        targets = torch.cat([objective.cached.targets(as_images(part)) for part in train.split(64)])
    tokenizer = build_tokenizer(config, encoder).eval()
    for phase in config.phases[:2]:
        tokenizer.requires_grad_(False)
        module = tokenizer.fusion if phase.fused else tokenizer.decoder
        module.requires_grad_(True)
        since = time.perf_counter()
        _train(tokenizer, module, phase, config, objective, train, layers, targets)
        own += (time.perf_counter() - since) * phase.fused
    since = time.perf_counter()
    extractors = [load_extractor(name, config.evaluation, cache, "cpu") for name in config.evaluation.extractors]
    with torch.no_grad():
        pairs = [
            (to_uint8(tokenizer.decode(tokenizer.fuse(part.float()).latent)), original)
            for part, original in zip(val_layers.split(128), val.split(128), strict=True)
        ]
    metrics = dict(evaluate(pairs, extractors).metrics)
    return metrics | {"own": own + time.perf_counter() - since, "seconds": time.perf_counter() - began}


def _train(
    tokenizer: Tokenizer,
    module: nn.Module,
    phase: Phase,
    config: TrialConfig,
    objective: Objective,
    crops: Tensor,
    layers: Tensor,
    targets: Tensor,
) -> None:
    settings, batch = phase.settings, phase.settings.batch_size
    seed = config.seed if phase.fused else config.decoder.seed
    steps = len(crops) // batch
    total = steps * settings.epochs
    optimiser = torch.optim.AdamW(
        module.parameters(), settings.lr, settings.betas, weight_decay=settings.weight_decay, fused=True
    )
    for step in range(total):
        optimiser.param_groups[0]["lr"] = learning_rate(settings, step, total)
        order = epoch_order(seed, phase.number, step // steps, len(crops))
        items = torch.from_numpy(order[step % steps * batch : (step % steps + 1) * batch])
        with torch.autocast("cpu", torch.bfloat16, enabled=settings.precision == "bf16"):
            # The fusion as its formula stands, all layers in one batched product.
            fused = phase.fused
            latent = tokenizer.fuse(layers[items].float()).latent if fused else tokenizer.base(layers[items, -1:])
            painted = tokenizer.decode(latent)
        optimiser.zero_grad()
        objective(painted, crops[items], targets[items])["loss"].backward()
        nn.utils.clip_grad_norm_(module.parameters(), settings.clip_norm)
        optimiser.step()


def run_by_hand(sweep: SweepSpec, folder: Path, shares: list[float]) -> dict[int, float]:
    """The script: PSNR by capacity; `shares` gets the part of the trials' time that they cannot share."""
    with ray_session(""):
        from ray import tune

        def trainable(given: dict[str, Any]) -> None:
            config = next(item for item in expand(sweep) if item.fusion.expert_hidden_dim == given["capacity"])
            (folder / f"{given['capacity']}.json").write_text(json.dumps(by_hand(config, str(folder))))

        tune.Tuner(
            tune.with_resources(trainable, {"CPU": 1}),
            param_space={"capacity": tune.grid_search(list(CAPACITIES))},
            tune_config=tune.TuneConfig(reuse_actors=True, max_concurrent_trials=os.cpu_count()),
            run_config=tune.RunConfig(name="tune", storage_path=str(folder / "ray"), verbose=0),
        ).fit()
    found = {size: json.loads((folder / f"{size}.json").read_text()) for size in CAPACITIES}
    shares.append(sum(item["own"] for item in found.values()) / sum(item["seconds"] for item in found.values()))
    return {size: item["psnr"] for size, item in found.items()}


def run_drorae(sweep: SweepSpec, folder: Path) -> dict[int, float]:
    """The same as a sweep: PSNR by capacity."""
    outcome = run_sweep(
        sweep,
        root=folder,
        runtime=Runtime(cache_dir=str(folder / "cache")),
        resources=Resources(cpus=1),
        pack=len(CAPACITIES) // 2,
        quiet=True,
    )
    with outcome.trials_csv.open() as file:
        return {int(row["expert_hidden_dim"]): float(row["psnr"]) for row in csv.DictReader(file)}


def main() -> None:
    """Runs the comparison and records it."""
    parser = arguments(__doc__)
    parser.add_argument("--images", type=int, default=1000, help="training images; a third as many for validation")
    options = parser.parse_args()
    sweep = spec(options.images)
    measured: dict[str, dict[int, float]] = {}
    shares: list[float] = []

    def thing(name: str, run: Callable[[SweepSpec, Path], dict[int, float]]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            measured[name] = run(sweep, Path(folder))

    script = partial(run_by_hand, shares=shares)
    found = alternate(
        f"{len(CAPACITIES)} capacities, {options.images} images",
        {"drorae": partial(thing, "drorae", run_drorae), "by hand": partial(thing, "by hand", script)},
        rounds=options.rounds,
        warm_up=False,
    )
    apart = max(abs(measured["drorae"][size] - measured["by hand"][size]) for size in CAPACITIES)
    record(
        "sweep",
        [found],
        options.out,
        f"PSNR differs by at most {apart:.2g} dB between the two, at {min(measured['drorae'].values()):.4g} to "
        f"{max(measured['drorae'].values()):.4g} dB. Target: a quarter of the time. drorae's contains "
        "the start of Ray and MLflow, and every trial's inspection, pictures and weights. Of the script's trials "
        f"{statistics.median(shares):.0%} of the time is the fusion's training and measuring, which no sharing saves.",
    )


if __name__ == "__main__":
    main()
