"""A stand-in for a trial that takes milliseconds and misbehaves on request (through `encoder.path`)."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from drorae.config import Runtime, TrialConfig, canonical_json, config_hash
from drorae.errors import UserError
from drorae.storage.cache import Cache

STEPS = 6


def _raise() -> None:
    raise RuntimeError("it never works")


def _leak() -> None:
    raise RuntimeError("no answer from postgresql://alice:s3cret@host/db?password=s3cret or https://s3cret@host")


DEATHS: dict[str, Callable[[], object]] = {
    "always": _raise,
    "leak": _leak,
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "crash": lambda: ctypes.string_at(0),
    "leave": lambda: os._exit(3),
    "exit": lambda: sys.exit(1),
}
"""Ways to die at the same step in every attempt."""


def _trouble(config: TrialConfig) -> dict[str, str]:
    return dict(part.split("=") for part in config.encoder.path.split("&") if part)


def prepare(config: TrialConfig, runtime: Runtime, report: Callable[[dict[str, Any]], None]) -> None:
    report({"phase": "prepare", "note": "encoding", "done": 1.0, "total": 2.0})
    report({"phase": "phase1", "step": 1.0, "loss": 0.9, "total_steps": 1.0})
    time.sleep(float(_trouble(config).get("prepare", 0)))
    cache = Cache(runtime.cache_dir)
    cache.local.mkdir(parents=True, exist_ok=True)
    cache.fetch("prepared.log")
    with (cache / "prepared.log").open("a") as file:
        file.write(f"{os.getpid()}\n")
    cache.share("prepared.log")
    if config.images.path == "nowhere":
        raise UserError("nowhere: no such folder")


def run_trial(
    config: TrialConfig, report: Callable[[dict[str, Any]], None], *, directory: Path, runtime: Runtime
) -> None:
    with FileLock(directory / ".lock"):
        if (directory / "result.json").is_file():
            return
        with (directory / "attempts.log").open("a") as file:
            file.write(f"{os.getpid()} {runtime.threads}\n")
        attempt = len((directory / "attempts.log").read_text().splitlines())
        checkpoint = directory / "checkpoint.json"
        rows: list[dict[str, Any]] = json.loads(checkpoint.read_text()) if checkpoint.is_file() else []
        for row in rows:
            report(row)
        trouble = _trouble(config)
        width = config.fusion.expert_hidden_dim
        if str(width) in trouble.get("user", "").split("+"):
            raise UserError("fusion: a width\nnobody can use")
        for step in range(len(rows) + 1, STEPS + 1):
            time.sleep(float(trouble.get("sleep", 0.01)))
            loss = 1 / (step + width)
            rows.append({"phase": "phase2", "step": float(step), "epoch": step / 2, "loss": loss, "lr": 1e-3})
            report(rows[-1] | {"total_steps": float(STEPS)})
            for how, die in DEATHS.items() if step == STEPS // 2 else ():
                if str(width) in trouble.get(how, "").split("+"):
                    die()
            checkpoint.write_text(json.dumps(rows))
            if step <= STEPS // 2 and str(width) in trouble.get("steps", "").split("+"):
                os.kill(os.getpid(), signal.SIGKILL)
            if step >= STEPS // 2:
                if str(width) in trouble.get("once", "").split("+") and attempt == 1:
                    raise RuntimeError("it does not work at first")
                if str(width) in trouble.get("kill", "").split("+") and attempt == 1:
                    os.kill(os.getpid(), signal.SIGKILL)
        if str(width) in trouble.get("cut", "").split("+"):
            while not (others := sorted(directory.parent.glob("*/result.json"))):
                time.sleep(0.05)
            others[0].write_bytes(b"")
        generator = np.random.default_rng([width, config.seed])
        pictures = generator.integers(0, 255, (3, 2, 8, 8, 3)).astype(np.uint8)
        np.savez(
            directory / "samples.npz",
            original=pictures[0],
            phase1=pictures[1],
            fused=pictures[2],
            routing=generator.normal(size=(2, 3, 2, 2)),
        )
        np.savez(directory / "per_image.npz", psnr=np.arange(4.0))
        (directory / "config.json").write_text(canonical_json(config))
        (directory / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        # With peak=1 there is a best learning rate, the lower the wider.
        off = np.log10(config.phase2.lr * width / 0.02) if "peak" in trouble else 0.0
        # With noise=0.1 the law scatters, and with slope=0 there is none.
        noise = float(trouble.get("noise", 0)) * np.random.default_rng([config.seed, width]).normal()
        law = float(trouble.get("slope", 1)) * np.log10(width) + noise
        metrics = {"psnr": 10 + law - off**2, "ssim": 0.5, "l1": 0.1, "rfd_dinov2": 100.0 - width}
        result = {
            "config_hash": config_hash(config),
            "status": "finished",
            "variant": config.fusion.variant,
            "expert_hidden_dim": width,
            "num_layers": 12,
            "seed": config.seed,
            "fusion_params": 1000 * width,
            "fusion_params_paper": 1000 * width,
            "metrics": metrics | {"rfd_effnet": 1.0, "eval_images": 4},
            "baseline": {"psnr": 9.0},
            "gain": {"psnr": metrics["psnr"] - 9.0, "psnr_se": 0.1},
            "eval_images": 4,
            "train_seconds": 1.5,
            "eval_seconds": 0.5,
            "device_seconds": 2.0,
            "train_flops": 1e9 * width,
            "reason": "",
            "provenance": {"git_commit": "abc", "fingerprint.encoder": "def"},
        }
        (directory / "result.json").write_text(json.dumps(result))
