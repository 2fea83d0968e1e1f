"""The part of a pack that its first trial's worker does: phase 2 of all of them, and their generators."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from drorae.config import Runtime, TrialConfig, load_config
from drorae.errors import UserError, one_line
from drorae.trial.folder import CONFIG, FAILURE, LEASE
from sweeps.folder.lease import Lease

Report = Callable[[dict[str, float | str]], None]


def train_pack(
    trials: Path, key: str, others: tuple[str, ...], config: TrialConfig, report: Report, runtime: Runtime
) -> str:
    """Trains phase 2 of a trial and of those of its pack that no other worker is at; on a GPU their generators, too.

    Returns why they are to be trained one by one after all; empty where nothing went wrong.

    Args:
        trials: folder of all.
        key: the trial that this worker is at.
        others: the rest of its pack, whose leases are taken meanwhile.
        config: of the trial that this worker is at.
        report: called with its rows; what it raises is raised.
        runtime: device, threads, cache.
    """
    from drorae.trial.generator_pack import train_generators
    from drorae.trial.pack import train_pack as train
    from drorae.trial.shared import choose_device

    with contextlib.ExitStack() as stack:
        leases: list[Lease] = []
        pack = {trials / key: config}
        try:
            for other in others:
                directory, lease = trials / other, Lease(trials / other / LEASE)
                if not (directory / FAILURE).is_file() and lease.acquire(wait=False):
                    leases.append(stack.enter_context(lease))
                    pack[directory] = load_config(directory / CONFIG)

            def watched(row: dict[str, float | str]) -> None:
                report(row)
                for lease in leases:
                    lease.check()

            train(pack, watched, runtime=runtime)
            # On a CPU a pack of them is no faster than one after the other, and other workers' cores would wait for it.
            if choose_device(runtime).type == "cuda":
                train_generators(pack, watched, runtime=runtime)
        except UserError as error:
            return one_line(error)
    return ""
