"""A sweep's folder as an earlier version left it: its trials are found under the hashes that they have today."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from drorae.config import config_hash, load_config, to_dict
from drorae.errors import UserError
from drorae.storage.files import write_json
from drorae.storage.remote import patiently
from drorae.trial.folder import CONFIG, LEASE
from sweeps.folder.mirror import Mirror
from sweeps.folder.sweep import TRIALS, read_record, trial_place
from sweeps.spec import labelled


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
    record, trials = read_record(directory), directory / TRIALS
    today = dict(record.former_hashes)
    configs = {}
    for old in [*record.trials, *today]:
        if (path := trials / old / CONFIG).is_file():
            try:
                config = labelled(load_config(path), record.spec)
            except UserError:
                # Damaged: what it cannot tell, the folder's name does, and the plan has it written again.
                continue
            if (new := config_hash(config)) != old:
                today[old], configs[old] = new, config
    if configs:
        replace(record, former_hashes=today).write(directory)
    for old, config in configs.items():
        _rename(directory, old, today[old], mirror)
        write_json(trials / today[old] / CONFIG, to_dict(config))
    return today


def _rename(directory: Path, old: str, new: str, mirror: Mirror | None) -> None:
    there, here = directory / trial_place(old), directory / trial_place(new)
    if mirror is None:
        if not here.exists():
            there.rename(here)
        return
    patiently(lambda: mirror.pull(trial_place(old)))
    shutil.rmtree(here, ignore_errors=True)
    there.rename(here)
    # Of a worker that is long gone.
    (here / LEASE).unlink(missing_ok=True)
    patiently(lambda: mirror.push(trial_place(new)))
    former = mirror.remote / trial_place(old)
    for name in patiently(former.files):
        (former / name).delete()
