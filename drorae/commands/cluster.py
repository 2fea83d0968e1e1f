"""`drorae cluster`: scripts that start a Ray cluster for a sweep."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional

from drorae.commands.options import Count, option, require, write_text
from drorae.commands.sweep import Sweep
from drorae.commands.terminal import say
from drorae.errors import UserError
from drorae.storage.remote import locate

_WORD = re.compile(r"[\w.,:@%+/-]*", re.ASCII)
_TIME = re.compile(r"|\d+(:\d\d){0,2}|\d+-\d+(:\d\d){0,2}", re.ASCII)


@dataclass(kw_only=True)
class Cluster:
    """Write a batch script that starts a Ray cluster on the nodes of a Slurm allocation and runs a sweep on it.

    The sweep's own command follows after --. A job that is submitted again, or that Slurm starts again, goes on.

    Example: drorae cluster slurm --nodes 4 --gpus-per-node 8 --out job.sh -- drorae sweep --preset paper --name mine
    """

    scheduler: Positional[Literal["slurm"]]
    """What the script is for."""
    out: Annotated[Path | None, option("FILE", "default: stdout")] = None
    """File to write the script to."""
    nodes: Count = 1
    """Nodes."""
    gpus_per_node: Count = 0
    """GPUs of each."""
    cpus_per_task: Count = 4
    """CPUs of each."""
    time: Annotated[str, option("TIME", "default: the partition's")] = ""
    """Time limit as Slurm takes it: 24:00:00, 2-12. 5 minutes before it ends the sweep stops in order."""
    partition: Annotated[str, option("NAME", "default: the cluster's")] = ""
    """Partition."""
    account: Annotated[str, option("NAME", "default: the user's")] = ""
    """Account that is charged."""
    job_name: Annotated[str, option("NAME")] = "drorae"
    """Name of the job, and of its log."""
    setup: Annotated[str, option("LINE", "default: nothing")] = ""
    """A line of bash that every node runs first, such as 'module load cuda && source .venv/bin/activate'."""
    container: Annotated[str, option("IMAGE")] = "none"
    """Apptainer image that Ray and the sweep run in; none: in none."""
    requeue: bool = False
    """Put the job back into the queue where its time ends before the sweep does; it goes on with drorae resume."""
    sweep: Sweep | None = field(init=False, default=None)
    words: tuple[str, ...] = field(init=False, default=())

    def follow(self, sweep: Sweep, words: tuple[str, ...]) -> None:
        """Takes the sweep's command: as it was parsed, and its words."""
        self.sweep, self.words = sweep, words

    def run(self) -> int:
        """Writes the script."""
        from sweeps.driver.slurm import Allocation, batch_script

        if self.sweep is None:
            raise UserError("drorae cluster: no sweep; end the command with, say, -- drorae sweep --preset capacity")
        sweep = self.sweep
        require(not sweep.address, "--address", "none after --, as the script names the cluster that it starts")
        require(not sweep.dry_run, "--dry-run", "a sweep after -- that runs; look at its plan without a cluster")
        for name, least in (("nodes", 1), ("gpus_per_node", 0), ("cpus_per_task", 1)):
            given = getattr(self, name)
            require(given >= least, f"--{_dashed(name)} {given}", f"{least} or more")
        for name in ("partition", "account", "job_name"):
            given = getattr(self, name)
            require(bool(_WORD.fullmatch(given)), f"--{_dashed(name)} {given!r}", "a name without spaces or quotes")
        require(bool(self.job_name), "--job-name ''", "a name")
        require(bool(self.container), "--container ''", "an image, or none")
        require(bool(_TIME.fullmatch(self.time)), f"--time {self.time!r}", "MINUTES, HH:MM:SS, D-HH or D-HH:MM:SS")
        asked = {item: getattr(self, item) for item in Allocation.__dataclass_fields__}
        where = (sweep.spec().name, "--root", str(locate(sweep.root)))
        kept = [*(["--no-fit"] if sweep.no_fit else []), *(["--json"] if sweep.as_json else [])]
        kept += ["--notify", sweep.notify] if sweep.notify is not None else []
        script = batch_script(
            Allocation(**asked), ("sweep", *self.words), ("resume", *where, *kept), ("status", *where)
        )
        if self.out is None:
            print(script, end="")
        else:
            write_text(self.out, script)
            say(f"written; submit it: sbatch {shlex.quote(str(self.out))}")
        return 0


def _dashed(name: str) -> str:
    return name.replace("_", "-")
