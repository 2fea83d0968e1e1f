"""The images and weights that a trial is made from: noted when it begins, and compared ever after."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path

from drorae.config import Runtime, TrialConfig, config_hash, shared_key
from drorae.errors import UserError
from drorae.storage.cache import Cache
from drorae.storage.files import write_json
from drorae.trial.folder import INPUTS, read_tree
from drorae.trial.shared import decoder_place


def note_prepared(config: TrialConfig, cache: Cache, fingerprints: Mapping[str, str]) -> None:
    """Notes in the cache what a preparation was made from, for the trials that share it, where that is not noted."""
    name = _prepared(config)
    with contextlib.suppress(FileNotFoundError, ValueError):
        if json.loads((cache / name).read_text()) == fingerprints:
            return
    with cache.naming_unwritable():
        write_json(cache / name, fingerprints)
    cache.share(name)


def _prepared(config: TrialConfig) -> str:
    return f"prepared/{config_hash(shared_key(config))}.json"


def check_inputs(config: TrialConfig, runtime: Runtime, directory: Path, found: Mapping[str, str]) -> None:
    """Compares fingerprints with those of the trial's first sitting, or else with those of its preparation.

    Args:
        config: the trial.
        runtime: whose cache has the preparation.
        directory: the trial's folder.
        found: fingerprints by name (`Workshop.fingerprints`).

    Raises:
        UserError: images or weights have changed since.
    """
    since = "this trial began"
    remedy = f"put it back, choose another folder (--out, a sweep's --name), or rename {directory}"
    try:
        before: dict[str, str] = read_tree(directory, INPUTS)
    except ValueError:
        return
    except FileNotFoundError:
        cache, name = Cache(runtime.cache_dir), _prepared(config)
        cache.fetch(name, anew=True)
        try:
            before = json.loads((cache / name).read_text())
        except (FileNotFoundError, ValueError):
            return
        since = "this trial was prepared"
        remedy = "put it back, or prepare again, as every new call of the sweep does"
    check_same(config, runtime, before, found, since, remedy)


def check_same(
    config: TrialConfig,
    runtime: Runtime,
    before: Mapping[str, str],
    found: Mapping[str, str],
    since: str,
    remedy: str,
) -> None:
    """Compares fingerprints by name; those that either side lacks pass.

    Args:
        config: a trial that is made from them.
        runtime: whose cache has the phase-1 decoder.
        before: what they were.
        found: what they are.
        since: of what the former are, for the message: `this trial began`.
        remedy: what to do where one differs, for the message.

    Raises:
        UserError: one is another than it was; the message says since when, and the remedy.
    """
    for name, fingerprint in found.items():
        if before.get(name, fingerprint) != fingerprint:
            where = f" ({config.images.path})" if name.startswith("images_") and config.images.path else ""
            if name == "phase1_weights":
                where = f" ({decoder_place(config, runtime, found)})"
            what = f"{name}{where} was {before[name][:12]} and is {fingerprint[:12]} now"
            raise UserError(f"{what}: changed since {since}; {remedy}")
