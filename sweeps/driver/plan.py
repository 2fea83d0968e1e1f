"""What a sweep still has to do, from its spec and from what its folder holds already."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from drorae.config import TrialConfig, config_hash, is_moved, load_config, shared_key
from drorae.errors import UserError
from drorae.machine.capacity import check_share
from drorae.trial.folder import CONFIG, ENDED, INPUTS, read_outcome, read_tree
from sweeps.checks import roles
from sweeps.driver.cluster import alive_nodes, cluster_address
from sweeps.driver.home import Home
from sweeps.driver.search import Studies
from sweeps.folder.migration import migrate
from sweeps.folder.sweep import SweepRecord, read_record
from sweeps.resources import Share, check_shares, most_memory
from sweeps.settings import RUN_TRIAL, Settings
from sweeps.spec import Search, SweepSpec, expand, varied_fields


def is_done(directory: Path) -> bool:
    """Whether the trial of a folder has ended for good."""
    return read_outcome(directory)["status"] in ENDED


class SweepPlan:
    """The trials of a sweep, and which of them are missing.

    Args:
        spec: the sweep.
        basis: its trials by config hash; of a search, those that it starts from.
        home: its folder, with a sweep.json and what the store holds.

    Raises:
        UserError: the folder holds another sweep.
    """

    def __init__(self, spec: SweepSpec, basis: dict[str, TrialConfig], home: Home) -> None:
        self.basis, self.trials = basis, home.trials
        self.former = migrate(home.directory, home.mirror)
        """Today's hashes of trials that an earlier version knew by another."""
        record = read_record(home.directory)
        self._check(record, spec)
        self.sweep_id = record.id
        self.known_address = record.tracking
        """Where the sweep was recorded before; None where it never was."""
        self.studies = Studies(home.studies, spec, home.trials) if spec.search else None
        self.configs = self.studies.configs if self.studies else basis
        """Every trial known so far, by config hash."""
        done = {key for key in self.configs if is_done(home.trials / key)}
        self.missing = [key for key in self.configs if key not in done]
        if self.studies is not None:
            self.missing = [] if self.studies.finished else list(basis)
        paths = {key: home.trials / key / CONFIG for key in self.configs if key in done}
        self.moved = [key for key, path in paths.items() if path.is_file() and _is_elsewhere(path, self.configs[key])]
        """Trials that are done, but with data or weights at other places, which must hold the same."""
        self.roles = roles(spec)
        """What trials that are no points of the law are there for, by config hash."""
        varied = varied_fields([config for key, config in basis.items() if key not in self.roles])
        varied += [item.field for item in spec.search.ranges] if spec.search else []
        self.varied = list(dict.fromkeys(varied))

    def _check(self, record: SweepRecord, spec: SweepSpec) -> None:
        """Raises UserError where the trials of a sweep.json are not all among these."""
        # A call that was interrupted before it began a trial binds nobody.
        keys = {self.former.get(key, key) for key in record.trials}
        before = {key for key in keys if (self.trials / key).exists()}
        search = record.spec.search
        if search is not None:
            before = {config_hash(config) for config in expand(record.spec)}
        # Which trials are its ends may change as a sweep grows, and checking them may be left out.
        before -= roles(record.spec).keys()
        folder, remedy = self.trials.parent, "give this one another --name, or rename the folder"
        if lost := before - set(self.basis):
            raise UserError(
                f"{folder}: holds another sweep ({len(lost)} of its {len(before)} trials are not in this one); {remedy}"
            )
        # More trials of the same search go on with its studies.
        if _but_trials(search) != _but_trials(spec.search):
            raise UserError(f"{folder}: holds a sweep with another search, or with none; {remedy}")

    @property
    def total(self) -> int:
        """Trials that will have been run, as far as is known."""
        return len(self.configs) if self.studies is None else self.studies.total

    @property
    def unprepared(self) -> dict[str, TrialConfig]:
        """The trials whose shared parts are to be made or compared, by config hash."""
        return {key: self.basis[key] for key in self.missing} | {key: self.configs[key] for key in self.moved}

    def inputs(self) -> dict[str, dict[str, str]]:
        """Fingerprints that trials were made from so far, by what they share.

        The decoder's address is left out: it may be another one to a later version, whatever the weights are.
        """
        found: dict[str, dict[str, str]] = {}
        for key, config in self.configs.items():
            known = found.setdefault(config_hash(shared_key(config)), {})
            with contextlib.suppress(OSError, ValueError):
                known |= read_tree(self.trials / key, INPUTS)
            if digest := read_outcome(self.trials / key).get("weights", {}).get("phase1_decoder"):
                known["phase1_weights"] = digest
            known.pop("phase1_decoder", None)
        return found


def _is_elsewhere(path: Path, config: TrialConfig) -> bool:
    """Whether a trial was made with data or weights at other places, as far as its config.json can be read."""
    try:
        return is_moved(load_config(path), config)
    except UserError:
        # Damaged, as by a power cut: where they lay is not known, and the file is written again.
        return True


def _but_trials(search: Search | None) -> Search | None:
    return None if search is None else replace(search, trials=0)


def plan_shares(missing: Sequence[TrialConfig], settings: Settings, on_disk: bool) -> Callable[[TrialConfig], Share]:
    """Returns what a trial gets, once the cluster is known to have it for those that are missing.

    Args:
        missing: trials still to be run.
        settings: of the sweep.
        on_disk: whether the sweep's folder is on a disk, and not in a store.

    Raises:
        UserError: it has not, or the numbers make no sense.
    """
    resources, runtime = settings.resources, settings.runtime
    nodes = [node["Resources"] for node in alive_nodes()] if missing else []
    gpus_seen = runtime.device in ("auto", "cuda") and any(node.get("GPU", 0) >= 1 for node in nodes)
    shares = [resources.share(config, gpus_seen) for config in missing]
    if not on_disk and any(share.processes > 1 for share in shares):
        raise UserError(
            "--root: trials of several processes need a folder on a disk that all nodes share; give a path, or "
            "--processes 1"
        )
    if not resources.autoscaling:
        check_shares(shares, nodes, runtime.device)
        if cluster_address(resources.address) and settings.run_trial == RUN_TRIAL:
            for config, share in zip(missing, shares, strict=True):
                check_share(config, runtime, share.gpus, share.processes, most_memory(nodes, share))
    return lambda config: resources.share(config, gpus_seen)
