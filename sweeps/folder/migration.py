"""A sweep's folder as an earlier version left it: its trials are found under the hashes that they have today."""

from __future__ import annotations

import shutil
from pathlib import Path

from drorae.config import config_hash, load_config, to_dict
from drorae.storage.files import write_json
from drorae.storage.remote import patiently
from sweeps.folder.mirror import Mirror
from sweeps.folder.status import read_spec
from sweeps.spec import SweepSpec, labelled


def migrate(directory: Path, mirror: Mirror | None) -> dict[str, str]:
    """Renames the folders of trials whose hash was another; returns today's hash by the former one.

    sweep.json keeps these from then on: MLflow may be away, and its runs have yet to follow. Safe to repeat after a
    kill at any moment.

    Args:
        directory: the sweep's folder, which this process alone works on.
        mirror: where that is the copy of a folder in a store.

    Raises:
        UserError: a config that cannot be read, such as one of a newer version.
        RemoteError: the store stays away.
    """
    tree = read_spec(directory)
    spec, trials = SweepSpec.from_dict(tree["spec"]), directory / "trials"
    today = dict(tree.get("former_hashes", {}))
    configs = {}
    for old in [*tree["trials"], *today]:
        if (path := trials / old / "config.json").is_file():
            config = labelled(load_config(path), spec)
            if (new := config_hash(config)) != old:
                today[old], configs[old] = new, config
    if configs:
        write_json(directory / "sweep.json", tree | {"former_hashes": today})
    for old, config in configs.items():
        _rename(directory, old, today[old], mirror)
        write_json(trials / today[old] / "config.json", to_dict(config))
    return today


def _rename(directory: Path, old: str, new: str, mirror: Mirror | None) -> None:
    there, here = directory / "trials" / old, directory / "trials" / new
    if mirror is None:
        if not here.exists():
            there.rename(here)
        return
    patiently(lambda: mirror.pull(f"trials/{old}"))
    shutil.rmtree(here, ignore_errors=True)
    there.rename(here)
    # Of a worker that is long gone.
    (here / "worker.lease").unlink(missing_ok=True)
    patiently(lambda: mirror.push(f"trials/{new}"))
    former = mirror.remote / "trials" / old
    for name in patiently(former.files):
        (former / name).delete()
