"""Eight trials that share the feature cache against eight that encode for themselves, in turn.

    python tests/benchmarks/benchmark_encoding.py         # about three minutes on 2 cores

The cache starts empty: the first cached trial pays for the encoding. Phase 1 is trained before, for both.
"""

from __future__ import annotations

import dataclasses
import itertools
import tempfile
from functools import partial
from pathlib import Path

from alternate import alternate, arguments, record

from drorae.config import PRESETS, Runtime, TrialConfig, override
from drorae.trial.run import prepare, run_trial


def main() -> None:
    """Runs the comparison and records it."""
    parser = arguments(__doc__)
    parser.set_defaults(rounds=8)
    parser.add_argument("--images", type=int, default=256, help="training images; half as many for validation")
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
        seeds = {name: itertools.count() for name in ("cache", "online")}

        def trial(name: str, runtime: Runtime) -> None:
            seed = next(seeds[name])
            of_seed = dataclasses.replace(config, seed=seed)
            run_trial(of_seed, directory=Path(folder) / f"{name}{seed}", runtime=runtime)

        things = {"cache": partial(trial, "cache", cached), "online": partial(trial, "online", online)}
        found = alternate(f"a trial of {options.images} images", things, rounds=options.rounds, warm_up=False)
    sums = [sum(seconds) for seconds in found.seconds.values()]
    note = (
        f"All trials, the first encoding included: {sums[0]:.0f} s and {sums[1]:.0f} s, ratio {sums[1] / sums[0]:.2f}."
    )
    record("encoding", [found], options.out, note)


if __name__ == "__main__":
    main()
