"""Eight trials that share the feature cache against eight that encode for themselves, in turn.

    python tests/benchmarks/benchmark_cache.py            # prints seconds and their ratio; about ten minutes on 2 cores

The cache starts empty: the first cached trial pays for the encoding. Phase 1 is trained before, for both.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from pathlib import Path

from drorae.config import PRESETS, Runtime, TrialConfig, override
from drorae.trial.run import prepare, run_trial


def main() -> None:
    """Runs the comparison and prints it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--images", type=int, default=1000, help="training images; half as many for validation")
    parser.add_argument("--hidden", type=int, default=64, help="expert hidden dim")
    options = parser.parse_args()
    config: TrialConfig = PRESETS["quickstart"]
    for name, value in (
        ("images.train_images", options.images),
        ("images.val_images", options.images // 2),
        ("phase1.epochs", 1),
        ("fusion.expert_hidden_dim", options.hidden),
    ):
        config = override(config, name, value)
    with tempfile.TemporaryDirectory() as folder:
        online = Runtime(device="cpu", cache_dir=str(Path(folder) / "cache"), features="online")
        cached = dataclasses.replace(online, features="cache")
        prepare(config, online)
        seconds = {"cache": 0.0, "online": 0.0}
        for seed in range(options.trials):
            for name, runtime in (("cache", cached), ("online", online)):
                started = time.perf_counter()
                trial = dataclasses.replace(config, seed=seed)
                run_trial(trial, directory=Path(folder) / f"{name}{seed}", runtime=runtime)
                seconds[name] += time.perf_counter() - started
                print(f"{name} seed {seed}: {time.perf_counter() - started:.1f} s", flush=True)
    ratio = seconds["online"] / seconds["cache"]
    cache, encoded = seconds["cache"], seconds["online"]
    print(f"{options.trials} trials: cache {cache:.0f} s, online {encoded:.0f} s, ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
