"""Packs: trials of a sweep whose phase 2 one worker trains together, and the order in which trials then run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from drorae.config import TrialConfig, canonical_json, pack_key
from drorae.errors import UserError
from sweeps.resources import Share
from sweeps.settings import RUN_TRIAL, Settings
from sweeps.spec import Search

Packs = Mapping[str, tuple[str, ...]]
"""By the trial whose worker trains phase 2 of all, the other trials of its pack."""


def check_packs(settings: Settings, search: Search | None, on_disk: bool) -> None:
    """Checks that trials can be packed where they are to be.

    Raises:
        UserError: they cannot: what is searched or ended early depends on what trials have measured one by one, other
            functions than drorae's know no packs, packs are not compiled, and in a store a worker has its own trial's
            folder alone.
    """
    if settings.pack < 2:
        return
    if search is not None or settings.pruner_of(search) != "none":
        what = "--tune" if search is not None else "--pruner"
        raise UserError(f"--pack: {what} decides by what single trials do; use --pack 0 or drop {what}")
    if settings.run_trial != RUN_TRIAL:
        raise UserError(f"pack: {settings.run_trial} trains its trials one by one; leave pack at 0")
    if settings.runtime.compile:
        raise UserError("--compile: trials that are trained together are not compiled; use --pack 0 or drop --compile")
    if not on_disk:
        raise UserError("--pack: trials of a pack need a folder on a disk; give --root a path, or use --pack 0")


def packs_of(trials: Mapping[str, TrialConfig], size: int, share_of: Callable[[TrialConfig], Share]) -> Packs:
    """Groups trials into packs of at most `size`, as equal as can be; a trial that fits no other is in none.

    Args:
        trials: by config hash.
        size: below 2 there are no packs.
        share_of: what a trial gets of a node. Those of several processes train alone.
    """
    groups: dict[str, list[str]] = {}
    for key, config in trials.items() if size > 1 else ():
        share, common = share_of(config), pack_key(config)
        if common is not None and share.processes == 1:
            groups.setdefault(canonical_json({"trials": common, "share": str(share)}), []).append(key)
    packs = {}
    for keys in groups.values():
        count = math.ceil(len(keys) / size)
        for number in range(count):
            first, *others = keys[len(keys) * number // count : len(keys) * (number + 1) // count]
            if others:
                packs[first] = tuple(others)
    return packs


def in_order(keys: Sequence[str], packs: Packs) -> list[str]:
    """Returns the order to run trials in: first those that train a whole pack, last those that then only measure.

    These follow one another by packs: a worker keeps what a pack's trials share.
    """
    led = {key: number for number, others in enumerate(packs.values(), 1) for key in others}
    return sorted(keys, key=lambda key: (key not in packs, led.get(key, 0)))
