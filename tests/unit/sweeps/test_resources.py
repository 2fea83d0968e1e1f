"""What trials get of a cluster, and what no node can hold."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import tiny_config

from drorae.config import PRESETS, Runtime
from drorae.errors import UserError
from drorae.machine.capacity import check_share
from sweeps.parsing import parse_rule
from sweeps.resources import Resources, Share, check_shares, most_memory


def test_the_nodes_that_trials_run_on_are_the_ones_that_count() -> None:
    head = {"CPU": 0.0, "memory": 500e9}
    small, large = {"CPU": 8.0, "memory": 6e9, "object_store_memory": 2e9}, {"CPU": 8.0, "GPU": 4.0, "memory": 64e9}
    assert most_memory([head, small], Share(4.0)) == 8e9
    assert most_memory([head, small, large], Share(4.0)) == 64e9
    paper, smoke = PRESETS["paper"], PRESETS["smoke"]
    check_share(smoke, Runtime(), 0.0, 1, 8e9)
    check_share(paper, Runtime(), 1.0, 1, 8e9)
    with pytest.raises(UserError, match=r"this cluster .* a CUDA GPU .* GB of GPU memory"):
        check_share(paper, Runtime(), 0.0, 1, 8e9)


@pytest.mark.parametrize(
    ("resources", "width", "expected"),
    [
        (Resources(), 8, Share(1, 1, 1)),
        (Resources(gpus=0.25), 8, Share(1, 0.25, 1)),
        (Resources(cpus=8, gpus=4), 8, Share(8, 4, 4)),
        (Resources(rules=(parse_rule("capacity=64,128:gpus=2,cpus=4"),)), 128, Share(4, 2, 2)),
        (Resources(rules=(parse_rule("capacity=64,128:gpus=2,cpus=4"),)), 8, Share(1, 1, 1)),
        (Resources(gpus=0, processes=3), 8, Share(1, 0, 3)),
        (Resources(rules=(parse_rule("capacity=8:gpus=2"), parse_rule("seed=0:gpus=0"))), 8, Share(1, 0, 1)),
    ],
)
def test_each_trial_gets_its_share(resources: Resources, width: int, expected: Share) -> None:
    from drorae.config import FusionConfig, TrialConfig

    assert resources.share(TrialConfig(fusion=FusionConfig(expert_hidden_dim=width)), gpus_seen=True) == expected


@pytest.mark.parametrize(
    ("share", "message"),
    [
        (Share(5), "5 CPUs and 0 GPUs, Ray sees 6 and 2, on 2 nodes"),
        (Share(1, 2, 1), "1 CPUs and 2 GPUs"),
        (Share(8, 0, 8), "in 8 processes"),
        (Share(2, 4, 4), "4 GPUs in 4 processes"),
    ],
)
def test_what_no_node_can_hold_is_said_before_anything_waits(share: Share, message: str) -> None:
    nodes = [{"CPU": 4.0, "GPU": 1.0}, {"CPU": 2.0, "GPU": 1.0}]
    with pytest.raises(UserError, match=message):
        check_shares([Share(1), share], nodes, "auto")
    check_shares([Share(4), Share(6, 0, 6), Share(2, 2, 2), Share(0.1, 0.1)], nodes, "auto")


def test_numbers_that_make_no_sense() -> None:
    config = tiny_config(Path("nowhere"))
    for resources in (Resources(cpus=0), Resources(gpus=1.5), Resources(processes=0), Resources(gpus=4, processes=2)):
        with pytest.raises(UserError, match="resources"):
            resources.share(config, False)
