"""Several gloo processes of a test on this machine, which run one function and give back what it returns."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from children import forking

TIMEOUT = 300


def _process(rank: int, world: int, folder: Path, said: Any, work: Callable[..., Any], arguments: Any) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    try:
        said.put((rank, work(*arguments)))
    except Exception as error:
        said.put((rank, error))
    # Nobody leaves while another may still send.
    said.close()
    said.join_thread()


def in_processes(world: int, folder: Path, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What `work(*arguments)` of a module returns in each of `world` processes; an exception stands for itself."""
    folder.mkdir(parents=True, exist_ok=True)
    context = forking()
    said = context.Queue()
    processes = [
        context.Process(target=_process, args=(rank, world, folder, said, work, arguments), daemon=True)
        for rank in range(world)
    ]
    for process in processes:
        process.start()
    found = dict(said.get(timeout=TIMEOUT) for _ in processes)
    for process in processes:
        process.join(TIMEOUT)
        assert process.exitcode is not None
    (folder / "meet").unlink(missing_ok=True)
    return [found[rank] for rank in range(world)]
