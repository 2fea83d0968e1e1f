"""What trials ask of a cluster: CPUs, GPUs and processes, for all of them or for some, and whether a node has it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from drorae.config import TrialConfig
from drorae.errors import UserError
from sweeps.spec import Axis, read_field


@dataclass(frozen=True)
class Share:
    """What one trial gets."""

    cpus: float = 1.0
    gpus: float = 0.0
    """A fraction shares a GPU with other trials."""
    processes: int = 1
    """Processes that train it together, each with an equal part of the CPUs and GPUs."""

    def one(self) -> dict[str, float]:
        """What one process of the trial asks of Ray."""
        return {"CPU": self.cpus / self.processes, "GPU": self.gpus / self.processes}

    def __str__(self) -> str:
        return f"{self.cpus:g} CPUs and {self.gpus:g} GPUs"


@dataclass(frozen=True)
class Rule:
    """Other resources for the trials in which a field has one of some values."""

    axis: Axis
    cpus: float | None = None
    gpus: float | None = None
    processes: int | None = None

    def fits(self, config: TrialConfig) -> bool:
        """Whether the rule is about this trial."""
        return read_field(config, self.axis.field) in self.axis.values


@dataclass(frozen=True)
class Resources:
    """What a trial gets, and how many run at once."""

    cpus: float = 1.0
    gpus: float | None = None
    """GPUs per trial, a fraction shares one; None: 1 where Ray sees GPUs, else 0."""
    processes: int | None = None
    """Processes per trial; None: one for each GPU."""
    rules: tuple[Rule, ...] = ()
    """Exceptions for some trials; of several that fit, the last counts."""
    max_concurrent: int = 0
    """At most so many trials at once; 0: as many as fit."""
    reuse_workers: bool | None = None
    """One process runs trial after trial, which saves starting it and importing torch; None: only without GPUs."""
    address: str = ""
    """A Ray cluster to join, for example `auto`; empty: a local one for this sweep. The nodes need the project
    installed and the sweep's and cache's folders at the same paths."""
    autoscaling: bool = False
    """The cluster starts nodes on demand: what trials ask for is not compared with the nodes there are."""

    def share(self, config: TrialConfig, gpus_seen: bool) -> Share:
        """What this trial gets; `gpus_seen`: whether it can have a GPU that nobody asked for.

        Raises:
            UserError: numbers that make no sense.
        """
        rule = next((rule for rule in reversed(self.rules) if rule.fits(config)), None)
        given = {name: value for name, value in vars(rule).items() if value is not None} if rule else {}
        cpus: float = given.get("cpus", self.cpus)
        gpus: float | None = given.get("gpus", self.gpus)
        processes: int | None = given.get("processes", self.processes)
        if gpus is None:
            gpus = float(gpus_seen)
        if cpus <= 0 or gpus < 0:
            raise UserError(f"resources: expected cpus above 0 and gpus of 0 or more, got {cpus:g} and {gpus:g}")
        if gpus > 1 and gpus != int(gpus):
            raise UserError(f"resources: {gpus:g} GPUs per trial; expected a fraction of one, or a whole number")
        processes = processes if processes is not None else max(1, int(gpus))
        if processes < 1:
            raise UserError(f"resources: {processes} processes per trial; expected 1 or more")
        if gpus and processes > 1 and gpus != processes:
            raise UserError(
                f"resources: {processes} processes on {gpus:g} GPUs; a process trains on one GPU, so ask for as many"
            )
        return Share(cpus, gpus, processes)


def check_shares(shares: Sequence[Share], nodes: Sequence[Mapping[str, float]], device: str) -> None:
    """Raises where a trial would wait for ever: each process fits a node, and all of a trial's the cluster.

    `nodes` are their resources as Ray names them.

    Raises:
        UserError: they do not fit, or trials for CUDA have no GPU.
    """
    if device.startswith("cuda") and any(share.gpus == 0 for share in shares):
        raise UserError("resources: device cuda with 0 GPUs per trial; give trials a GPU (a fraction will do)")
    for share in dict.fromkeys(shares):
        need = share.one()
        room = sum(min(times(node, name, amount) for name, amount in need.items() if amount) for node in nodes)
        if room < share.processes:
            cpus, gpus = (sum(node.get(name, 0.0) for node in nodes) for name in ("CPU", "GPU"))
            shape = f" in {share.processes} processes" if share.processes > 1 else ""
            where = f", on {len(nodes)} nodes" if len(nodes) > 1 else ""
            raise UserError(
                f"resources: a trial asks for {share}{shape}, Ray sees {cpus:g} and {gpus:g}{where}; ask for less"
            )


def most_memory(nodes: Sequence[Mapping[str, float]], share: Share) -> float:
    """Bytes of main memory of the largest node that has room for a process of such a trial."""
    need = share.one()
    fitting = [node for node in nodes if all(node.get(name, 0.0) >= amount for name, amount in need.items())]
    # Ray sets a part of it aside for objects, which grows only when they come.
    sizes = (node.get("memory", math.inf) + node.get("object_store_memory", 0.0) for node in fitting)
    return max(sizes, default=math.inf)


def times(node: Mapping[str, float], name: str, amount: float) -> int:
    """How many times over a node, or a cluster, has so much of a resource."""
    # Sums of fractions such as 10 x 0.1 must not fall short by rounding.
    return int(node.get(name, 0.0) / amount + 1e-6)
