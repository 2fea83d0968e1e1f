"""Trials on real Ray that die: how often each is tried, and what is said of why."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from fake_sweep import sweep
from fake_trial import STEPS

from drorae.config import PRESETS, config_hash, override
from sweeps.driver.cluster import PRINTED_BYTES
from sweeps.spec import Axis, SweepSpec, expand

pytestmark = [pytest.mark.usefixtures("ray"), pytest.mark.slow]


def test_what_gets_further_is_tried_on_and_what_does_not_is_given_up_with_its_reason(tmp_path: Path) -> None:
    widths = (4, 8, 16, 32, 64)
    base = override(PRESETS["smoke"], "encoder.path", "steps=4&killed=8&crash=16&leave=32&exit=64")
    spec = SweepSpec("dying", base, (Axis("capacity", widths),))
    outcome = sweep(spec, tmp_path, max_failures=1)
    table = pd.read_csv(outcome.trials_csv, keep_default_na=False).set_index("expert_hidden_dim")
    assert dict(table["status"]) == {4: "finished", **dict.fromkeys(widths[1:], "failed")}
    reasons = dict(table["reason"])
    assert "killed without a word (SIGKILL" in reasons[8]
    assert "died: Segmentation fault" in reasons[16] and "os._exit(3)" in reasons[32]
    assert reasons[64] == "SystemExit: 1"
    keys = {config.fusion.expert_hidden_dim: config_hash(config) for config in expand(spec)}
    logs = {width: outcome.directory / "trials" / key / "attempts.log" for width, key in keys.items()}
    tried = {width: len(log.read_text().splitlines()) for width, log in logs.items()}
    # Killed after each of its first steps, more often than is allowed in a row, the first goes on each time.
    assert tried == {4: STEPS // 2 + 1, **dict.fromkeys(widths[1:], 2)}


def test_what_a_worker_prints_takes_no_more_than_so_much_of_rays_folder() -> None:
    import ray

    @ray.remote
    def chatter() -> str:
        for _ in range(24_000):
            print("x" * 1000)
        return str(ray.get_runtime_context().get_worker_id())

    worker = ray.get(chatter.remote())
    logs = Path(ray.nodes()[0]["ObjectStoreSocketName"]).parent.parent / "logs"
    sizes = [path.stat().st_size for path in logs.glob(f"worker-{worker}*.out*")]
    assert sizes and 2**20 < sum(sizes) <= 2 * PRINTED_BYTES
